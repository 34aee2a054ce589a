"""Text that is put into a completion and was not sampled."""

from typing import Any

import numpy as np

from butwait.engines.engine import Prefix


def text_tokens(tokenizer: Any, text: str) -> np.ndarray:
    """int32 (n,): the tokens of ``text`` by a ``transformers`` tokenizer, none added around it.

    They are the tokenizer's for the text alone: nothing is merged with the tokens before, which
    stay as they were sampled.
    """
    return np.array(tokenizer.encode(text, add_special_tokens=False), np.int32)


def inserted(prefix: Prefix, token_ids: np.ndarray, text: str) -> Prefix:
    """``prefix``, of a path that has ended, and a text behind it.

    It has no handle: extending it costs a prefill.

    Args:
        prefix: a path so far.
        token_ids: int32 (n,), ``engine.encode(text)``.
        text: what is inserted.
    """
    joined = np.concatenate([prefix.token_ids, token_ids])
    return Prefix(joined, prefix.prompt_length, prefix.text + text)

"""Text to token ids, and token ids to text, a piece at a time, without breaking a character that
spans tokens."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from butwait.problems.tokens import special_tokens, tags, text_ids

UNFINISHED = "\ufffd"
"""What a decoder gives for bytes that are no whole character (yet)."""

WINDOW = 16
"""Tokens before the new ones that are decoded along with them: enough for a decoder that treats
the first token of a text differently (SentencePiece drops its space)."""


def text_tokens(tokenizer: Any, text: str) -> np.ndarray:
    """int32 (n,): the tokens of ``text`` by a ``transformers`` tokenizer, none added around it.

    They are the tokenizer's for the text alone: nothing is merged with the tokens before, which
    stay as they were sampled. Names of special tokens in it are text, but for tags
    (``problems.tokens.tags``).
    """
    return np.array(text_ids(tokenizer, text), np.int32)


class Detokenizer:
    """Text of completions, special tokens left out, but for tags (``problems.tokens.tags``).

    Args:
        tokenizer: a ``transformers`` tokenizer, or anything with its ``decode`` and
            ``batch_decode`` and a length.

    Attributes:
        left_out: the special tokens that no text shows, by id.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tags = tags(tokenizer)
        self.left_out = {
            i: name for i, name in special_tokens(tokenizer).items() if i not in self._tags
        }
        # The library's own wrapper takes four times as long as the tokenizer behind it, and every
        # step of every particle is decoded.
        self._backend = (
            tokenizer.backend_tokenizer if getattr(tokenizer, "is_fast", False) else None
        )

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of a whole completion. Spaces stay as they are, so that the text of a longer
        completion begins with the text of a shorter one."""
        leave_out = True
        if self._tags and not self._tags.keys().isdisjoint(token_ids):
            leave_out, token_ids = False, [i for i in token_ids if i not in self.left_out]
        if self._backend is not None:
            return self._backend.decode(token_ids, skip_special_tokens=leave_out)
        return self._tokenizer.decode(
            token_ids, skip_special_tokens=leave_out, clean_up_tokenization_spaces=False
        )

    @cached_property
    def pieces(self) -> list[str]:
        """What each token id adds to a text, for every id of the tokenizer.

        An id is decoded after another one, as a decoder may strip the first token. A token that
        holds part of a character shows as ``UNFINISHED``.
        """
        alone = (self.decode([i]) for i in range(len(self._tokenizer)))
        anchor = next(([i] for i, t in enumerate(alone) if t.isascii() and t.isalnum()), [])
        start = len(self.decode(anchor))
        texts = self._tokenizer.batch_decode(
            [[*anchor, i] for i in range(len(self._tokenizer))],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        pieces = [text[start:] for text in texts]
        for tag in self._tags:
            pieces[tag] = self.decode([*anchor, tag])[start:]
        return pieces


class GrowingText:
    """The text of a completion that grows, decoded in a window at its end.

    The text held here leaves out a character that is unfinished; it is whole again once its last
    token is there. So texts taken at any two moments differ by exactly what came between, and
    all of them together are the text of the whole completion.

    Args:
        detokenizer: decodes.
        token_ids: int (n,), the completion so far.
        text: its text, as an earlier ``GrowingText`` gave it.
    """

    def __init__(self, detokenizer: Detokenizer, token_ids: np.ndarray, text: str) -> None:
        self._detokenizer = detokenizer
        self._ids: list[int] = token_ids.tolist()
        self.text = text

    def __len__(self) -> int:
        """Tokens whose text is held."""
        return len(self._ids)

    def append(self, token_ids: Sequence[int], *, last: bool = False) -> None:
        """Adds tokens; with ``last`` an unfinished character is shown as it is."""
        first, offset = self._window()
        self._ids.extend(token_ids)
        text = self._detokenizer.decode(self._ids[first:])
        self.text += (text if last else text.rstrip(UNFINISHED))[offset:]

    def _window(self) -> tuple[int, int]:
        """Where to decode from, and how many characters of that are known already."""
        first = max(0, len(self._ids) - WINDOW)
        if first == 0:
            return 0, len(self.text)
        known = self._detokenizer.decode(self._ids[first:])
        # Cut characters at either end of the window: only the whole text is sure to fit.
        if not known or known[0] == UNFINISHED or known[-1] == UNFINISHED:
            return 0, len(self.text)
        return first, len(known)

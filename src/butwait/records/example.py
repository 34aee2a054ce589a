"""A training example: token ids, which of them carry loss, and where they came from."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Span:
    """A named stretch of the completion: tokens [start, end) and its text.

    ``role`` is one of solution (correct from the start on), mistake (wrong or dead), doubt (the
    phrase that ends a mistake), recovery (correct, after a doubt) and answer (the final answer
    behind closed thinking).
    """

    role: str
    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One example for supervised fine-tuning.

    Attributes:
        problem_id: the problem it solves.
        prompt_ids: int32 (p,).
        completion_ids: int32 (n,), ends in EOS.
        loss_mask: bool (n,), True where the token carries loss.
        spans: named stretches that cover the completion in order.
        prompt: the chat messages [{"role", "content"}, ...] that gave ``prompt_ids``.
        text: the completion's text.
        tokenizer_fingerprint: of the tokenizer that made the ids; a trainer with another one
            encodes the spans again.
        provenance: source stage, tree, nodes, inserted texts, key: enough to rebuild the
            example (``synthesis.pieces.rebuild``).
    """

    problem_id: str
    prompt_ids: np.ndarray
    completion_ids: np.ndarray
    loss_mask: np.ndarray
    spans: tuple[Span, ...]
    prompt: list[dict[str, str]]
    text: str
    tokenizer_fingerprint: str
    provenance: dict[str, Any] = field(default_factory=dict)

"""What a scripted engine speaks: a small reversible vocabulary and exact distributions over it."""

from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from butwait.engines.settings import Sampling
from butwait.records import UserError

EOS = "<eos>"
"""The piece that ends a completion. It has no text."""

Policy = Callable[[str, str], Mapping[str, float]]
"""From (question, completion so far) to the next pieces and their probabilities."""


class ScriptedTokenizer:
    """One token for each piece of a script.

    Ids: 0 is EOS, then the pieces in alphabetical order, then 256 bytes, which any other text
    (a question) is made of. It has as much of a ``transformers`` tokenizer's interface as the
    engines need.
    """

    eos_token_id = 0

    def __init__(self, pieces: Collection[str]) -> None:
        self._pieces = sorted(set(pieces) - {EOS})
        self._ids = {piece: i for i, piece in enumerate([EOS, *self._pieces])}
        self._bytes = [b"", *(piece.encode() for piece in self._pieces)]
        self._bytes += [bytes([b]) for b in range(256)]

    def __len__(self) -> int:
        return len(self._bytes)

    def id(self, piece: str) -> int:
        """The token of a piece; UserError where the script's vocabulary lacks it."""
        if piece not in self._ids:
            raise UserError(
                f"the script's vocabulary has no piece {piece!r}; add it to the pieces given"
            )
        return self._ids[piece]

    def encode(self, text: str) -> np.ndarray:
        """int32: the bytes of any text, as tokens."""
        first_byte = len(self._pieces) + 1
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32) + np.int32(first_byte)

    def encode_piece(self, text: str) -> np.ndarray:
        """int32: the one token of a piece; of any other text, its bytes."""
        piece = self._ids.get(text)
        return self.encode(text) if piece is None else np.array([piece], np.int32)

    def decode(self, token_ids: Sequence[int], **_: Any) -> str:
        """The text of tokens; EOS has none. Bytes that are no UTF-8 show as U+FFFD."""
        return b"".join(self._bytes[i] for i in token_ids).decode(errors="replace")

    def batch_decode(self, sequences: Sequence[Sequence[int]], **_: Any) -> list[str]:
        """``decode`` for many."""
        return [self.decode(token_ids) for token_ids in sequences]


@dataclass(frozen=True, slots=True)
class TokenDistribution:
    """What the next token may be, in the vocabulary's order.

    Attributes:
        ids: the tokens of positive probability.
        probabilities: theirs, as they are sampled; they sum to 1.
        logprobs: as they are reported, in nats.
        cumulated: running sums of ``probabilities``; the last is exactly 1.
    """

    ids: tuple[int, ...]
    probabilities: tuple[float, ...]
    logprobs: tuple[float, ...]
    cumulated: tuple[float, ...]

    def draw(self, uniform: float) -> int:
        """Index of the token at this point of [0, 1): the inverse CDF."""
        return bisect_right(self.cumulated, uniform)


def next_token(
    policy: Policy, tokenizer: ScriptedTokenizer, question: str, text: str
) -> tuple[np.ndarray, np.ndarray]:
    """The policy's own distribution after ``text``.

    Returns:
        int64 (n,) token ids in ascending order and float64 (n,) probabilities above zero.

    Raises:
        UserError: the probabilities are no distribution, or a piece is not in the vocabulary.
    """
    listed = policy(question, text)
    total = sum(listed.values())
    if abs(total - 1) > 1e-6 or min(listed.values(), default=0) < 0:
        raise UserError(
            f"the script's probabilities after {text!r} are no distribution (their sum is "
            f"{total:g}); make them non-negative with sum 1"
        )
    pairs = sorted((tokenizer.id(piece), p / total) for piece, p in listed.items() if p > 0)
    ids, probabilities = zip(*pairs, strict=True)
    return np.array(ids), np.array(probabilities)


def sampled(ids: np.ndarray, probabilities: np.ndarray, sampling: Sampling) -> TokenDistribution:
    """The distribution after temperature, top-k and top-p, in this order, as in ``transformers``.

    Greedy decoding (temperature 0) takes the first of the likeliest tokens and reports its
    log-probability under the untempered model.
    """
    if sampling.temperature == 0:
        best = int(np.argmax(probabilities))
        logprob = float(np.log(probabilities[best]))
        return TokenDistribution((int(ids[best]),), (1.0,), (logprob,), (1.0,))
    log_tempered = np.log(probabilities) / sampling.temperature
    tempered = np.exp(log_tempered - log_tempered.max())
    order = np.argsort(-tempered, kind="stable")
    if sampling.top_k:
        order = order[: sampling.top_k]
    if sampling.top_p < 1:
        shares = tempered[order] / tempered[order].sum()
        order = order[np.cumsum(shares) - shares < sampling.top_p]
    kept = np.sort(order)
    final = tempered[kept] / tempered[kept].sum()
    cumulated = np.cumsum(final)
    cumulated[-1] = 1.0
    return TokenDistribution(
        tuple(ids[kept].tolist()),
        tuple(final.tolist()),
        tuple(np.log(final).tolist()),
        tuple(cumulated.tolist()),
    )

"""What prompts have in common is run once: a few-shot or system prompt that all questions of a
stage begin with.

A *root* is such a beginning: its tokens, and the blocks of the cache that hold it. It takes no
slot, and its blocks are shared with every prompt that goes on from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from butwait.engines.slots import SlotModel

ROOTS = 4
"""Roots that are kept: those that were used last."""
LEAST = 16
"""Tokens of the shortest root."""
WORTH = 128
"""Tokens to be saved for a forward pass of their own: it costs as much as so many in company."""


@dataclass(frozen=True, slots=True, eq=False)
class Root:
    """int32 (n,) tokens, and the blocks that hold them."""

    tokens: np.ndarray
    blocks: np.ndarray


class SharedPrefixes:
    """The roots of a model with slots.

    In deterministic mode a root ends where a chunk does: whoever goes on from it is run in the
    chunks in which it would be run without it, and gets the same bits.
    """

    def __init__(self, model: SlotModel) -> None:
        self._model = model
        self._grain = model.prefill_chunk if model.deterministic else 1
        self._roots: list[Root] = []  # the one that was used last at the end
        self.saved_tokens = 0
        """Tokens that were not run, as a root held them."""

    def prefill(self, slots: Sequence[int], prompts: Sequence[np.ndarray]) -> None:
        """Runs prompts, int32 (n,) each, in empty slots of their own."""
        together = _families(prompts, list(range(len(prompts))), 0)
        groups = [([slots[i] for i in rows], [prompts[i] for i in rows]) for rows in together]
        common = [self._shared(theirs) for _, theirs in groups]
        for (members, theirs), length in zip(groups, common, strict=True):
            first = theirs[0][:length]
            done = self._adopt(members[0], first)
            if (len(members) - 1) * (length - done) >= WORTH:
                self._model.prefill([(members[0], done, first[done:])])
                self._keep(members[0], first)
            for slot, prompt in zip(members[1:], theirs[1:], strict=True):
                self._adopt(slot, prompt)
        starts = self._model.lengths[list(slots)].tolist()
        rows = zip(slots, starts, prompts, strict=True)
        self._model.prefill([(slot, start, prompt[start:]) for slot, start, prompt in rows])
        for (members, theirs), length in zip(groups, common, strict=True):
            self._keep(members[0], theirs[0][:length])

    def clear(self) -> None:
        """Gives all roots up."""
        while self._roots:
            self._model.drop(self._roots.pop().blocks)

    def trim(self, tokens: int) -> None:
        """Gives up roots that no path goes on from, the one longest unused first, until no more
        than so many tokens are held."""
        for root in list(self._roots):
            if self._model.held_tokens <= tokens:
                return
            if self._model.alone(root.blocks):
                self._roots.remove(root)
                self._model.drop(root.blocks)

    def _shared(self, prompts: Sequence[np.ndarray]) -> int:
        """The tokens of a root of these prompts."""
        return self._cut(min(_in_common(prompts[0], prompt) for prompt in prompts))

    def _cut(self, length: int) -> int:
        length -= length % self._grain
        return length if length >= LEAST else 0

    def _adopt(self, slot: int, prompt: np.ndarray) -> int:
        """Gives a slot what a root holds of a prompt. Returns the tokens."""
        lengths = [self._cut(_in_common(root.tokens, prompt)) for root in self._roots]
        length = max(lengths, default=0)
        if length:
            self._roots.append(self._roots.pop(lengths.index(length)))
            self._model.adopt(slot, self._roots[-1].blocks, length)
            self.saved_tokens += length
        return length

    def _keep(self, slot: int, tokens: np.ndarray) -> None:
        """Makes a root of what a slot holds, if none begins with it."""
        if not len(tokens) or any(_in_common(r.tokens, tokens) == len(tokens) for r in self._roots):
            return
        self._roots.append(Root(tokens.copy(), self._model.hold(slot, len(tokens))))
        if len(self._roots) > ROOTS:
            self._model.drop(self._roots.pop(0).blocks)


def _families(prompts: Sequence[np.ndarray], rows: list[int], common: int) -> list[list[int]]:
    """Rows, which have their first ``common`` tokens in common, in groups that share a root: those
    that go on alike are a group of their own where it saves as much as a forward pass."""
    alike: dict[bytes, list[int]] = {}
    for row in rows:
        alike.setdefault(prompts[row][common : common + LEAST].tobytes(), []).append(row)
    groups, others = [], list[int]()
    for family in alike.values():
        length = min(_in_common(prompts[family[0]], prompts[row]) for row in family)
        pays = len(family) < len(rows) and (len(family) - 1) * (length - common) >= WORTH
        if length > common and (pays or common == 0):
            groups += _families(prompts, family, length)
        else:
            others += family
    return groups + ([others] if others else [])


def _in_common(first: np.ndarray, second: np.ndarray) -> int:
    """Tokens with which both begin."""
    length = min(len(first), len(second))
    differ = np.flatnonzero(first[:length] != second[:length])
    return int(differ[0]) if differ.size else length

"""What paths hold of a cache, what they have in common counted once."""

from collections.abc import Iterable, Mapping

import numpy as np

from butwait.engines.engine import Prefix
from butwait.engines.kv.blocks import BLOCK
from butwait.engines.settings import StepRule

MARGIN = 2.0
"""Of the mean length of steps: what a step is charged for that has no limit of its own."""
_OF_A_NEW_STEP = 0.05
"""Weight of the step that came last in the mean."""

Blocks = Mapping[int, int]
"""Of a path: the names of its blocks, and how many of its tokens each holds."""


class Charges:
    """Blocks of all paths in flight, and what their next steps may take.

    Attributes:
        tokens: of both.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._holders: dict[int, int] = {}

    def cost(self, blocks: Blocks, room: int) -> int:
        """Tokens that a path would add."""
        return room + sum(n for block, n in blocks.items() if block not in self._holders)

    def add(self, blocks: Blocks, room: int) -> None:
        """Charges a path."""
        self.tokens += self.cost(blocks, room)
        for block in blocks:
            self._holders[block] = self._holders.get(block, 0) + 1

    def remove(self, blocks: Blocks, room: int) -> None:
        """Takes back what ``add`` charged."""
        for block in blocks:
            self._holders[block] -= 1
            if not self._holders[block]:
                del self._holders[block]
        self.tokens -= self.cost(blocks, room)


class StepLengths:
    """What the next step of a path may take."""

    def __init__(self) -> None:
        self._means: dict[StepRule, float] = {}

    def room(self, rule: StepRule, prefix: Prefix) -> int:
        """Tokens: ``max_step_tokens``; without it, twice what steps took on average lately; what
        is left of the path in any case."""
        left, mean = rule.room(prefix.completion_length), self._means.get(rule)
        return left if mean is None else min(left, max(1, int(MARGIN * mean)))

    def note(self, rule: StepRule, lengths: Iterable[int]) -> None:
        """Steps that ended."""
        if rule.max_step_tokens is None:
            for n in lengths:
                mean = self._means.get(rule, float(n))
                self._means[rule] = mean + _OF_A_NEW_STEP * (n - mean)


_ODD = np.random.Generator(np.random.Philox(17))
_factors = np.zeros(0, np.uint64)


def blocks_by_tokens(token_ids: np.ndarray) -> Blocks:
    """Of a path: blocks are the same where all tokens up to their ends are, which is how a server's
    prefix cache finds them. The names hold however long a path waits, be its cache lost meanwhile.

    Args:
        token_ids: int32 (n,).
    """
    global _factors
    n = len(token_ids)
    if n > len(_factors):
        more = _ODD.integers(0, 2**64, max(1024, 2 * n - len(_factors)), np.uint64)
        _factors = np.concatenate([_factors, more])
    # A multilinear hash of every beginning (numbers modulo 2^64).
    hashes = np.cumsum((token_ids.astype(np.uint64) + np.uint64(1)) * _factors[:n])
    ends = np.append(np.arange(BLOCK, n, BLOCK), n) if n else np.zeros(0, np.int64)
    return dict(zip(hashes[ends - 1].tolist(), np.diff(ends, prepend=0).tolist(), strict=True))

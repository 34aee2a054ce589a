"""Which blocks of a KV cache hold which sequence: a block table with copy-on-write.

A cache is cut into blocks of ``BLOCK`` columns. A sequence is a row of block numbers; one that
goes on from another has the same numbers, and gets a block of its own where it writes into one
that somebody else reads. This module knows numbers of blocks alone; ``engines.cache`` holds the
tensors.

Shapes: S slots, n of them in one pass, w blocks of the longest sequence so far.
"""

import numpy as np

BLOCK = 16
"""Columns of a block. Smaller ones waste fewer at the ends of paths, and are read more slowly."""
SCRATCH = 1
"""Columns before a row's first token, which nothing is written to. Padding reads there: it must
see something, or its softmax would be NaN."""
EMPTY = 0
"""The block of zeros that stands where a sequence has no tokens yet."""
SINK = 1
"""The block that padding writes to: it must write somewhere. Nobody reads it."""


def blocks_of(tokens: int) -> int:
    """Blocks that so many tokens of a sequence reach into; none for no tokens."""
    return -(-(tokens + SCRATCH) // BLOCK) if tokens > 0 else 0


class BlockTable:
    """The blocks of S slots, and how often each block is held.

    Args:
        slots: S.

    Attributes:
        size: blocks that were ever in use, the two special ones included.
    """

    def __init__(self, slots: int) -> None:
        self.size = 2
        self._rows = np.full((slots, 8), EMPTY, np.int64)
        self._used = np.zeros(slots, np.int64)
        self._holders = np.zeros(64, np.int64)
        self._free: list[int] = []

    @property
    def held(self) -> int:
        """Blocks that somebody holds, each counted once."""
        return self.size - 2 - len(self._free)

    def view(self, slots: np.ndarray, tokens: int) -> np.ndarray:
        """int64 (n, blocks of ``tokens``): the block numbers of these slots."""
        return self._rows[slots, : blocks_of(tokens)]

    def hold(self, slot: int, tokens: int) -> np.ndarray:
        """The blocks of a slot's first tokens, int64 (m,), held until they are dropped."""
        return self.again(self._rows[slot], tokens)

    def again(self, blocks: np.ndarray, tokens: int) -> np.ndarray:
        """Holds those of the first tokens once more."""
        again = blocks[: blocks_of(tokens)].copy()
        self._holders[again] += 1
        return again

    def drop(self, blocks: np.ndarray) -> None:
        """Gives up one hold of each of these blocks."""
        self._holders[blocks] -= 1
        self._free += blocks[self._holders[blocks] == 0].tolist()

    def alone(self, blocks: np.ndarray) -> bool:
        """Whether no slot holds any of these blocks."""
        return not np.isin(self._rows, blocks).any()

    def place(self, slot: int, blocks: np.ndarray) -> None:
        """Gives an empty slot blocks that are held for it."""
        self._widen(len(blocks))
        self._rows[slot, : len(blocks)] = blocks
        self._used[slot] = len(blocks)

    def cut(self, slot: int, tokens: int) -> None:
        """Gives up what a slot holds behind its first tokens."""
        kept, used = blocks_of(tokens), int(self._used[slot])
        if kept < used:
            self.drop(self._rows[slot, kept:used])
            self._rows[slot, kept:used] = EMPTY
            self._used[slot] = kept

    def make_room(
        self, slots: np.ndarray, starts: np.ndarray, counts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Lets different slots be written to, from their start positions on; what they held
        behind them is given up.

        Args:
            slots, starts, counts: int64 (n,); tokens are written at start .. start + count.

        Returns:
            int64 (m,) each: blocks to be copied, and to where, before anything is written.
        """
        ends = -(-(starts + counts + SCRATCH) // BLOCK)
        self._widen(int(ends.max(initial=0)))
        firsts = (starts + SCRATCH) // BLOCK
        used = self._used[slots]
        last = self._rows[slots, firsts]
        shared = (firsts < used) & (self._holders[last] > 1)
        if not (shared | (used != ends)).any():
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        for i in np.flatnonzero(firsts + 1 < used).tolist():
            behind = self._rows[slots[i], firsts[i] + 1 : used[i]]
            self.drop(behind)
            behind[:] = EMPTY
        # Of those that share a block the last one keeps it.
        copied = []
        for i in np.flatnonzero(shared).tolist():
            if self._holders[last[i]] > 1:
                self._holders[last[i]] -= 1
                copied.append(i)
        begins = np.minimum(used, firsts + 1)
        more = ends - begins
        taken = np.array(self._take(len(copied) + int(more.sum())), np.int64)
        targets, new = taken[: len(copied)], taken[len(copied) :]
        self._rows[slots[copied], firsts[copied]] = targets
        places = np.arange(len(new)) + np.repeat(begins - np.cumsum(more) + more, more)
        self._rows[np.repeat(slots, more), places] = new
        self._used[slots] = ends
        return last[copied], targets

    def _take(self, count: int) -> list[int]:
        """New blocks, each held once."""
        again = min(count, len(self._free))
        taken = [self._free.pop() for _ in range(again)]
        taken += range(self.size, self.size + count - again)
        self.size += count - again
        if self.size > len(self._holders):
            self._holders = np.pad(self._holders, (0, max(self.size, len(self._holders))))
        self._holders[taken] = 1
        return taken

    def _widen(self, blocks: int) -> None:
        width = self._rows.shape[1]
        if blocks > width:
            more = max(blocks, 2 * width) - width
            self._rows = np.pad(self._rows, ((0, 0), (0, more)), constant_values=EMPTY)

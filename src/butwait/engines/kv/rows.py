"""Rows that stay as they were put together: while the same sequences are decoded token after token,
their keys and values are not gathered from their blocks again; a new token is written behind them.

What is kept lies beside the blocks, once more. So it is kept where little is shared and paths are
short, which is where the gathering is felt: at most ``OVER_HELD`` times what the blocks hold, and
at most ``MOST_BYTES``; and on a CPU, as it was measured there alone. Rows that are new in a pass,
or in another place of it, are gathered one by one.

This module knows numbers alone; ``engines.cache`` holds the tensors.

Shapes: S slots, n rows of a pass of one token each.
"""

from typing import NamedTuple

import numpy as np

from butwait.engines.kv.blocks import BLOCK

OVER_HELD = 2
"""Tokens that may be kept for each that is held: rows of one length hold what they share again."""
MOST_BYTES = 2**30
"""Keys and values that may be kept."""
SPARE = 8
"""What is too small grows by one part in so many at least."""


class Kept(NamedTuple):
    """What a pass finds of its rows.

    Attributes:
        rows, columns: that there is room for.
        missing: int64 (m,), the rows of the pass that are to be gathered.
    """

    rows: int
    columns: int
    missing: np.ndarray


class KeptRows:
    """The rows of the pass before.

    Args:
        slots: S.
        token_bytes: of the keys and values of a token.
    """

    def __init__(self, slots: int, token_bytes: int) -> None:
        self._most = MOST_BYTES // token_bytes
        self._changes = np.zeros(slots, np.int64)
        # Of the pass before, int64 (n, 4): slots, their changes, tokens, blocks that others read.
        self._rows = np.zeros((0, 4), np.int64)
        self._there = np.zeros(0, bool)
        self._room = (0, 0)

    @property
    def tokens(self) -> int:
        """That there is room for."""
        rows, columns = self._room
        return rows * columns

    def change(self, slots: np.ndarray | int | slice) -> None:
        """Slots hold something else than what was decoded in them, or something more."""
        self._changes[slots] += 1

    def plan(
        self, slots: np.ndarray, starts: np.ndarray, held: int, before: np.ndarray, blocks: int
    ) -> Kept | None:
        """What is there of the rows of a pass that is about to be run; None: all are to be
        gathered, and none kept.

        Args:
            slots, starts: int64 (n,), and the position of the new token in each.
            held: tokens that the blocks hold.
            before: int64 (n,), blocks of each row that are not part of it (``kv.attention``).
            blocks: of a row.
        """
        rows = np.stack([slots, self._changes[slots], starts, before], 1)
        both = min(len(rows), len(self._rows))
        go_on, there = np.zeros((2, len(rows)), bool)
        former, now = self._rows[:both], rows[:both]
        same = (former[:, [0, 1, 3]] == now[:, [0, 1, 3]]).all(1)
        go_on[:both] = same & (former[:, 2] >= now[:, 2])
        there[:both] = go_on[:both] & self._there[:both]
        rows[:, 2] += 1
        self._rows, self._there = rows, np.zeros(len(rows), bool)
        room = self._enough(len(rows), blocks, held)
        if room != self._room:
            self._room, there[:] = room, False
        # The first pass of a batch may be its last: a reward model's always is.
        if not self.tokens or 2 * np.count_nonzero(go_on) < len(rows):
            return None
        self._there[:] = True
        return Kept(*room, np.flatnonzero(~there))

    def _enough(self, rows: int, blocks: int, held: int) -> tuple[int, int]:
        """Rows and columns to have room for; none where that is too much."""
        most, columns = min(self._most, OVER_HELD * held), blocks * BLOCK
        if rows <= self._room[0] and columns <= self._room[1] and self.tokens <= most:
            return self._room
        spare = -(-blocks // SPARE) * BLOCK
        for room in ((rows + rows // SPARE, columns + spare), (rows, columns + BLOCK)):
            if room[0] * room[1] <= most:
                return room
        return 0, 0

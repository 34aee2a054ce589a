"""Adjusted p-values where several comparisons are made at once."""

from collections.abc import Collection

import numpy as np
from numpy.typing import ArrayLike


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's adjusted p-values (Holm 1979), in the given order: float64 (m,)."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


def indistinguishable(size: int, apart: Collection[tuple[int, int]]) -> list[list[int]]:
    """The maximal groups of which no two members were told apart: a compact letter display (Piepho
    2004, J. Comput. Graph. Stat. 13:456). A member may stand in several groups.

    Args:
        size: members, 0 to size - 1, the best first.
        apart: pairs that were told apart, in any order.

    Returns:
        groups, each in order, by their members.
    """
    told = {frozenset(pair) for pair in apart}
    near = [
        {j for j in range(size) if j != i and frozenset((i, j)) not in told} for i in range(size)
    ]
    found: list[list[int]] = []

    def grow(group: set[int], open_: set[int], closed: set[int]) -> None:  # Bron and Kerbosch 1973
        if not open_ and not closed:
            found.append(sorted(group))
            return
        pivot = max(open_ | closed, key=lambda i: len(near[i] & open_))
        for i in sorted(open_ - near[pivot]):
            grow(group | {i}, open_ & near[i], closed & near[i])
            open_, closed = open_ - {i}, closed | {i}

    if size:
        grow(set(), set(range(size)), set())
    return sorted(found)

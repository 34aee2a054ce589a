"""Looking on while a search goes its way: a server tells what is final, a time-out takes what there
is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from butwait.search.builder import TreeBuilder

Onlooker = Callable[[TreeBuilder, np.ndarray, bool], None]
"""Is told the tree so far; int32 (N,), the nodes that the particles stand on; and whether they were
extended just now. Else they were chosen just now, and are about to be extended."""

_ONLOOKER: ContextVar[Onlooker | None] = ContextVar("onlooker", default=None)


@contextmanager
def looking(onlooker: Onlooker) -> Iterator[None]:
    """Searches of this task tell ``onlooker`` before and after each step."""
    token = _ONLOOKER.set(onlooker)
    try:
        yield
    finally:
        _ONLOOKER.reset(token)


def look(tree: TreeBuilder, nodes: np.ndarray, extended: bool) -> None:
    """Tells whoever looks on."""
    if (onlooker := _ONLOOKER.get()) is not None:
        onlooker(tree, nodes, extended)

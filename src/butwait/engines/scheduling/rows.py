"""How full an engine's batch is, and when a problem may begin.

A population waits for its longest step and for its rewards; rows that stand empty meanwhile are
filled by other problems. ``concurrency: auto`` begins one when rows would stand empty, the oldest
first, and none while there is no room for its paths.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import ContextVar
from typing import Annotated, Any, Literal

from pydantic import Field

Concurrency = Literal["auto"] | Annotated[int, Field(gt=0)]
"""Problems in flight at a time: so many; or ``auto``, as many as keep the engine's rows full."""

FIXED = 64
"""Problems in flight where an engine does not say what its rows do."""
MOST = 4
"""Paths of all problems in flight for each row that pays: more do not begin, however many rows
stand empty; what holds them up is something else."""
ROWS_THAT_PAY = {"cpu": 128, "cuda": 512}
"""By device: with more rows a forward pass makes hardly more tokens a second."""


class Rows:
    """Counts the rows of an engine's batch over time.

    Args:
        pays: rows above which more do not pay.
        spare: how many more paths there is room for; None: nobody knows.
        clock: in seconds.

    Attributes:
        at_work: paths that are being extended, or are next.
        held_back: paths that wait until there is room for their tokens.
        full: whether no problem should begin for want of memory.
    """

    def __init__(
        self,
        pays: int,
        spare: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pays, self.at_work, self.held_back, self.full = pays, 0, 0, False
        self.waiting: deque[tuple[RowPlaces, asyncio.Future[None]]] = deque()
        self._spare, self._clock = spare, clock
        self._problems = self._most_problems = 0
        self._since, self._seconds, self._worked, self._empty = 0.0, 0.0, 0.0, 0.0

    @property
    def spare(self) -> float:
        return float("inf") if self._spare is None else self._spare()

    def note(self, at_work: int) -> None:
        """So many rows are at work from now on."""
        self._count()
        self.at_work = at_work
        self.wake()

    def add(self, rows: int) -> None:
        """So many more."""
        self.note(self.at_work + rows)

    def wake(self) -> None:
        """Lets those begin that may."""
        while self.waiting:
            places, future = self.waiting[0]
            if not future.done():
                if not places.may_begin():
                    return
                places.begin()
                future.set_result(None)
            self.waiting.popleft()

    def open(self, problems: int) -> None:
        """So many more problems are in flight."""
        self._count()
        self._problems += problems
        self._most_problems = max(self._most_problems, self._problems)

    def figures(self) -> dict[str, Any]:
        """Over the time in which a problem was in flight: ``rows`` that pay, those ``at_work`` on
        average, the share that stood ``empty`` while populations waited, and how many ``problems``
        were in flight at most. Nothing where none was."""
        self._count()
        if not self._seconds:
            return {}
        return {
            "rows": self.pays,
            "at_work": round(self._worked / self._seconds, 1),
            "empty": round(self._empty / self._seconds / self.pays, 3),
            "problems": self._most_problems,
        }

    def _count(self) -> None:
        now = self._clock()
        if self._problems:
            passed = now - self._since
            self._seconds += passed
            self._worked += passed * self.at_work
            self._empty += passed * max(0, self.pays - self.at_work)
        self._since = now


class _Place:
    """Of one problem in flight: whether it has asked for a step yet, and the paths that it asks
    for now."""

    def __init__(self, places: "RowPlaces") -> None:
        self.places, self.asked, self.paths = places, False, 0

    def asks(self, paths: int) -> None:
        self.paths += paths
        self.places.largest = max(self.places.largest, self.paths)
        if not self.asked:
            self.asked = True
            self.places.silent -= 1


_PLACE: ContextVar[_Place | None] = ContextVar("place", default=None)


@contextmanager
def asking(paths: int) -> Iterator[None]:
    """While the problem of this task asks for a step of so many paths."""
    place = _PLACE.get()
    if place is None:
        yield
        return
    place.asks(paths)
    try:
        yield
    finally:
        place.paths -= paths


class RowPlaces(AbstractAsyncContextManager[None]):
    """``async with places``: a problem, once it may begin.

    Args:
        rows: of the engine.
        most: problems in flight, where there is a bound.
        fills: whether it is the rows that say when one may begin.

    Attributes:
        silent: problems that have begun and not asked for a step.
        largest: the most paths that one of them asked for at a time; 0: nobody knows.
    """

    def __init__(self, rows: Rows, most: float, *, fills: bool) -> None:
        self._rows, self._most, self._fills = rows, most, fills
        self._open = self.silent = 0
        self.largest = 0

    async def __aenter__(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._rows.waiting.append((self, future))
        self._rows.wake()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.silent -= 1
                self._end()
            raise
        _PLACE.set(_Place(self))

    async def __aexit__(self, *error: object) -> None:
        place = _PLACE.get()
        if place is not None:
            place.asks(0)
        _PLACE.set(None)
        self._end()

    def may_begin(self) -> bool:
        rows = self._rows
        if self._open == 0:
            return True
        if self._open >= self._most:
            return False
        if not self._fills:
            return True
        if rows.full or rows.held_back or (self.silent and not self.largest):
            return False
        soon = rows.at_work + self.silent * self.largest
        paths = (self._open + 1) * self.largest
        room = rows.spare - self.silent * self.largest
        return soon < rows.pays and paths <= MOST * rows.pays and self.largest <= room

    def begin(self) -> None:
        self._open += 1
        self.silent += 1
        self._rows.open(1)

    def _end(self) -> None:
        self._open -= 1
        self._rows.open(-1)
        self._rows.wake()


def places(concurrency: Concurrency, engine: Any) -> AbstractAsyncContextManager[Any]:
    """For problems that an engine searches, so many at a time; ``auto``: as its rows have room."""
    rows = getattr(engine, "rows", None)
    if not isinstance(rows, Rows):
        return asyncio.Semaphore(FIXED if concurrency == "auto" else concurrency)
    if concurrency == "auto":
        return RowPlaces(rows, float("inf"), fills=True)
    return RowPlaces(rows, concurrency, fills=False)


def rows_that_pay(settings: Any, most: int = max(ROWS_THAT_PAY.values())) -> int:
    """Rows of an engine's batch above which more do not pay, by its settings: ``max_rows`` at each
    of its servers.

    Args:
        settings: of any engine.
        most: of one that does not say, its slots aside; without it, those of the fastest device.
    """
    most = min(most, getattr(settings, "slots", most))
    return getattr(settings, "max_rows", most) * len(getattr(settings, "urls", (None,)))


def most_problems(concurrency: Concurrency, problems: int, paths: int, pays: int) -> int:
    """Problems that may be in flight at a time, of so many with so many paths each, where so many
    rows pay."""
    if concurrency != "auto":
        return min(problems, concurrency)
    return min(problems, max(1, MOST * pays // paths))

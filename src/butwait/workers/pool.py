"""Hands items to workers, and sees to it that each is done once, whatever becomes of the workers.

Plain asyncio: it knows neither processes nor Ray (``host.py``), neither engines nor searches.

An item goes to the healthy worker that has the least to do, and none is given more than its part
while others load their models. Where a worker is lost, its unfinished items go elsewhere. One of
them may be what ended it, or all of them together: they are *suspects* from then on, which are done
among themselves, half as many on a worker as were on the lost one. So an item that ends workers is
soon alone on one; if it ends two on which it was alone, it is set aside.
"""

import asyncio
import logging
import math
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from butwait.records import UserError
from butwait.running.log import say
from butwait.running.progress import show_workers
from butwait.running.shards import SetAsideError
from butwait.workers.host import Figures, Handle, Host, Reply, WorkerLostError

STARTS, RESTARTS = 3, 10
"""Times in a row that a worker may end before it is ready: at first, and after it has run."""
ENDINGS = 2
"""Workers that an item may end while it is alone on them."""
AHEAD = 1.5
"""Items that a worker is given for each that it has begun: the others wait in it for a place, and
go to no other worker."""
WAITS = (0.0, 1.0, 5.0)
"""Seconds before a worker is started again, after so many failed starts in a row; then the last."""


@dataclass(eq=False)
class _Asked:
    """An item that somebody waits for.

    Attributes:
        company: of a suspect: items that its worker may be at, itself among them; 0: no suspect.
        endings: workers that it ended while it was alone on them.
    """

    item: Any
    answer: "asyncio.Future[Any]"
    company: int = 0
    endings: int = 0
    call: "asyncio.Task[None] | None" = None


@dataclass(eq=False)
class _Seat:
    """The place of one worker, which may be taken by another after it."""

    index: int
    room: int
    handle: Handle | None = None
    state: str = "starting"
    at: set[_Asked] = field(default_factory=set)
    together: int = 0  # items that it was at when it was lost
    failed: int = 0  # starts in a row
    done: int = 0
    restarts: int = 0


@dataclass(frozen=True)
class Health:
    """Of a pool: workers by their state, and what befell it.

    Attributes:
        healthy, starting, dead: workers now; a dead one is not started again.
        restarts: workers that were started in the place of lost ones.
        set_aside: names of the items that were given up, with the last words of their worker.
    """

    healthy: int
    starting: int
    dead: int
    restarts: int
    set_aside: dict[str, str]

    def __str__(self) -> str:
        told = f"{self.healthy}/{self.healthy + self.starting + self.dead}"
        return f"{told}, {self.restarts} restarted" if self.restarts else told


class Pool:
    """Workers for one job; a context manager that starts and ends them.

    Args:
        host: starts them.
        count: of workers.
        room: items that a worker is at, at most.
        name: of an item, for sentences.
        heard: is told each reply.
        proven: whether such work was done before: then it is no fault of the work where items end
            workers.
        most: items that a worker is at where it says that it has begun nearly as many as it was
            given (``Reply.begun``): it lets in what it has room for.
    """

    def __init__(
        self,
        host: Host,
        count: int,
        room: int,
        name: Callable[[Any], str] = str,
        heard: Callable[[Reply], None] = lambda reply: None,
        proven: bool = False,
        most: int = 0,
    ) -> None:
        self._host, self._room, self._name, self._heard = host, room, name, heard
        self._most = max(room, most)
        self._seats = [_Seat(index, room) for index in range(count)]
        self._waiting: deque[_Asked] = deque()
        self._suspects: deque[_Asked] = deque()
        self._open: set[_Asked] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._restarts, self._proven = 0, proven
        self._set_aside: dict[str, str] = {}
        self._figures: dict[Handle, Figures] = {}
        self.policy_tokens = 0

    @property
    def size(self) -> int:
        """Items that can be under way at a time."""
        return len(self._seats) * self._most

    @property
    def health(self) -> Health:
        states = Counter(seat.state for seat in self._seats)
        return Health(
            states["healthy"],
            states["starting"],
            states["dead"],
            self._restarts,
            dict(self._set_aside),
        )

    @property
    def figures(self) -> list[Figures]:
        """Of the models of all workers, the lost ones' at their last reply."""
        return list(self._figures.values())

    def shown(self) -> dict[str, str]:
        """For a line of progress."""
        return {"workers": str(self.health)}

    async def __aenter__(self) -> "Pool":
        for seat in self._seats:
            self._spawn(self._start(seat))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        handles = [seat.handle for seat in self._seats if seat.handle is not None]
        try:
            await asyncio.gather(*(handle.close() for handle in handles))
        finally:
            show_workers(None)

    async def do(self, item: Any) -> Any:
        """The result of the work on an item. Where this is cancelled, so is the work.

        Raises:
            SetAsideError: it ended two workers that did nothing else.
            UserError: of the work itself; no worker can be started.
        """
        if self._failure is not None:
            raise self._failure
        asked = _Asked(item, asyncio.get_running_loop().create_future())
        self._open.add(asked)
        self._waiting.append(asked)
        try:
            self._hand_out()
            return await asked.answer
        finally:
            self._open.discard(asked)
            if asked.answer.cancelled() and asked.call is not None:
                asyncio.get_running_loop().call_soon(asked.call.cancel)  # once it has begun

    def _report(self) -> None:
        """For ``butwait status``."""
        show_workers(
            [
                {"index": s.index, "state": s.state, "done": s.done, "restarts": s.restarts}
                for s in self._seats
            ]
        )

    def _spawn(self, work: Any) -> "asyncio.Task[None]":
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """A fault of the pool's own must not leave anybody waiting."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _hand_out(self) -> None:
        """Gives what waits to the workers that have room: suspects first, to those that do nothing
        else."""
        for seat in self._seats:
            while (asked := _first(self._suspects)) and _takes_suspect(seat, asked):
                self._give(seat, self._suspects.popleft())
        part = self._part()
        while open_seats := [s for s in self._seats if _takes(s) and len(s.at) < part]:
            if _first(self._waiting) is None:
                return
            self._give(min(open_seats, key=lambda seat: len(seat.at)), self._waiting.popleft())

    def _part(self) -> float:
        """Items for each worker, until one has done its first: the others load their models for
        about as long. One that takes longer may have to wait for its place in a cluster."""
        if any(seat.done for seat in self._seats):
            return math.inf
        there = sum(seat.state != "dead" for seat in self._seats)
        return max(1, math.ceil(len(self._open) / max(1, there)))

    def _give(self, seat: _Seat, asked: _Asked) -> None:
        seat.at.add(asked)
        assert seat.handle is not None, "it is healthy"
        # By its handle: the seat may be another worker's before the call begins.
        asked.call = self._spawn(self._call(seat, seat.handle, asked))

    async def _call(self, seat: _Seat, handle: Handle, asked: _Asked) -> None:
        try:
            reply = await handle.call(asked.item)
        except WorkerLostError as lost:
            self._lost(seat, handle, lost)
            self._again(seat, asked, lost)
        except asyncio.CancelledError:
            if not asked.answer.cancelled():  # the pool ends
                raise
        except Exception as error:
            _tell(asked, error)
        else:
            self._proven = True
            seat.done += 1
            seat.room = min(self._most, max(self._room, math.ceil(AHEAD * reply.begun)))
            self._report()
            self.policy_tokens += reply.policy_tokens
            self._figures[handle] = reply.figures
            self._heard(reply)
            if not asked.answer.done():
                asked.answer.set_result(reply.result)
        finally:
            seat.at.discard(asked)
        self._hand_out()

    def _lost(self, seat: _Seat, handle: Handle, lost: WorkerLostError) -> None:
        """Starts another worker in the place of a lost one, once."""
        if seat.handle is not handle:
            return
        seat.handle, seat.state, seat.together = None, "starting", len(seat.at)
        self._restarts += 1
        seat.restarts += 1
        self._report()
        say(f"  worker {seat.index} is lost and starts again: {lost.why}", logging.WARNING)
        self._spawn(self._start(seat, handle))

    def _again(self, seat: _Seat, asked: _Asked, lost: WorkerLostError) -> None:
        """Sends an item elsewhere, or sets it aside."""
        if asked.answer.done():
            return
        if lost.begun:
            asked.company = max(1, seat.together // 2)
            asked.endings += seat.together == 1
        if asked.endings < ENDINGS:
            (self._suspects if asked.company else self._waiting).append(asked)
            return
        name = self._name(asked.item)
        self._set_aside[name] = lost.why
        if not self._proven and len(self._set_aside) >= STARTS:
            self._fail(UserError(f"whatever workers are given ends them: {lost.why}"))
        _tell(asked, SetAsideError(name, lost.why))

    async def _start(self, seat: _Seat, before: Handle | None = None) -> None:
        """Starts the worker of a seat, after what is left of the one before it is ended."""
        if before is not None:
            with suppress(Exception):
                await before.close()
        ever = before is not None
        while True:
            try:
                seat.handle = await self._host.start(seat.index)
            except WorkerLostError as lost:
                seat.failed += 1
                if seat.failed >= (RESTARTS if ever else STARTS):
                    return self._give_up(seat, lost, ever)
                say(f"  worker {seat.index} did not start: {lost.why}", logging.WARNING)
                await asyncio.sleep(WAITS[min(seat.failed, len(WAITS) - 1)])
            except Exception as error:
                return self._fail(error)
            else:
                seat.failed, seat.state = 0, "healthy"
                self._report()
                return self._hand_out()

    def _give_up(self, seat: _Seat, lost: WorkerLostError, ever: bool) -> None:
        """A worker cannot be started. One that ran before is done without while others run."""
        seat.state = "dead"
        self._report()
        told = f"worker {seat.index} ended {seat.failed} times in its start: {lost.why}"
        if ever and any(other.state != "dead" for other in self._seats):
            return say(f"  {told}; the others go on without it", logging.WARNING)
        self._fail(UserError(told))

    def _fail(self, error: BaseException) -> None:
        """Nothing more will be done: everybody who waits is told."""
        self._failure = self._failure or error
        for asked in self._open:
            _tell(asked, error)
        self._waiting.clear()
        self._suspects.clear()


def _takes(seat: _Seat) -> bool:
    """Whether it has room. One that does suspects does nothing else."""
    suspects = any(asked.company for asked in seat.at)
    return seat.state == "healthy" and not suspects and len(seat.at) < seat.room


def _takes_suspect(seat: _Seat, suspect: _Asked) -> bool:
    """Whether it has room for this one: beside suspects alone, in its company and in theirs."""
    most = min(asked.company for asked in (suspect, *seat.at))
    return seat.state == "healthy" and len(seat.at) < min(most, seat.room)


def _first(line: deque[_Asked]) -> _Asked | None:
    """The first whom somebody still waits for; those before it leave the line."""
    while line and line[0].answer.done():
        line.popleft()
    return line[0] if line else None


def _tell(asked: _Asked, error: BaseException) -> None:
    if not asked.answer.done():
        asked.answer.set_exception(error)

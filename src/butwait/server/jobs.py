"""Requests that are under way: who is let in, who leaves, and what is still heard when the server
ends. Plain asyncio."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from butwait.server.wire import ApiError, unavailable

T = TypeVar("T")

Receive = Callable[[], Awaitable[Any]]
"""ASGI's: the next message of a client."""


class ClientGoneError(Exception):
    """Nobody is there to be answered."""


class Jobs:
    """The requests of a server.

    Args:
        size: that are searched at a time.
        queue: that may wait besides.

    Attributes:
        running, waiting: now.
        draining: whether no more are taken.
    """

    def __init__(self, size: int, queue: int) -> None:
        self._size, self._queue = size, queue
        self._places = asyncio.Semaphore(size)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._seconds = 1.0  # a request's, about
        self.running = self.waiting = 0
        self.draining = False

    def check(self) -> None:
        """Raises ApiError where one more request is not let in."""
        if self.draining:
            raise unavailable()
        if self.running + self.waiting >= self._size + self._queue:
            pause = math.ceil(self._seconds * (self.waiting + 1) / self._size)
            told = f"{self.waiting} requests wait already; ask again in a moment"
            headers = {"Retry-After": str(min(max(pause, 1), 60))}
            raise ApiError(429, told, "queue_full", headers=headers)

    @asynccontextmanager
    async def place(self, admitted: Callable[[], None]) -> AsyncIterator[None]:
        """A place among those that are searched, waited for; ``admitted`` is called before that.
        Raises ApiError as ``check`` does."""
        self.check()
        self.waiting += 1
        try:
            admitted()
            await self._places.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        began = time.monotonic()
        try:
            yield
        finally:
            self.running -= 1
            self._places.release()
            self._seconds += 0.1 * (time.monotonic() - began - self._seconds)

    async def while_heard(self, receive: Receive, work: Coroutine[Any, Any, T]) -> T:
        """The result of work that is cancelled where its client leaves.

        Raises ClientGoneError then, ApiError where the server ended it, and what the work raises.
        """
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(_disconnected(receive))
        self._tasks.add(task)
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if task.done() and task.cancelled():
                raise unavailable()
            if task.done():
                return task.result()
            raise ClientGoneError
        finally:
            self._tasks.discard(task)
            for each in (task, gone):
                each.cancel()
            for each in (task, gone):
                with suppress(asyncio.CancelledError, Exception):
                    await each

    async def drain(self, seconds: float) -> None:
        """Lets what is under way come to its end, and ends what does not in time."""
        self.draining = True
        end = time.monotonic() + seconds
        while self._tasks and time.monotonic() < end:
            await asyncio.wait(set(self._tasks), timeout=end - time.monotonic())
        for task in list(self._tasks):
            task.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

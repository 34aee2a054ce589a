"""Requests of an engine whose client belongs to one event loop."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


class OneLoop:
    """Runs requests together, always in the event loop of the first.

    Args:
        owner: whose requests they are, for the error.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._loop: asyncio.AbstractEventLoop | None = None

    async def all(self, requests: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        """The results of concurrent requests, in order; where one fails, the others are cancelled.
        Raises RuntimeError in another event loop."""
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            raise RuntimeError(f"{self._owner} belongs to one event loop")
        self._loop = loop
        tasks = [loop.create_task(request) for request in requests]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

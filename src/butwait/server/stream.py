"""Answers as server-sent events: what is final as soon as it is, comments in between."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

from butwait.server.wire import Reply
from butwait.server.work import Answer, Ask, Told

PROGRESS_S = 1.0
"""Seconds between two comments of progress."""


def event(content: Any) -> bytes:
    """A piece of a stream."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n".encode()


def comment(text: str) -> bytes:
    """A line that clients skip."""
    return f": {text}\n\n".encode()


DONE = b"data: [DONE]\n\n"


class Listening:
    """Hears how far the searches of a request are.

    Args:
        asks: one for each choice.
        local: whether the searches run in this process; others tell nothing on the way.

    Attributes:
        asks: what is to be searched.
        answers: of each choice, once it is there.
    """

    def __init__(self, asks: Sequence[Ask], *, local: bool = False) -> None:
        self._changed = asyncio.Event()
        self._admitted = False
        self._told = [Told() for _ in asks]
        heard = enumerate(asks)
        self.asks = [replace(a, tell=self._hear(i)) for i, a in heard] if local else list(asks)
        self.answers: list[Answer | None] = [None] * len(asks)

    def admit(self) -> None:
        """The request is let in."""
        self._admitted = True
        self._changed.set()

    def take(self, index: int, answer: Answer) -> None:
        """A choice has its answer."""
        self.answers[index] = answer
        self._changed.set()

    def whole(self) -> list[Answer]:
        """All answers, which are there."""
        return [answer for answer in self.answers if answer is not None]

    def _hear(self, index: int) -> Callable[[Told], None]:
        def heard(told: Told) -> None:
            self._told[index] = told
            self._changed.set()

        return heard

    async def events(
        self, work: "asyncio.Task[Any]", reply: Reply, *, with_usage: bool, keep_alive_s: float
    ) -> AsyncIterator[bytes]:
        """The stream's pieces until the work is done, the first of them once the request is let
        in. Raises what the work raised."""
        work.add_done_callback(lambda _: self._changed.set())
        while not self._admitted and not work.done():
            await self._changed.wait()
            self._changed.clear()
        if not self._admitted:
            work.result()
        for index in range(len(self.asks)) if reply.chat else ():
            yield event(reply.opening(index))
        sent, said = [0] * len(self.asks), time.monotonic()
        waiting = list(range(len(self.asks)))
        while waiting:
            for index in list(waiting):
                answer = self.answers[index]
                text = self._told[index].shared if answer is None else answer.text
                new, sent[index] = text[sent[index] :], max(sent[index], len(text))
                if new:
                    yield event(reply.chunk(index, new))
                if answer is not None:
                    waiting.remove(index)
                    yield event(reply.chunk(index, "", answer))
            if waiting and work.done():
                work.result()
            if waiting and time.monotonic() - said >= PROGRESS_S:
                said = time.monotonic()
                yield comment("; ".join(str(self._told[index]) for index in waiting))
            if waiting and not await self._something(keep_alive_s):
                yield comment("keep-alive")
        await work
        if with_usage:
            yield event(reply.closing(self.whole()))
        yield DONE

    async def _something(self, seconds: float) -> bool:
        """Whether anything changed in this time."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        return True

"""Answers as server-sent events: what is final as soon as it is, comments in between."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
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
    """The searches of a request, each of which tells how far it is.

    Args:
        asks: one for each choice.
        local: whether the searches run in this process; others tell nothing.

    Attributes:
        asks: what is to be searched.
        told: of each, so far.
    """

    def __init__(self, asks: Sequence[Ask], *, local: bool) -> None:
        self._changed = asyncio.Event()
        self.told = [Told() for _ in asks]
        heard = enumerate(asks)
        self.asks = [replace(a, tell=self._hear(i)) for i, a in heard] if local else list(asks)

    def _hear(self, index: int) -> Any:
        def heard(told: Told) -> None:
            self.told[index] = told
            self._changed.set()

        return heard

    async def events(
        self,
        tasks: Sequence["asyncio.Task[Answer]"],
        reply: Reply,
        *,
        with_usage: bool,
        keep_alive_s: float,
    ) -> AsyncIterator[bytes]:
        """The stream's pieces, until all tasks are done. Raises what a task raised."""
        for index in range(len(tasks)) if reply.chat else ():
            yield event(reply.opening(index))
        for task in tasks:
            task.add_done_callback(lambda _: self._changed.set())
        sent, said = [0] * len(tasks), time.monotonic()
        waiting = set(range(len(tasks)))
        while waiting:
            try:
                async with asyncio.timeout(keep_alive_s):
                    await self._changed.wait()
            except TimeoutError:
                yield comment("keep-alive")
                said = time.monotonic()
                continue
            self._changed.clear()
            for index in sorted(waiting):
                answer = tasks[index].result() if tasks[index].done() else None
                text = self.told[index].shared if answer is None else answer.text
                new, sent[index] = text[sent[index] :], max(sent[index], len(text))
                if new:
                    yield event(reply.chunk(index, new))
                if answer is not None:
                    waiting.discard(index)
                    yield event(reply.chunk(index, "", answer))
            if waiting and time.monotonic() - said >= PROGRESS_S:
                said = time.monotonic()
                yield comment("; ".join(str(self.told[index]) for index in sorted(waiting)))
        if with_usage:
            yield event(reply.closing([task.result() for task in tasks]))
        yield DONE

"""Workers in processes of this machine, one each (``child.py``)."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from butwait.records import UserError
from butwait.running.log import note
from butwait.running.plugins import overdue
from butwait.workers.frames import GIVEN_UP, framed, read
from butwait.workers.host import Reply, WorkerLostError

_LAST_LINES = 20
"""Lines of what a worker said that are kept, for its last words."""


_PARTING_S = 10.0
"""Seconds that a worker has to close its models, once nobody needs it any more."""


class ProcessHost:
    """Starts workers as processes of this machine.

    Args:
        packed: the job (``Job.packed``).
        environment: of the worker of an index, beside that of this process.
        run: the folder of the run, which no other may take while a worker lives; None: there is
            none.
    """

    def __init__(
        self,
        packed: bytes,
        environment: Callable[[int], Mapping[str, str]] = lambda index: {},
        run: Path | None = None,
    ) -> None:
        self._packed, self._environment = packed, environment
        self._run = [str(run.resolve())] if run is not None else []

    async def start(self, index: int) -> "ProcessHandle":
        """See ``Host.start``."""
        here, there = socket.socketpair()
        said, saying = os.pipe()
        with there, open(saying, "wb") as output:
            words = ["-m", "butwait.workers.child", str(there.fileno()), str(os.getpid())]
            words += self._run
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                *words,
                env={**os.environ, **self._environment(index)},
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        reader, writer = await asyncio.open_connection(sock=here)
        handle = ProcessHandle(index, process, reader, writer, await _heard(said))
        try:
            await handle.open(self._packed)
        except BaseException:
            await handle.close()
            raise
        return handle


class ProcessHandle:
    """One worker process."""

    def __init__(
        self,
        index: int,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        output: "_Output",
    ) -> None:
        self._index, self._process = index, process
        self._reader, self._writer, self._output = reader, writer, output
        self._asked: dict[int, asyncio.Future[Reply]] = {}
        self._number = 0
        self._lost: WorkerLostError | None = None
        self._said: deque[str] = deque(maxlen=_LAST_LINES)
        self._listening = asyncio.create_task(self._listen())
        self._reading: asyncio.Task[None] | None = None

    async def open(self, packed: bytes) -> None:
        """Gives the worker its job and waits until it is ready."""
        try:
            self._writer.write(framed(packed))
            refused = await read(self._reader)
        except (OSError, asyncio.IncompleteReadError):
            raise await self._end_of() from None
        if refused is not None:
            raise UserError(refused)
        self._reading = asyncio.create_task(self._read())

    async def call(self, item: Any) -> Reply:
        """See ``Handle.call``."""
        if self._lost is not None:
            raise WorkerLostError(self._lost.why, begun=False)
        self._number += 1
        number, answer = self._number, asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            self._writer.write(framed((number, item)))
            return await answer
        except asyncio.CancelledError:
            if self._lost is None:
                self._writer.write(framed((GIVEN_UP, number)))
            raise
        finally:
            self._asked.pop(number, None)

    async def close(self) -> None:
        """See ``Handle.close``."""
        if self._reading is not None:
            self._reading.cancel()
        self._writer.close()
        try:
            await asyncio.wait_for(self._process.wait(), _PARTING_S)
        except TimeoutError:
            pass
        finally:
            self._end()
            self._listening.cancel()
            self._output.transport.close()
        await self._process.wait()

    async def _read(self) -> None:
        """Hands replies to those who wait for them, until the worker is gone."""
        end: UserError | WorkerLostError
        try:
            while True:
                number, reply, refused = await read(self._reader)
                answer = self._asked.get(number)
                if answer is None or answer.done():
                    continue  # nobody waits for it any more
                if refused is None:
                    answer.set_result(reply)
                else:
                    answer.set_exception(UserError(refused))
        except (OSError, asyncio.IncompleteReadError):
            end = await self._end_of()
        except Exception as error:  # of a class that only the worker could import
            self._end()
            end = WorkerLostError(f"its reply cannot be read ({error})")
        self._lost = WorkerLostError(str(end))
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(type(end)(str(end)))

    async def _listen(self) -> None:
        """What the worker says goes to the run's log."""
        while line := await _line(self._output.stream):
            if text := line.decode(errors="replace").rstrip():
                self._said.append(text)
                note(f"worker {self._index}: {text}", logging.INFO)

    async def _end_of(self) -> UserError | WorkerLostError:
        """What the end of the worker is for those who wait: a plugin that did not come back to one
        does not come back to another."""
        words = await self._last_words()
        told = overdue(self._said)
        return UserError(told) if told else WorkerLostError(words)

    async def _last_words(self) -> str:
        """Why the worker ended: what it said last, or how it ended."""
        self._end()
        code = await self._process.wait()
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._listening), 1.0)
        if code < 0:
            with suppress(ValueError):
                return f"its process was ended by {signal.Signals(-code).name}"
        how = f"its process ended with code {code}"
        return f"{how} ({self._said[-1]})" if self._said else how

    def _end(self) -> None:
        """Ends the worker and all that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


class _Output(NamedTuple):
    """What a worker says, on its way here. The pipe outlives the worker where a process that it
    started holds it."""

    stream: asyncio.StreamReader
    transport: asyncio.BaseTransport


async def _heard(pipe: int) -> _Output:
    stream = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(pipe, "rb", 0)
    )
    return _Output(stream, transport)


async def _line(stream: asyncio.StreamReader) -> bytes:
    """The next line, or the part of a long one that is there; nothing at the end."""
    try:
        return await stream.readuntil(b"\n")
    except asyncio.IncompleteReadError as end:
        return end.partial
    except asyncio.LimitOverrunError as long:
        return await stream.readexactly(long.consumed)

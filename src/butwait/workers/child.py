"""One worker of ``processes``: ``python -m butwait.workers.child SOCKET PARENT [RUN]``.

It reads the job, says ``ready``, and answers items until the other end of the socket is closed. The
process leads a group of its own, and takes all that it started with it when it goes.
"""

import asyncio
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from butwait.records import UserError
from butwait.running.stages import working
from butwait.workers.frames import GIVEN_UP, framed, read

_GRACE_S = 3.0
"""Seconds that a worker has to leave by itself, once the run is gone."""


def main(descriptor: int, parent: int, run: Path | None = None) -> None:
    """Works until nobody is there to answer to. ``run``: the folder that it works for."""
    _guard(descriptor, parent)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        with working(run) if run else nullcontext():
            asyncio.run(_serve(socket.socket(fileno=descriptor)))
    except (OSError, asyncio.IncompleteReadError):
        _leave(0)  # the run is over, or gone
    except BaseException:
        traceback.print_exc()
        _leave(1)


async def _serve(connection: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=connection)
    packed = await read(reader)
    # Here, so that what they print is told and their time is a worker's start.
    from butwait.workers.job import unpacked

    async def answer(number: int, item: Any) -> None:
        try:
            said = framed((number, await worker.reply(item), None))
        except UserError as error:
            said = framed((number, None, str(error)))
        except asyncio.CancelledError:
            raise
        except BaseException:
            # No fault of the data, as far as anybody knows: the engine may be broken.
            traceback.print_exc()
            _leave(1)
        writer.write(said)
        await writer.drain()

    tasks = dict[int, asyncio.Task[None]]()
    try:
        async with unpacked(packed).open() as worker:
            writer.write(framed(None))
            try:
                while True:
                    number, item = await read(reader)
                    if number == GIVEN_UP:
                        if item in tasks:
                            tasks[item].cancel()
                        continue
                    tasks[number] = asyncio.create_task(answer(number, item))
                    tasks[number].add_done_callback(partial(_forget, tasks, number))
            finally:
                for task in tasks.values():
                    task.cancel()
    except UserError as error:
        writer.write(framed(str(error)))
        await writer.drain()


def _forget(tasks: dict[int, asyncio.Task[None]], number: int, task: asyncio.Task[None]) -> None:
    del tasks[number]


def _end_with(parent: int) -> None:
    """Leaves when the run is gone, whatever this process is at."""
    while os.getppid() == parent:
        time.sleep(0.5)
    _leave(1)


def _guard(descriptor: int, parent: int) -> None:
    """Begins a process that ends this one, and all that it started, where the run is gone and this
    one does not see it: while native code holds the interpreter's lock, no thread of it runs."""
    try:
        worker = os.pidfd_open(os.getpid())
    except (AttributeError, OSError):
        return  # of Linux from 5.3 on, and not of every sandbox: the thread alone looks then
    if os.fork():
        os.close(worker)
        return
    try:
        os.close(descriptor)  # whose end says that the worker is gone
        with suppress(ProcessLookupError):  # it is gone already
            ended, _, _ = select.select([os.pidfd_open(parent), worker], [], [])
            if worker in ended:
                os._exit(0)
        select.select([worker], [], [], _GRACE_S)
        os.killpg(0, signal.SIGKILL)
    finally:
        os._exit(1)


def _leave(code: int) -> NoReturn:
    """Ends this process at once, and those that it started."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    with suppress(ValueError):  # in another thread: then the signal ends this process too
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    os._exit(code)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *map(Path, sys.argv[3:]))

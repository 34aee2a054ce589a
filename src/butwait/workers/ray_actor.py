"""The worker inside of an actor of a Ray cluster: its process, on whichever node."""

import asyncio
import os
import sys
import traceback
from contextlib import AsyncExitStack, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import psutil

from butwait.records import UserError
from butwait.running.stages import working
from butwait.workers.host import Reply


class Place(NamedTuple):
    """Where an actor came to be: its process, its node's address, and butwait's version there."""

    pid: int
    node: str
    butwait: str


class ActorJob(NamedTuple):
    """What an actor is told to open.

    Attributes:
        packed: the job (``Job.packed``).
        folder: the current one of the run's process.
        run: the folder of the run, if there is one.
        seen: files and folders that the job names, which the node must see.
        environment: variables to set.
    """

    packed: bytes
    folder: str
    run: str | None
    seen: tuple[str, ...]
    environment: dict[str, str]


class Actor:
    """A worker's process, on whichever node."""

    def __init__(self) -> None:
        self._open = AsyncExitStack()

    async def place(self) -> Place:
        import ray

        return Place(os.getpid(), ray.util.get_node_ip_address(), installed_version())

    async def open(self, job: ActorJob) -> str | None:
        """Loads what the job names; the sentence of a mistake, if there is one."""
        os.environ.update(job.environment)
        with suppress(OSError):
            os.chdir(job.folder)
        if unseen := [path for path in job.seen if not os.path.exists(path)]:
            return (
                f"the node {(await self.place()).node} of the Ray cluster does not see "
                f"{unseen[0]}; workers need local models, your own modules and the run's folder "
                "at the same path on every node, on a file system that they share"
            )
        try:
            from butwait.workers.job import unpacked

            if job.run is not None and os.path.isdir(job.run):
                with suppress(OSError):  # a file system without locks
                    self._open.enter_context(working(Path(job.run)))
            self._worker = await self._open.enter_async_context(unpacked(job.packed).open())
        except UserError as error:
            return str(error)
        except BaseException:
            _leave()
        return None

    async def do(self, item: Any) -> tuple[Reply | None, str | None]:
        """The reply; or the sentence of a mistake."""
        try:
            return await self._worker.reply(item), None
        except UserError as error:
            return None, str(error)
        except asyncio.CancelledError:
            raise
        except BaseException:
            # No fault of the data, as far as anybody knows: the engine may be broken.
            _leave()

    async def close(self) -> None:
        await self._open.aclose()


def _leave() -> NoReturn:
    """Ends this process with what it started, in a way that Ray takes for an accident."""
    traceback.print_exc()
    sys.stderr.flush()
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.kill()
    os._exit(1)


def installed_version() -> str:
    try:
        return version("butwait")
    except PackageNotFoundError:  # run from its sources
        return "of no version"

"""Who does the work of a stage: this process, or a pool of workers."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from butwait.engines.scheduling.rows import FIXED, most_problems, rows_that_pay
from butwait.records import Problem
from butwait.workers.host import Figures, Host, Reply
from butwait.workers.job import Job, Worker
from butwait.workers.placement import Placement
from butwait.workers.pool import Health, Pool
from butwait.workers.processes import ProcessHost
from butwait.workers.settings import WorkersSettings


class Crew(Protocol):
    """Whoever does a stage's work.

    Attributes:
        size: items that can be under way at a time.
        policy_tokens: sampled for it.
        health: of a pool; None: it is this process.
        figures: of each worker's models until now.
    """

    @property
    def size(self) -> int: ...

    @property
    def policy_tokens(self) -> int: ...

    @property
    def health(self) -> Health | None: ...

    @property
    def figures(self) -> list[Figures]: ...

    def shown(self) -> dict[str, str]:
        """Of this moment, for a line of progress."""
        ...

    async def do(self, item: Any) -> Any:
        """The result for an item; see ``Pool.do``."""
        ...


@dataclass(frozen=True)
class _Here:
    """This process."""

    worker: Worker
    size: int
    health: None = None

    @property
    def policy_tokens(self) -> int:
        return self.worker.policy_tokens

    @property
    def figures(self) -> list[Figures]:
        return [self.worker.figures]

    def shown(self) -> dict[str, str]:
        return self.worker.shown()

    async def do(self, item: Any) -> Any:
        return await self.worker.do(item)


@asynccontextmanager
async def at_work(
    job: Job,
    settings: WorkersSettings,
    *,
    run: Path | None = None,
    proven: bool = False,
) -> AsyncIterator[Crew]:
    """A crew for a job, ended when the block ends.

    Args:
        job: what is opened and done.
        settings: who does it.
        run: the folder of the run.
        proven: whether such work was done before (``Pool``).

    Raises UserError for a job that cannot be opened, or cannot be handed to another process, and
    for devices that are not there.
    """
    if settings.kind == "local":
        async with job.open() as worker:
            yield _Here(worker, sys.maxsize)  # it lets in as many as it takes
        return

    def heard(reply: Reply) -> None:
        if job.grader is not None:
            job.grader.judges.add(reply.unjudged)

    placement = Placement.of(settings, job.engine, job.model, job.reward_model)
    # As if a problem had one path: the worker sees how many it has, and begins what it can hold.
    most = most_problems(job.concurrency, len(job.problems), 1, rows_that_pay(job.engine))
    room = FIXED if job.concurrency == "auto" else job.concurrency
    host, count = _host(job, settings, placement, run)
    async with Pool(host, count, room, _name, heard, proven, most) as pool:
        yield pool


def _name(item: Any) -> str:
    return item.id if isinstance(item, Problem) else str(item)


def _host(
    job: Job, settings: WorkersSettings, placement: Placement, run: Path | None
) -> tuple[Host, int]:
    """Who starts the workers, and how many."""
    placed = placement.placed(job)
    if settings.kind == "processes":
        packed = placement.sharing(placed).packed()
        return ProcessHost(packed, placement.environment, run), placement.count
    from butwait.workers.ray import RayHost

    host = RayHost(placed.packed(), settings, placement, run)
    return host, host.count

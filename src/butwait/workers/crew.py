"""Who does the work of a stage: this process, or a pool of workers."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from butwait.records import Problem
from butwait.workers.host import Host, Reply
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
    """

    @property
    def size(self) -> int: ...

    @property
    def policy_tokens(self) -> int: ...

    @property
    def health(self) -> Health | None: ...

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

    async def do(self, item: Any) -> Any:
        return await self.worker.do(item)


@asynccontextmanager
async def at_work(
    job: Job,
    settings: WorkersSettings,
    concurrency: int,
    *,
    run: Path | None = None,
) -> AsyncIterator[Crew]:
    """A crew for a job, ended when the block ends.

    Args:
        job: what is opened and done.
        settings: who does it.
        concurrency: items that a worker is at, at most.
        run: the folder of the run.

    Raises UserError for a job that cannot be opened, or cannot be handed to another process, and
    for devices that are not there.
    """
    if settings.kind == "local":
        async with job.open() as worker:
            yield _Here(worker, concurrency)
        return

    def heard(reply: Reply) -> None:
        if job.grader is not None:
            job.grader.judges.add(reply.unjudged)

    placement = Placement.of(settings, job.engine, job.model, job.reward_model)
    async with Pool(
        _host(job, settings, placement, run), placement.count, concurrency, _name, heard
    ) as pool:
        yield pool


def _name(item: Any) -> str:
    return item.id if isinstance(item, Problem) else str(item)


def _host(job: Job, settings: WorkersSettings, placement: Placement, run: Path | None) -> Host:
    placed = placement.placed(job)
    if settings.kind == "processes":
        graders = max(1, min(8, (os.cpu_count() or 1) // placement.count))
        packed = replace(placed, graders=graders).packed()
        return ProcessHost(packed, placement.environment, run)
    from butwait.workers.ray import RayHost

    return RayHost(placed.packed(), settings, placement, run)

"""A sampler over a problem set, whose whole trees are kept, graded: ``trees/``."""

import asyncio
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from butwait.engines.scheduling.rows import Concurrency
from butwait.recipe.stages import Metrics, OneSetStage, Outcome, StageKind
from butwait.records import Problem
from butwait.records.settings import Resource, Result
from butwait.report.sections import SEARCHES
from butwait.reward_models.settings import RewardModelSettings
from butwait.running.progress import task
from butwait.running.shards import ShardFormat, map_shards
from butwait.search.settings import SamplerSettings, in_flight
from butwait.stages.context import StageRun, told_without


class SearchStage(OneSetStage):
    """A sampler over a problem set; the whole trees are kept."""

    kind: Literal["search"]
    problems: Result[str]
    """The problem set that is searched."""
    sampler: Result[SamplerSettings]
    """Which sampler, and its settings."""
    reward_model: Result[RewardModelSettings | None] = None
    """A public reward model; a ``prm`` stage in ``from`` gives the recipe's own."""
    shard_size: Resource[Annotated[int, Field(gt=0)]] = 16
    """Trees in one file."""
    concurrency: Resource[Concurrency] = 64
    """Problems in flight at a time; ``auto``: as many as keep the engine's rows full."""


def search(run: StageRun) -> Outcome:
    """Grows the trees and grades their paths."""
    from butwait.search.storage import read_outlines
    from butwait.stages.flops import stage_flops
    from butwait.stages.search_metrics import search_metrics

    settings = run.settings
    assert isinstance(settings, SearchStage)
    asyncio.run(_search(run, settings, run.problems(settings.problems)))
    metrics, cost = search_metrics(read_outlines(run.folder / "trees"), *stage_flops(run))
    return metrics | run.without(run.folder / "trees"), cost


async def _search(run: StageRun, settings: SearchStage, problems: list[Problem]) -> None:
    from butwait.search.storage import TIMINGS, read_shard, write_shard
    from butwait.stages.search_progress import SearchProgress
    from butwait.stages.searching import Growing

    rules, engine = [settings.sampler.step], run.recipe.engine
    paths = in_flight(settings.sampler, problems, settings, engine)
    work = Growing(settings.sampler, run.key)
    async with run.crew(work, problems, rules, settings.concurrency, paths=paths) as crew:
        with task("searching", len(problems)) as progress:
            await map_shards(
                problems,
                crew.do,
                ShardFormat(write_shard, read_shard, aside=TIMINGS),
                run.folder / "trees",
                shard_size=settings.shard_size,
                concurrency=crew.size,
                on_result=SearchProgress(progress, crew).advance,
                instead=run.instead(lambda problem: None),
            )


def _headline(metrics: Metrics) -> Iterator[str]:
    from butwait.evaluation.flags import MUCH_CUT

    low, high = metrics["interval"]
    yield (
        f"solved by some particle: {metrics['solved']} of {metrics['problems']}, "
        f"{metrics['solved_share']:.1%} [{100 * low:.1f}, {100 * high:.1f}]"
    )
    cut = metrics.get("truncated_paths", 0)
    if cut and (share := cut / (cut + metrics["finished_paths"])) >= MUCH_CUT:
        yield f"{100 * share:.1f} % of the paths were cut by a limit before an answer"
    if extinct := metrics.get("extinct"):
        yield f"{extinct} of {metrics['problems']} searches went extinct: every weight became zero"
    if cut := metrics.get("too_long_paths"):
        yield (
            f"{cut} paths were longer than the reward model takes and count as truncated; a lower "
            "max_tokens ends them before"
        )
    yield from told_without(metrics)


SEARCH = StageKind(
    settings=SearchStage,
    gives="trees",
    takes=frozenset({"model", "reward model"}),
    sets="training",
    run=search,
    headline=_headline,
    section=SEARCHES,
)

"""What a stage of each kind does: it reads folders, calls one layer, and writes a folder.

Every function returns (metrics, cost) for stage.json. Metrics are rates and counts; cost is in
tokens. A function may be called again after a kill: what it finds on disk it does not repeat.
"""

import asyncio
import time
from collections.abc import Callable
from itertools import product
from typing import Any

from butwait.engines.engine import Engine
from butwait.evaluation.attempts import run_attempts
from butwait.evaluation.metrics import summarise
from butwait.pipeline import data_stages, profile_stage, rl_stages
from butwait.pipeline.comparisons import compared
from butwait.pipeline.context import StageRun
from butwait.pipeline.flops import stage_flops
from butwait.pipeline.search_metrics import search_metrics
from butwait.pipeline.search_progress import AttemptProgress, SearchProgress
from butwait.recipe.stages import (
    EvaluateStage,
    PrmStage,
    SearchStage,
    SftStage,
)
from butwait.records import Attempt, Problem, SearchTree
from butwait.reward_models.reward_model import RewardModel
from butwait.running.progress import task
from butwait.running.shards import ShardFormat, map_shards
from butwait.search.run import run_sampler
from butwait.search.storage import read_outlines, read_shard, write_shard
from butwait.search.timings import TIMINGS
from butwait.synthesis.grades import grade_paths

Outcome = tuple[dict[str, Any], dict[str, int]]


def evaluate(run: StageRun) -> Outcome:
    """Attempts at every problem set by every method: ``attempts/<set>/<method>/``."""
    settings = run.settings
    assert isinstance(settings, EvaluateStage)
    return asyncio.run(_evaluate(run, settings))


async def _evaluate(run: StageRun, settings: EvaluateStage) -> Outcome:
    metrics, cost = {}, {"policy_tokens": 0, "reward_tokens": 0}
    everything = [p for name in settings.problems for p in run.problems(name)]
    rules = [method.sampler.step for method in settings.methods.values()]
    async with run.searching(everything, rules) as policy:
        for problem_set, method in product(settings.problems, settings.methods):
            attempts = await _attempts(run, settings, problem_set, method, *policy)
            metrics[f"{problem_set}/{method}"] = summarise(attempts)
            cost["policy_tokens"] += sum(attempt.tokens for attempt in attempts)
            cost["reward_tokens"] += sum(attempt.reward_tokens for attempt in attempts)
    return metrics, cost


async def _attempts(
    run: StageRun,
    settings: EvaluateStage,
    problem_set: str,
    method: str,
    engine: Engine,
    reward_model: RewardModel | None,
) -> list[Attempt]:
    """All attempts at one problem set by one method."""
    problems = run.problems(problem_set)
    with task(f"{problem_set}, {method}", len(problems)) as progress:
        return await run_attempts(
            problems,
            engine,
            reward_model,
            run.grader,
            settings.methods[method],
            run.key.derive(problem_set, method),
            run.folder / "attempts" / problem_set / method,
            shard_size=settings.shard_size,
            concurrency=settings.concurrency,
            on_problem=AttemptProgress(progress, engine.counters).advance,
        )


def prm(run: StageRun) -> Outcome:
    """A reward model from rollouts: ``rollouts/``, ``model/``, ``audit.json``."""
    settings = run.settings
    assert isinstance(settings, PrmStage)
    from butwait.training.prm import train_prm
    from butwait.training.rollouts import collect_rollouts

    async def collect() -> list[Any]:
        rule = settings.rollouts.steps
        problems = run.problems(settings.problems)
        async with run.searching(problems, [rule], rewards=False) as (engine, _):
            return await collect_rollouts(
                engine, problems, run.grader, settings.rollouts, run.key, run.folder / "rollouts"
            )

    rollouts = asyncio.run(collect())
    result = train_prm(run.model, rollouts, settings, run.recipe.prompt, run.folder, run.key)
    sampled = result.metrics["sampled_tokens"]
    return result.metrics, {
        "policy_tokens": sampled,
        "trained_tokens": result.metrics["trained_tokens"],
    }


def search(run: StageRun) -> Outcome:
    """Graded search trees: ``trees/``."""
    settings = run.settings
    assert isinstance(settings, SearchStage)
    problems = run.problems(settings.problems)
    asyncio.run(_search(run, settings, problems))
    return search_metrics(read_outlines(run.folder / "trees"), *stage_flops(run))


async def _search(run: StageRun, settings: SearchStage, problems: list[Problem]) -> None:
    async with run.searching(problems, [settings.sampler.step]) as (engine, reward_model):

        async def one(problem: Problem) -> SearchTree:
            key = run.key.derive(problem.id)
            tree = await run_sampler(problem, engine, reward_model, settings.sampler, key)
            tree.grades.update(await grade_paths(tree, problem, run.grader))
            return tree

        with task("searching", len(problems)) as progress:
            await map_shards(
                problems,
                one,
                ShardFormat(write_shard, read_shard, aside=TIMINGS),
                run.folder / "trees",
                shard_size=settings.shard_size,
                concurrency=settings.concurrency,
                on_result=SearchProgress(progress, engine.counters).advance,
            )


def sft(run: StageRun) -> Outcome:
    """A fine-tuned model: ``model/``, ``log.jsonl``."""
    settings = run.settings
    assert isinstance(settings, SftStage)
    from butwait.synthesis.dataset import load_examples
    from butwait.training.sft import train_sft

    examples = [e for data in run.inputs("data") for e in load_examples(data.path / "dataset")]
    seed = run.key.derive("train").seed32()
    metrics = train_sft(run.model, examples, settings, run.folder, seed, run.recipe.prompt)
    return metrics, {"trained_tokens": metrics["trained_tokens"]}


def report(run: StageRun) -> Outcome:
    """``report.html`` and ``summary.json`` in the run's folder."""
    from butwait.report.page import write_report

    sources = run.recipe.sources(run.name)
    records = [run.done[name].record for name in run.recipe.order() if name in sources]
    own = run.stage.record | {"status": "complete"}
    started = time.monotonic()
    arms, comparisons = compared(run)
    own["seconds"] = round(time.monotonic() - started, 3)
    summary = write_report(run.folder.parent, [*records, own], run.recipe.name, comparisons, arms)
    return {name: summary[name] for name in ("verdict", "rankings")}, {}


STAGES: dict[str, Callable[[StageRun], Outcome]] = {
    "evaluate": evaluate,
    "prm": prm,
    "search": search,
    "verified": data_stages.verified,
    "stitch": data_stages.stitch,
    "backtrack": data_stages.backtrack,
    "but_wait": data_stages.but_wait,
    "external": data_stages.external,
    "sft": sft,
    "grpo": rl_stages.grpo,
    "grpo_direct": rl_stages.grpo,
    "profile": profile_stage.profile,
    "report": report,
}

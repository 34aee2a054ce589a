"""A pilot: a few problems of each search and evaluation, run for real, to plan the whole.

The problems are drawn at random from what the run would use. What a pilot made is kept in
``RUN/.pilot``, so that the same pilot is not run twice; the run itself computes all its problems
anew.
"""

import platform
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from butwait.engines.scheduling.rows import Concurrency, most_problems, rows_that_pay
from butwait.evaluation.settings import EvaluateSettings
from butwait.pipeline.identity import recorded_versions, stage_header
from butwait.pipeline.preflight import finished_stages
from butwait.planning.json_form import stage_json
from butwait.planning.known import find_shape, set_facts
from butwait.planning.memory import GB
from butwait.planning.peak import peak_bytes, reset_peak
from butwait.planning.plan import DRAWN, plan_recipe
from butwait.planning.project import (
    Draws,
    Projection,
    project_seconds,
    project_share,
    project_total,
)
from butwait.planning.shapes import ModelShape
from butwait.planning.work import Counting, paths_of
from butwait.problems.grading import Grader
from butwait.recipe.recipe import Recipe
from butwait.records import Key, UserError
from butwait.running import stops
from butwait.running.files import remove
from butwait.running.log import say
from butwait.running.stages import Stage, locked, open_stage
from butwait.stages.context import StageRun
from butwait.stages.problem_sets import LoadedSet, load_problem_sets
from butwait.workers.crew import Crew
from butwait.workers.settings import WorkersSettings

FOLDER = ".pilot"


@dataclass(frozen=True)
class _TimedRun(StageRun):
    """A stage's run that notes when its models were ready and when it was done with them."""

    clock: list[tuple[float, float]] = field(default_factory=list)

    @asynccontextmanager
    async def crew(self, *given: Any, **named: Any) -> AsyncIterator[Crew]:
        async with super().crew(*given, **named) as crew:
            self.clock.append((time.monotonic(), time.process_time()))
            yield crew
            self.clock.append((time.monotonic(), time.process_time()))


def run_pilot(
    recipe: Recipe, count: int, folder: Path
) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """Runs so many problems of each search and evaluation.

    Args:
        recipe: what would be run.
        count: problems of each set, at least 2.
        folder: of the run.

    Returns:
        stage name -> its projections, and stage name -> the share of their limit that paths took.
        Stages whose reward model is not trained yet are told of and left out.

    Raises:
        UserError: what running the stages raises; no stage can be run.
    """
    with locked(folder), Grader() as grader:
        stops.keep()
        sets = load_problem_sets(recipe, folder / FOLDER / "problems", say)
        for loaded in sets.values():
            grader.expect(loaded.problems)
        few = {name: _part(recipe, name, loaded, count) for name, loaded in sets.items()}
        done = finished_stages(recipe, folder, sets, recorded_versions())
        found: dict[str, dict[str, Any]] = {}
        shares: dict[str, float] = {}
        for name in recipe.order():
            if not isinstance(recipe.stages[name], DRAWN):
                continue
            own = _runnable(recipe, name, done)
            if own is None:
                continue
            seen = _piloted(own, name, folder / FOLDER, few, done, grader)
            shares[name] = seen["share"]
            found[name] = seen | {"sets": {s: len(sets[s].problems) for s in seen["tokens"]}}
    if not found:
        raise UserError(
            f"no stage of {recipe.name} can be piloted: it needs a search or an evaluation whose "
            "reward model is there"
        )
    return {name: _projected(recipe, name, seen, shares) for name, seen in found.items()}, shares


def _part(recipe: Recipe, name: str, loaded: LoadedSet, count: int) -> LoadedSet:
    """A random part of a set, in the set's order."""
    problems = loaded.problems
    if count >= len(problems):
        return loaded
    draw = np.random.default_rng(Key.of(recipe.seed, "pilot").derive(name).seed32())
    chosen = np.sort(draw.choice(len(problems), count, replace=False))
    kept = [problems[i] for i in chosen]
    return LoadedSet(kept, Counter(), f"{loaded.fingerprint}-{count}")


def _runnable(recipe: Recipe, name: str, done: dict[str, Stage]) -> Recipe | None:
    """The recipe with a stage that takes from finished stages alone: a model that is not trained
    yet is replaced by the recipe's; None where a reward model is."""
    stage = recipe.stages[name]
    for judge in recipe.inputs(name, "reward model"):
        if judge not in done:
            say(f"  {name}: left out of the pilot, since {judge} has trained no reward model yet")
            return None
    lost = [model for model in recipe.inputs(name, "model") if model not in done]
    if not lost:
        return recipe
    say(f"  {name}: piloted with the recipe's model, since {', '.join(lost)} is not trained yet")
    kept = tuple(source for source in stage.from_ if source not in lost)
    changed = stage.model_copy(update={"from_": kept, "checkpoint": None})
    return recipe.model_copy(update={"stages": {**recipe.stages, name: changed}})


def _piloted(
    recipe: Recipe,
    name: str,
    folder: Path,
    sets: dict[str, LoadedSet],
    done: dict[str, Stage],
    grader: Grader,
) -> dict[str, Any]:
    """What one stage's pilot took; from disk where the same one was run before."""
    header = stage_header(recipe, name, sets, done, recorded_versions())
    stage = open_stage(folder, header)
    same = stage.record["settings"] == header["settings"]  # also what changes seconds alone
    if stage.complete and same and stage.record["metrics"].get("host") == platform.node():
        return dict(stage.record["metrics"])
    if stage.complete or any(held.name != "stage.json" for held in stage.path.iterdir()):
        remove(stage.path)  # its seconds are another machine's or settings', or lost with a kill
        stage = open_stage(folder, header)
    say(f"  {name}: a pilot")
    here = recipe.model_copy(update={"workers": WorkersSettings()})  # what is measured is one
    run = _TimedRun(here, name, stage, done, sets, grader)
    reset_peak()
    recipe.kind(name).run(run)
    seconds, own = (end - begin for begin, end in zip(run.clock[0], run.clock[-1], strict=True))
    seen = _evaluated(run) if isinstance(run.settings, EvaluateSettings) else _searched(run)
    took = {"seconds": seconds, "cpu_seconds": own, "peak": peak_bytes()}
    seen |= took | {"host": platform.node()}
    stage.finish(seen, {})
    return seen


def _searched(run: StageRun) -> dict[str, Any]:
    from butwait.search.storage import read_outlines

    settings: Any = run.settings
    tokens, solved, lengths, longest = [], [], [], 0.0
    for tree in read_outlines(run.folder / "trees"):
        tokens.append(float(tree.counts.policy_tokens))
        solved.append(float("correct" in tree.grades))
        whole = tree.along_paths(tree.token_counts)[tree.leaves]
        lengths.append(float(whole.mean()))
        longest = max(longest, float(whole.max()))
    limit = _limit(run, settings.sampler, (settings.problems,))
    return {
        "tokens": {settings.problems: tokens},
        "solved": {settings.problems: solved},
        "share": float(np.mean(lengths)) / limit,
        "draws": [
            (
                settings.problems,
                (sum(tokens), len(tokens), paths_of(settings.sampler), longest),
            )
        ],
    }


def _evaluated(run: StageRun) -> dict[str, Any]:
    from butwait.evaluation.storage import read_attempts

    settings: Any = run.settings
    tokens: dict[str, Counter[str]] = {name: Counter() for name in settings.problems}
    solved: dict[str, dict[str, list[float]]] = {name: {} for name in settings.problems}
    shares, draws = [], []
    for problem_set in settings.problems:
        for name, method in settings.methods.items():
            rows = read_attempts(run.folder / "attempts" / problem_set / name, texts=False)
            limit = _limit(run, method.sampler, (problem_set,))
            shares.append(float(np.mean([row.length for row in rows])) / limit)
            drawn = sum(row.tokens for row in rows), len({row.problem_id for row in rows})
            longest = max(row.length for row in rows)
            draws.append((problem_set, (*drawn, paths_of(method.sampler, method.k), longest)))
            for row in rows:
                tokens[problem_set][row.problem_id] += row.tokens
                correct = float(row.status == "correct")
                solved[problem_set].setdefault(row.problem_id, []).append(correct)
    return {
        "tokens": {s: [float(n) for n in by_id.values()] for s, by_id in tokens.items()},
        "solved": {s: [float(np.mean(r)) for r in by_id.values()] for s, by_id in solved.items()},
        "share": float(np.mean(shares)),
        "draws": draws,
    }


def _limit(run: StageRun, sampler: Any, names: tuple[str, ...]) -> int:
    """Tokens that a path may take, as the plan counts them."""
    shape = find_shape(run.recipe.model)
    context = shape.context if isinstance(shape, ModelShape) else None
    longest = max(set_facts(name, run.recipe.problems[name]).longest for name in names)
    return Counting(run.recipe, context).limit(sampler.step, longest, sampler)


def _passes(draws: Draws, problems: int, asked: Concurrency, engine: Any) -> float:
    rows = getattr(engine, "slots", getattr(engine, "max_rows", None))
    flight = most_problems(asked, problems, draws.paths, rows_that_pay(engine))
    return draws.passes(problems, flight, rows)


def _projected(
    recipe: Recipe, name: str, seen: dict[str, Any], shares: dict[str, float]
) -> dict[str, Any]:
    """The projections of a stage."""
    sizes = [seen["sets"][each] for each in seen["tokens"]]
    tokens = project_total(list(seen["tokens"].values()), sizes)
    drawn = sum(map(sum, seen["tokens"].values()))
    count = sum(map(len, seen["tokens"].values()))
    asked = getattr(recipe.stages[name], "concurrency", count)
    draws = [(Draws(*each), seen["sets"][on]) for on, each in seen["draws"]]
    passes = (
        sum(_passes(each, each.problems, asked, recipe.engine) for each, _ in draws),
        sum(_passes(each, size, asked, recipe.engine) for each, size in draws),
    )
    wall, own = (
        project_seconds(tokens, drawn, seen[key], passes) for key in ("seconds", "cpu_seconds")
    )
    return {
        "pilot": count,
        "problems": sum(sizes),
        "tokens": tokens.row(),
        "seconds": wall.row(),
        "cpu_seconds": own.row(),
        "solved_share": project_share(list(seen["solved"].values()), sizes).row(),
        "peak_gb": _peak(recipe, name, seen, shares).row(),
    }


def _peak(recipe: Recipe, name: str, seen: dict[str, Any], shares: dict[str, float]) -> Projection:
    """Memory of the whole in one process: what the pilot took, and what more paths in flight add by
    the plan; at most what they take at their limits."""
    alone = recipe.model_copy(update={"workers": WorkersSettings()})
    planned = stage_json(plan_recipe(alone, shares).stages[name])
    on_gpu = seen["peak"]["gpu"] is not None
    key = "gpu_gb" if on_gpu else "cpu_gb"
    least = (seen["peak"]["gpu"] if on_gpu else seen["peak"]["cpu"]) / GB
    more = planned[key] or least
    more_at_limits = (planned["gpu_gb_at_limits"] or least) - (planned["gpu_gb"] or least)
    whole = max(least, more)
    return Projection(whole, (least, max(whole, more + more_at_limits)))

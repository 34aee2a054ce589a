"""Sampling the rollouts that label prefixes, and grading them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from butwait.engines.engine import Continuation, Engine, Prefix
from butwait.records import OPEN, Finish, Grade, Key, Problem, UserError
from butwait.running.progress import task
from butwait.running.shards import ShardFormat, map_shards
from butwait.training.prm_data import Rollout, pool_labels, read_rollouts, write_rollouts
from butwait.training.prm_settings import RolloutSettings


class OutcomeGrader(Protocol):
    """What is needed of ``problems.grading.Grader``."""

    async def agrade(self, text: str, problem: Problem, finish: str) -> Grade: ...


@dataclass(slots=True)
class _Walk:
    """A path on its way: where its steps ended, and the unfinished step ends that were drawn."""

    prefix: Prefix
    step_ends: list[int]
    finish: Finish
    kept: list[tuple[int, Prefix]] = field(default_factory=list)


async def collect_rollouts(
    engine: Engine,
    problems: Sequence[Problem],
    grader: OutcomeGrader,
    settings: RolloutSettings,
    key: Key,
    folder: Path,
    *,
    silent: bool = False,
) -> list[Rollout]:
    """Labelled rollouts of every question; what is on disk in ``folder`` is not sampled again.

    Raises UserError for a problem without an answer, and where not one rollout could be graded.
    """
    unanswered = [problem.id for problem in problems if problem.answer is None]
    if unanswered:
        raise UserError(
            f"a reward model cannot be trained on {len(unanswered)} problems without an answer "
            f"({unanswered[0]} among them); drop them or give them answers"
        )
    with task("sampling rollouts", len(problems), silent=silent) as progress:
        paths = await map_shards(
            problems,
            lambda problem: _rollouts(
                engine, problem, grader, settings, key.derive("rollouts", problem.id)
            ),
            ShardFormat(write_rollouts, read_rollouts),
            folder,
            shard_size=settings.shard_size,
            concurrency=settings.concurrency,
            on_result=lambda rollouts: progress.advance(),
        )
    collected = [r for path in paths for question in read_rollouts(path) for r in question]
    if all(rollout.status == "ungradable" for rollout in collected):
        raise UserError("no rollout of the prm stage's problems could be graded")
    return collected


async def _rollouts(
    engine: Engine, problem: Problem, grader: OutcomeGrader, settings: RolloutSettings, key: Key
) -> list[Rollout]:
    """One question: its solutions, then the completions from the prefixes drawn from them."""
    start = engine.start(problem)
    root = _Walk(start, [], "step")
    solutions = await _walks(
        engine, root, settings.solutions, settings, key.derive("solutions"), settings.prefixes
    )
    branches = [
        (steps, _Walk(prefix, solution.step_ends[:steps], "step"), key.derive("from", i, steps))
        for i, solution in enumerate(solutions)
        for steps, prefix in solution.kept
    ]
    grown = await asyncio.gather(
        *(
            _walks(engine, base, settings.completions, settings, branch_key, 0)
            for _, base, branch_key in branches
        )
    )
    engine.release([base.prefix for _, base, _ in branches])
    walks = [(0, solution) for solution in solutions]
    walks += [
        (steps, walk) for (steps, _, _), ws in zip(branches, grown, strict=True) for walk in ws
    ]
    grades = await asyncio.gather(
        *(grader.agrade(walk.prefix.text, problem, walk.finish) for _, walk in walks)
    )
    rollouts = [
        _rollout(problem, walk, shared, grade)
        for (shared, walk), grade in zip(walks, grades, strict=True)
    ]
    return [
        replace(rollout, verified=verified, completions=completions)
        for rollout, (verified, completions) in zip(rollouts, pool_labels(rollouts), strict=True)
    ]


async def _walks(
    engine: Engine, base: _Walk, count: int, settings: RolloutSettings, key: Key, keep: int
) -> list[_Walk]:
    """``count`` continuations of ``base`` to their ends."""
    keys = [key.at(step=len(base.step_ends), particle=i) for i in range(count)]
    # One call for the first step, so that the engine can run what they have in common once.
    firsts = await engine.extend([base.prefix] * count, settings.steps, settings.sampling, keys)
    return list(
        await asyncio.gather(
            *(
                _walk(engine, first, base.step_ends, settings, walk_key, keep)
                for first, walk_key in zip(firsts, keys, strict=True)
            )
        )
    )


async def _walk(
    engine: Engine,
    first: Continuation,
    step_ends: list[int],
    settings: RolloutSettings,
    key: Key,
    keep: int,
) -> _Walk:
    """From the first step to the end, keeping ``keep`` of the unfinished step ends, drawn
    uniformly by reservoir sampling (Vitter 1985, algorithm R), so that few handles are held."""
    walk = _Walk(first.prefix, [*step_ends, first.prefix.completion_length], first.finish)
    draws = key.derive("kept").generator()
    while walk.finish in OPEN:
        here, steps = walk.prefix, len(walk.step_ends)
        (continuation,) = await engine.extend(
            [here], settings.steps, settings.sampling, [key.at(step=steps)]
        )
        seen = steps - len(step_ends)
        place = len(walk.kept) if len(walk.kept) < keep else int(draws.integers(seen))
        if place < keep:
            dropped = [prefix for _, prefix in walk.kept[place : place + 1]]
            walk.kept[place : place + 1] = [(steps, here)]
            engine.release(dropped)
        else:
            engine.release([here])
        walk.prefix, walk.finish = continuation.prefix, continuation.finish
        walk.step_ends.append(walk.prefix.completion_length)
    engine.release([walk.prefix])
    return walk


def _rollout(problem: Problem, walk: _Walk, shared: int, grade: Grade) -> Rollout:
    ids, p = walk.prefix.token_ids, walk.prefix.prompt_length
    unlabelled = np.zeros(len(walk.step_ends), np.int32)
    return Rollout(
        problem_id=problem.id,
        prompt_ids=ids[:p],
        token_ids=ids[p:],
        step_ends=np.array(walk.step_ends, dtype=np.int32),
        shared_steps=shared,
        finish=walk.finish,
        status=grade.status,
        verified=unlabelled,
        completions=unlabelled,
    )

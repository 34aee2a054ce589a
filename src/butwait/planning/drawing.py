"""The work of stages that draw paths and keep them: searches and evaluations."""

import math
from dataclasses import replace
from typing import Any

from butwait.engines.scheduling.rows import Concurrency, most_problems, rows_that_pay
from butwait.planning.known import SetFacts
from butwait.planning.work import SHARED, Counting, Drawing, Work, joined, paths_of, sweeps_of
from butwait.search.settings import SAMPLERS, CommonSettings


def searching(
    c: Counting,
    name: str,
    sets: list[SetFacts],
    sampler: CommonSettings,
    k: int | None,
    concurrency: Concurrency,
) -> Work:
    """One sampler, k times on every problem (None: once)."""
    problems = sum(s.problems for s in sets)
    longest = max((s.longest for s in sets), default=0)
    question = sum(s.problems * s.question for s in sets) / max(1, problems)
    prompt = question + c.prompt_around
    limit = c.limit(sampler.step, longest, sampler)
    path = limit * c.share(name)
    kind = SAMPLERS.of(sampler)
    paths, judged = paths_of(sampler, k), kind.needs_reward_model
    total = problems * paths * sweeps_of(sampler) * path
    flight = most_problems(concurrency, problems, paths, rows_that_pay(c.recipe.engine))
    forks = not hasattr(sampler, "samples")  # its paths go on from each other
    drawing = Drawing(
        paths=flight * paths,
        prompts=flight,
        prompt=prompt,
        path=path,
        longest=math.ceil(longest + c.prompt_around + limit),
        shared=SHARED if forks else 0.0,
        judged=judged,
    )
    return Work(
        drawn=total,
        read=problems * prompt + kind.reads(sampler) * total,
        scored=total + problems * prompt if judged else 0.0,
        drawing=drawing,
        problems=problems,
        assumed=tuple(s.assumed for s in sets if s.assumed),
    )


def search(c: Counting, name: str, stage: Any) -> Work:
    sets = c.sets([stage.problems])
    work = searching(c, name, sets, stage.sampler, None, stage.concurrency)
    return replace(work, trees=work.drawn)  # what died is kept too


def evaluate(c: Counting, name: str, stage: Any) -> Work:
    works = []
    for method in stage.methods.values():
        sets = c.sets(stage.problems)
        work = searching(c, name, sets, method.sampler, method.k, stage.concurrency)
        chosen = (
            work.drawn if SAMPLERS.of(method.sampler).as_attempts else _selected(work, method.k)
        )
        works.append(replace(work, attempts=chosen))
    return joined(works)


def _selected(work: Work, k: int) -> float:
    """Tokens of the answers that searches are selected down to."""
    return 0.0 if work.drawing is None else work.problems * k * work.drawing.path

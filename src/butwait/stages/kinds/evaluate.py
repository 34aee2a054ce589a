"""Attempts at problem sets, graded: ``attempts/<set>/<method>/``."""

import asyncio
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from butwait.evaluation.settings import EvaluateSettings
from butwait.recipe.stages import Metrics, Outcome, StageKind, StageSettings
from butwait.records import Attempt
from butwait.records.settings import Result, Unfit
from butwait.reward_models.settings import RewardModelSettings
from butwait.running.progress import task
from butwait.search.settings import in_flight
from butwait.stages.context import StageRun
from butwait.workers.crew import Crew


class EvaluateStage(StageSettings, EvaluateSettings):
    """Attempts at problems, graded."""

    kind: Literal["evaluate"]
    reward_model: Result[RewardModelSettings | None] = None
    """A public reward model for the methods that need one; a ``prm`` stage in ``from`` does too."""
    checkpoint: Result[Annotated[int, Field(gt=0)] | None] = None
    """The epoch whose model is evaluated, of an ``sft`` stage with ``keep_epochs``; None: its last
    model."""

    @property
    def problem_sets(self) -> tuple[str, ...]:
        return self.problems


def evaluate(run: StageRun) -> Outcome:
    """Attempts at every problem set by every method."""
    settings = run.settings
    assert isinstance(settings, EvaluateStage)
    return asyncio.run(_evaluate(run, settings))


async def _evaluate(run: StageRun, settings: EvaluateStage) -> Outcome:
    from butwait.evaluation.attempts import Attempting
    from butwait.evaluation.metrics import attempt_figures, clusters_of

    metrics, cost = {}, {"policy_tokens": 0, "reward_tokens": 0}
    everything = [p for name in settings.problems for p in run.problems(name)]
    clusters = {
        name: clusters_of(run.problems(name), column) for name, column in settings.clusters.items()
    }
    methods = settings.methods.values()
    rules = [method.sampler.step for method in methods]
    engine = run.recipe.engine
    asked = [in_flight(m.sampler, everything, settings, engine, m.k) for m in methods]
    paths = max((n for n in asked if n is not None), default=None)
    work = Attempting(settings.methods, run.key, settings.token_logprobs)
    async with run.crew(work, everything, rules, settings.concurrency, paths=paths) as crew:
        for problem_set, method in product(settings.problems, settings.methods):
            attempts = await _attempts(run, settings, problem_set, method, crew)
            figures = attempt_figures(attempts, clusters.get(problem_set))
            figures |= run.without(_folder(run, problem_set, method))
            metrics[f"{problem_set}/{method}"] = figures
            cost["policy_tokens"] += sum(attempt.tokens for attempt in attempts)
            cost["reward_tokens"] += sum(attempt.reward_tokens for attempt in attempts)
    return metrics, cost


async def _attempts(
    run: StageRun,
    settings: EvaluateStage,
    problem_set: str,
    method: str,
    crew: Crew,
) -> list[Attempt]:
    """All attempts at one problem set by one method."""
    from butwait.evaluation.attempts import Asked, never_made, stored_attempts
    from butwait.stages.search_progress import AttemptProgress

    problems = run.problems(problem_set)
    with task(f"{problem_set}, {method}", len(problems)) as progress:
        return await stored_attempts(
            problems,
            lambda problem: crew.do(Asked(problem, problem_set, method)),
            settings.methods[method].k,
            _folder(run, problem_set, method),
            shard_size=settings.shard_size,
            concurrency=crew.size,
            on_problem=AttemptProgress(progress, crew).advance,
            instead=run.instead(lambda problem: never_made(problem, settings.methods[method].k)),
        )


def _folder(run: StageRun, problem_set: str, method: str) -> Path:
    return run.folder / "attempts" / problem_set / method


def _headline(metrics: Metrics) -> Iterator[str]:
    from butwait.evaluation.flags import flags

    for name, row in metrics.items():
        low, high = row["interval"]
        interval = f"[{100 * low:.1f}, {100 * high:.1f}]"
        score = f", mean score {row['score']:.3f}" if "score" in row else ""
        lost = f", without {', '.join(row['set_aside'])}, set aside" if "set_aside" in row else ""
        yield f"{name}: {row['pass_at_1']:.1%} {interval} of {row['n']} questions{score}{lost}"
        yield from flags(name, row)


def _check(recipe: Any, name: str) -> Iterator[Unfit]:
    epoch = recipe.stages[name].checkpoint
    trained = [recipe.stages[source] for source in recipe.inputs(name, "model")]
    kept = (model for model in trained if hasattr(model, "keeps"))
    if epoch is not None and not any(model.keeps(epoch) for model in kept):
        told = f"stage {name!r}: checkpoint: {epoch} needs an sft stage in `from` with "
        told += f"keep_epochs: true, at least {epoch} epochs, and neither max_steps nor patience, "
        told += "which may end the training before"
        yield ("checkpoint",), told


EVALUATE = StageKind(
    settings=EvaluateStage,
    gives="evaluation",
    takes=frozenset({"model", "reward model"}),
    sets="test",
    check=_check,
    run=evaluate,
    headline=_headline,
)

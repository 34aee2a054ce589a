"""A reward model from the policy's own rollouts: ``rollouts/``, ``model/``, ``audit.json``."""

import asyncio
import glob
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from butwait.recipe.stages import Metrics, OneSetStage, Outcome, StageKind
from butwait.records import Problem
from butwait.records.settings import Result, Unfit
from butwait.report.sections import REWARD_MODELS
from butwait.running.files import atomic_path, write_json
from butwait.running.identity import identity
from butwait.running.log import say
from butwait.running.run_state import read_json
from butwait.stages.context import StageRun, told_without
from butwait.training.settings import LaunchedSettings, PrmSettings

ROLLOUTS = "rollouts"
"""In the stage's folder."""
_MADE_OF = ".made_of.json"
"""In that folder: what the rollouts depend on, which is less than what the stage does."""


class PrmStage(OneSetStage, LaunchedSettings, PrmSettings):
    """A reward model from the policy's own rollouts."""

    kind: Literal["prm"]
    problems: Result[str]
    """The problem set that is rolled out; the audit holds some of its questions out."""


def collected(run: StageRun) -> list[Any]:
    """The rollouts; those that are on disk are not sampled again."""
    settings = run.settings
    assert isinstance(settings, PrmStage)
    from butwait.engines.models import load_tokenizer
    from butwait.training.rollouts import Rolling, finished_rollouts, put, stored_rollouts

    folder = run.folder / ROLLOUTS
    if run.launched:  # the run itself has collected them
        return finished_rollouts(folder)
    if settings.prompt is not None:  # what is wrong with it is told before anything is sampled
        put([], run.problems(settings.problems), settings.prompt, load_tokenizer(run.model))

    _bring_back(run, folder)

    async def collect() -> list[Any]:
        rule = settings.rollouts.steps
        problems = run.problems(settings.problems)
        work, many = Rolling(settings.rollouts, run.key), settings.rollouts.concurrency
        async with run.crew(work, problems, [rule], many, rewards=False) as crew:
            return await stored_rollouts(
                problems,
                crew.do,
                settings.rollouts,
                folder,
                concurrency=crew.size,
                instead=run.instead(lambda problem: []),
                shown=crew.shown,
            )

    return asyncio.run(collect())


def _bring_back(run: StageRun, folder: Path) -> None:
    """Copies what was sampled before this stage's training was set otherwise, if anything was and
    is still there."""
    settings = run.settings
    assert isinstance(settings, PrmStage)
    recipe, problems = run.recipe, run.problem_sets[settings.problems]
    policy = [
        [stage.record[k] for k in ("fingerprint", "metrics")] for stage in run.inputs("model")
    ]
    shared = [run.name, recipe.seed, recipe.model, recipe.engine, recipe.prompt]
    made_of = {"made_of": identity(shared, policy, problems.fingerprint, settings.rollouts)}
    for other in sorted(run.folder.parent.glob(f".superseded/{glob.escape(run.name)}-*")):
        if folder.exists():
            break
        if read_json(other / ROLLOUTS / _MADE_OF) == made_of:
            with atomic_path(folder) as copy:
                shutil.copytree(other / ROLLOUTS, copy)
            say(f"  the rollouts are those of {other.name}, which was sampled alike")
    if not folder.exists():
        write_json(folder / _MADE_OF, made_of)


def prm(run: StageRun) -> Outcome:
    """Rolls out, trains and audits."""
    settings = run.settings
    assert isinstance(settings, PrmStage)
    from butwait.engines.models import load_tokenizer
    from butwait.training.prm import train_prm
    from butwait.training.rollouts import put

    rollouts, prompt = collected(run), settings.prompt or run.recipe.prompt
    if prompt != run.recipe.prompt:
        problems = run.problems(settings.problems)
        rollouts = put(rollouts, problems, prompt, load_tokenizer(run.model))
    metrics = train_prm(run.model, rollouts, settings, prompt, run.folder, run.key)
    return metrics | run.without(run.folder / ROLLOUTS), {
        "policy_tokens": metrics["sampled_tokens"],
        "trained_tokens": metrics["trained_tokens"],
    }


def _too_few(settings: Any, problems: Mapping[str, Sequence[Problem]]) -> Iterator[Unfit]:
    """Fewer questions than its parts need, which the rollouts would be sampled in vain for."""
    parts = ["to train on", "for the audit", *(["for validation"] if settings.validation else [])]
    asked = problems.get(settings.problems)
    found = sum(p.judged for p in asked or ())
    if asked and found < len(parts):
        yield (
            ("problems",),
            f"a reward model needs {len(parts)} questions with an answer, one "
            f"{', one '.join(parts)}, and {settings.problems!r} has {found}: give more problems",
        )


def _headline(metrics: Metrics) -> Iterator[str]:
    yield f"reward model: {metrics['verdict']}"
    yield from told_without(metrics)


PRM = StageKind(
    settings=PrmStage,
    gives="reward model",
    takes=frozenset({"model"}),
    sets="training",
    lacks=_too_few,
    run=prm,
    before_launch=collected,
    headline=_headline,
    section=REWARD_MODELS,
)

"""A profile of the solutions that stages made and of reference solutions: ``profile.json``."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from butwait.profile.sources import Source, SourceSolution, read_source
from butwait.recipe.stages import Metrics, Outcome, StageKind, StageSettings
from butwait.records import UserError
from butwait.records.settings import Result, Unfit
from butwait.report.sections import PROFILES
from butwait.running.files import write_json
from butwait.stages.context import StageRun


class ProfileStage(StageSettings):
    """What sets of solutions look like, side by side: those of stages, and reference solutions."""

    kind: Literal["profile"]
    sources: Result[Annotated[tuple[str, ...], Field(min_length=1)]]
    """Stages in ``from``, and problem sets with reference solutions (``columns.solution``). The
    first is the baseline of every ratio."""
    step_end: Result[Annotated[str, Field(min_length=1)]] = "\n\n"
    """What ends a step."""

    @property
    def problem_sets(self) -> tuple[str, ...]:
        return tuple(name for name in self.sources if name not in self.from_)


def profile(run: StageRun) -> Outcome:
    """Lengths are in tokens of the recipe's model: as they were sampled where the run sampled
    them, else by its tokenizer."""
    from butwait.profile.figures import measure
    from butwait.profile.findings import findings
    from butwait.profile.patterns import shipped_patterns

    settings = run.settings
    assert isinstance(settings, ProfileStage)
    prompting = run.prompting(run.name)
    sources: list[Source] = []
    for name in settings.sources:
        if name in settings.from_:
            sources += read_source(f"{name}={run.done[name].path}")
        else:
            sources.append(_reference(run, name, prompting.encode))
    measured = measure(sources, shipped_patterns(), step_end=settings.step_end)
    found = findings(measured, run.key.derive("profile").seed32())
    write_json(run.folder / "profile.json", found | {"tokenizer": prompting.tokenizer_fingerprint})
    return _metrics(found), {}


def _reference(run: StageRun, name: str, encode: Callable[[str], np.ndarray]) -> Source:
    """The reference solutions of a problem set."""
    from butwait.problems.overlap import text_id

    problems = run.problems(name)
    kept = [
        SourceSolution(text_id(p.question), p.solution, p.answer, len(encode(p.solution)))
        for p in problems
        if p.solution is not None and p.solution.strip()
    ]
    if not kept:
        raise UserError(
            f"the problem set {name!r} has no reference solutions to profile; name their column in "
            f"problems.{name}.columns.solution"
        )
    return Source(name, kept, len(problems) - len(kept))


def _metrics(found: dict[str, Any]) -> dict[str, Any]:
    """What the sentences tell, as numbers and in words."""
    return {
        "unit": found["unit"],
        "mean_lengths": {s["name"]: s["figures"]["length"]["mean"] for s in found["sources"]},
        "length_ratios": {row["source"]: row["figures"]["length"] for row in found["ratios"]},
        "sentences": found["sentences"],
    }


def _headline(metrics: Metrics) -> Iterator[str]:
    yield from metrics["sentences"]


def _check(recipe: Any, name: str) -> Iterator[Unfit]:
    stage = recipe.stages[name]
    for i, source in enumerate(stage.sources):
        if source in stage.sources[:i]:
            yield (
                ("sources", i),
                f"stage {name!r}: sources names one twice ({source!r}); name each once",
            )
        elif source in recipe.stages and source not in (*stage.from_, *recipe.problems):
            told = f"stage {name!r}: the source {source!r} is a stage; add it to `from` too"
            yield ("sources", i), told
    for i, source in enumerate(stage.from_):
        if source not in stage.sources:
            told = f"stage {name!r} takes from {source!r}, which its `sources` lack; add it there "
            yield ("from", i), f"{told}or leave it out of `from`"


PROFILE = StageKind(
    settings=ProfileStage,
    gives="profile",
    takes=frozenset({"evaluation", "trees", "data"}),
    gathers=True,
    asks=lambda settings: False,
    check=_check,
    run=profile,
    headline=_headline,
    section=PROFILES,
)

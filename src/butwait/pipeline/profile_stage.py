"""A profile of the solutions that stages made and of reference solutions: ``profile.json``."""

from collections.abc import Callable
from typing import Any

import numpy as np

from butwait.pipeline.context import StageRun
from butwait.problems.overlap import text_id
from butwait.profile.figures import measure
from butwait.profile.findings import findings
from butwait.profile.patterns import shipped_patterns
from butwait.profile.sources import Solution, Source, read_source
from butwait.recipe.stages import ProfileStage
from butwait.records import UserError
from butwait.running.files import write_json


def profile(run: StageRun) -> tuple[dict[str, Any], dict[str, int]]:
    """Lengths are in tokens of the recipe's model: as they were sampled where the run sampled
    them, else by its tokenizer."""
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
    problems = run.problems(name)
    kept = [
        Solution(text_id(p.question), p.solution, p.answer, len(encode(p.solution)))
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

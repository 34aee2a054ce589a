"""One page about the stages it takes from, and ``summary.json``; the run shows both at its
top."""

import time
from collections.abc import Iterator
from typing import Any, Literal

from butwait.recipe.stages import Metrics, Outcome, StageKind, StageSettings
from butwait.records.settings import Unfit
from butwait.report.settings import ReportSettings
from butwait.stages.context import StageRun


class ReportStage(StageSettings, ReportSettings):
    """One page and summary.json about the stages it takes from (all, if it names none)."""

    kind: Literal["report"]


def report(run: StageRun) -> Outcome:
    """``report.html`` and ``summary.json``."""
    from butwait.report.page import write_report
    from butwait.stages.comparisons import compared

    sources = run.recipe.sources(run.name)
    records = [run.done[name].record for name in run.recipe.order() if name in sources]
    own = run.stage.record | {"status": "complete"}
    started = time.monotonic()
    arms, comparisons = compared(run)
    own["seconds"] = round(time.monotonic() - started, 3)
    stages, kinds, top = [*records, own], run.recipe.kinds(), run.folder.parent
    summary = write_report(top, stages, run.recipe.name, comparisons, arms, kinds, run.folder)
    told = ("verdict", "caveats", "rankings", "rounds")
    return {name: summary[name] for name in told if name in summary}, {}


def _headline(metrics: Metrics) -> Iterator[str]:
    yield metrics["verdict"]
    yield from metrics.get("caveats", ())
    for ranking in metrics["rankings"]:
        yield f"Arms on {ranking['set']} by {ranking['method']}:"
        for place, arm in enumerate(ranking["arms"], start=1):
            yield f"{place}. {_ranked(arm)}"
    for loop in metrics.get("rounds", ()):
        yield f"Rounds of {loop['loop']}:"
        for row in loop["rounds"]:
            yield f"{row['round']}. {_round(row)}"


def _ranked(arm: Metrics) -> str:
    seeds = f" ({arm['seeds']} seeds)" if arm["seeds"] > 1 else ""
    unsure = ", ".join(arm["not_told_apart_from"])
    return f"{arm['arm']}{seeds}: {_rate(arm)}" + (
        f"; not told apart from {unsure}" if unsure else ""
    )


def _round(row: Metrics) -> str:
    told = (
        f"{row['model'] or 'base'} solves {row['solved']} of {row['questions']} by search, "
        f"{row['first_solved']} for the first time"
    )
    if row["training"]:
        told += f"; {row['new_examples']} new of {row['examples']} examples"
    if row["evaluation"]:
        told += f"; then {_rate(row['evaluation'])}"
    if gain := row["gain"]:
        low, high = gain["interval"]
        told += f", {100 * gain['delta']:+.1f} points [{100 * low:.1f}, {100 * high:.1f}]"
        told += "" if gain["told_apart"] else ", not told apart from the round before"
    return told


def _rate(row: Metrics) -> str:
    low, high = row["interval"]
    return f"{row['pass_at_1']:.1%} [{100 * low:.1f}, {100 * high:.1f}]"


def _check(recipe: Any, name: str) -> Iterator[Unfit]:
    reported = {
        f"{recipe.stages[source].arm or source}/{problem_set}/{method}"
        for source in recipe.inputs(name, "evaluation")
        for problem_set in recipe.stages[source].problem_sets
        for method in getattr(recipe.stages[source], "methods", ())
    }
    for key in recipe.stages[name].published:
        if key not in reported:
            told = f"stage {name!r}: published names {key!r}, which it does not report "
            told += f"(it reports: {', '.join(sorted(reported)) or 'no evaluation'})"
            yield ("published", key), told


REPORT = StageKind(
    settings=ReportStage,
    gives="report",
    gathers=True,
    takes_all=True,
    asks=lambda settings: False,
    check=_check,
    run=report,
    headline=_headline,
)

"""The report of a run: one self-contained HTML page, and ``summary.json`` beside it.

Each section takes what it finds on disk; a run that lacks a stage gives a smaller page. Text of
models and data sets is escaped by the templates (autoescape).
"""

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from butwait.report import formats
from butwait.report.budget import budgets
from butwait.report.collect import (
    Evaluation,
    by_name,
    costs,
    evaluations,
    first_seeds,
    lengths,
    published,
    read_json,
)
from butwait.report.figures import (
    LengthRow,
    accuracy_against_tokens,
    histogram_row,
    length_row,
    solution_lengths,
    training_curves,
)
from butwait.report.kinds import PageMaterial, Record, ReportedKinds, Section, kind_of
from butwait.report.lineage import ancestry, describe_model, supervision_of_evaluation
from butwait.report.planned import planned
from butwait.report.profiles import shown
from butwait.report.ranking import Ranking, rankings
from butwait.report.rounds import rounds_of
from butwait.report.samples import of_each, side_by_side
from butwait.report.sections import PROFILES, REINFORCEMENT, REWARD_MODELS, SEARCHES
from butwait.report.svg import series_variable
from butwait.report.verdict import Verdict, judge, strength
from butwait.running.files import atomic_path, write_json
from butwait.running.json_lines import read_log
from butwait.running.stages import WORKERS

SCHEMA_VERSION = 1
"""Of ``summary.json``; ``docs/report.md`` describes every key."""

_AUDITED = frozenset({"verdict", "within_question_auc", "auc", "ece"})
"""Metrics of a reward model's training that its own section tells."""

_SHOWN_ELSEWHERE = frozenset({"model", "evaluation", "report"})
"""What is given by stages whose figures stand in another part of the page."""


def write_report(
    run: Path,
    stages: Sequence[Record],
    recipe_name: str,
    comparisons: Sequence[dict[str, Any]],
    arms: Mapping[str, dict[str, Any]],
    kinds: ReportedKinds,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Writes report.html and summary.json, each whole or not at all.

    Args:
        run: the run's folder.
        stages: the stages' records (stage.json) in recipe order.
        recipe_name: the recipe's name, for the title.
        comparisons: paired comparisons {a, b, delta, interval, p, estimand, test, ...}; ``a`` and
            ``b`` are "stage/set/method", delta is b minus a as a fraction.
        arms: "arm/set/method" -> the metrics of an arm's seeds together; ``a`` and ``b`` name
            arms in place of their stages.
        kinds: kind's name -> what the report asks of it. Stages of a kind that it lacks are shown
            with their plain figures.
        folder: where they go; None: into the run's folder.

    Returns:
        The content of summary.json.

    Raises:
        UserError: a file of the run is damaged, or the disk is full.
    """
    folder, rows = folder or run, evaluations(stages, kinds, arms)
    records = by_name(stages, rows)
    colours = {stage: i for i, stage in enumerate(dict.fromkeys(row.stage for row in rows))}
    results = Results(
        rows,
        records,
        comparisons,
        judge(stages, rows, comparisons, kinds),
        rankings(rows, comparisons),
        {row.key: supervision_of_evaluation(row, records, kinds) for row in rows},
        published(stages, kinds),
        rounds_of(run, stages, rows, comparisons, kinds),
    )
    parts, page = _parts(PageMaterial(run, stages, kinds, colours), results), folder / "report.html"
    _write(page, "page.html", recipe=recipe_name, verdict=results.verdict, parts=parts)
    told = [part.data for part in parts if part.template == REINFORCEMENT.template]
    summary = summary_of(recipe_name, stages, results, told[0]["summary"] if told else {})
    summary["caveats"] = [*results.verdict.caveats, *(w for data in told for w in data["warnings"])]
    for part in parts:
        if part.template == "budget.html":
            summary["budgets"] = plain(part.data["summary"])
    write_json(folder / "summary.json", summary)
    return summary


def write_profile(target: Path, profile: dict[str, Any]) -> None:
    """Writes a profile (``profile.findings``) as a page of its own, as a run's report shows it.

    Raises UserError where the page cannot be written.
    """
    _write(target, "profile-page.html", data=[shown("profile", profile)])


def write_comparison(target: Path, found: dict[str, Any], texts: Mapping[str, str]) -> None:
    """Writes what ``evaluation.many.compare_all`` found, with ``notes``, as a page of its own.
    ``texts``: the questions by their ids.

    Raises UserError where the page cannot be written.
    """
    _write(target, "comparison-page.html", found=found, texts=texts)


@cache
def templates() -> Environment:
    """The templates of the page, with its filters, compiled once. Text is escaped."""
    environment = Environment(
        loader=PackageLoader("butwait.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= formats.FILTERS | {"colour": series_variable, "strength": strength}
    return environment


def _write(target: Path, template: str, **content: Any) -> None:
    html = templates().get_template(template).render(version=butwait_version(), **content)
    with atomic_path(target) as path:
        path.write_text(html, encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Results:
    """What the page tells of the run as a whole; ``supervision`` and ``published`` are by the
    evaluation's key."""

    rows: Sequence[Evaluation]
    records: Mapping[str, Record]
    comparisons: Sequence[dict[str, Any]]
    verdict: Verdict
    rankings: Sequence[Ranking]
    supervision: Mapping[str, str]
    published: Mapping[str, dict[str, Any]]
    rounds: Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Part:
    """``template`` renders ``data`` under the heading ``title``; its stem is the anchor."""

    title: str
    template: str
    data: Any


def _parts(material: PageMaterial, results: Results) -> list[Part]:
    """The parts that this run has something for, in the order of the page. Sections of kinds from
    outside butwait stand before the plain figures."""
    stages_of: dict[Section, list[Record]] = {}
    for stage in material.stages:
        if (section := kind_of(stage, material.kinds).section) is not None:
            stages_of.setdefault(section, []).append(stage)

    def of(section: Section) -> Part:
        stages = stages_of.pop(section, None)
        return Part(section.title, section.template, stages and section.data(material, stages))

    ranked = results.rankings and {"results": results, "colours": material.colours}
    return [
        part
        for part in (
            Part("Arms, ranked", "ranking.html", ranked),
            Part("Rounds", "rounds.html", _rounds(material, results)),
            Part("Evaluations", "evaluations.html", _evaluations(material, results)),
            Part(
                "Budget",
                "budget.html",
                budgets(material, results.rows, results.records),
            ),
            Part("Solution lengths", "lengths.html", _lengths(material, results)),
            *map(of, (PROFILES, REWARD_MODELS, SEARCHES)),
            Part("Attempts side by side", "samples.html", _samples(material, results)),
            Part("Attempts", "attempts.html", of_each(material.run, results.rows)),
            of(REINFORCEMENT),
            Part("Training", "training.html", _trainings(material)),
            *map(of, list(stages_of)),
            Part("Data and other stages", "stages.html", _others(material)),
            Part("Workers", "workers.html", _workers(material)),
            Part("Cost", "cost.html", material.stages and costs(material.stages)),
            Part("Planned and actual", "planned.html", planned(material.run, material.stages)),
            Part("Provenance", "provenance.html", material.stages),
        )
        if part.data
    ]


def _workers(material: PageMaterial) -> dict[str, Any]:
    """Stage -> how its workers fared, of those that had some."""
    found = {}
    for stage in material.stages:
        with suppress(OSError, ValueError):  # most have none
            told = (material.run / stage["name"] / WORKERS).read_text(encoding="utf-8")
            found[stage["name"]] = json.loads(told)
    return found


def _rounds(material: PageMaterial, results: Results) -> list[tuple[dict[str, Any], list[float]]]:
    """Each loop, and the wall time of each of its rounds."""
    seconds = {s["name"]: formats.finite(s.get("seconds")) or 0.0 for s in material.stages}
    return [
        (loop, [sum(seconds[name] for name in row["stages"]) for row in loop["rounds"]])
        for loop in results.rounds
    ]


def _evaluations(material: PageMaterial, results: Results) -> dict[str, Any] | None:
    if not results.rows:
        return None
    records, by_set = results.records, dict[str, list[Evaluation]]()
    for row in results.rows:
        by_set.setdefault(row.set, []).append(row)
    return {
        "results": results,
        "colours": material.colours,
        "by_set": by_set,
        "models": {
            stage: (describe_model(stage, records, material.kinds), ancestry(stage, records))
            for stage in material.colours
        },
        "adjusted": any("p_holm" in comparison for comparison in results.comparisons),
        "figure": accuracy_against_tokens(results.rows, material.colours),
    }


def _lengths(material: PageMaterial, results: Results) -> Any:
    """Data sets first, then the attempts of each model: the correct ones, which data sets hold
    only, and all."""
    groups: list[LengthRow | None] = []
    for stage in material.stages:
        if kind_of(stage, material.kinds).gives == "data":
            name = stage["name"]
            statistics = read_json(material.run / name / "statistics.json") or {}
            histogram = statistics.get("lengths") or {"edges": (), "counts": ()}
            groups.append(
                histogram_row(
                    f"data: {name}", histogram["edges"], histogram["counts"], len(material.colours)
                )
            )
    for row in _plain_rows(results):
        every, correct = lengths(material.run, row)
        colour = material.colours[row.stage]
        groups.append(length_row(f"{row.stage}, correct", correct, colour))
        groups.append(length_row(f"{row.stage}, all", every, colour))
    return solution_lengths([group for group in groups if group is not None])


def _plain_rows(results: Results) -> list[Evaluation]:
    """Of each evaluate stage on the headline's set: plain sampling, or its cheapest method."""
    chosen, rows = results.verdict.comparison, results.rows
    problem_set = chosen["b"].split("/")[1] if chosen else rows[0].set if rows else ""
    best: dict[str, Evaluation] = {}
    for row in rows:
        if row.set == problem_set:
            found = best.setdefault(row.stage, row)
            best[row.stage] = min(found, row, key=lambda r: (not r.plain, r.attempt_tokens))
    return list(best.values())


def _samples(material: PageMaterial, results: Results) -> Any:
    """The headline's two models by their plain method, side by side."""
    if (chosen := results.verdict.comparison) is None:
        return None
    by_key = {row.key: row for row in results.rows}
    return side_by_side(material.run, by_key[chosen["a"]], by_key[chosen["b"]])


def _trainings(material: PageMaterial) -> list[dict[str, Any]]:
    """Every stage with a log, of an arm the first seed; what the audit says of a reward model, and
    trainings whose section shows their log, stand there."""
    found = []
    for stage in first_seeds(material.stages):
        kind, name = kind_of(stage, material.kinds), stage["name"]
        if kind.section is not None and kind.section.shows_log:
            continue
        per = "step label" if kind.gives == "reward model" else "token"
        figure = training_curves(name, read_log(material.run / name / "log.jsonl"), per)
        metrics = formats.scalars(stage.get("metrics") or {})
        metrics = {key: value for key, value in metrics.items() if key not in _AUDITED}
        if figure or (metrics and kind.gives == "model"):
            found.append({"stage": stage, "figure": figure, "metrics": metrics})
    return found


def _others(material: PageMaterial) -> list[tuple[Record, dict[str, Any]]]:
    """Data sets, and stages of kinds that no other part of this page tells of: their plain
    figures."""
    kinds = [(stage, kind_of(stage, material.kinds)) for stage in material.stages]
    left = (
        stage
        for stage, kind in kinds
        if kind.section is None and kind.gives not in _SHOWN_ELSEWHERE
    )
    return [(s, metrics) for s in left if (metrics := formats.scalars(s.get("metrics") or {}))]


_STAGE_KEYS = ("kind", "status", "seconds", "metrics", "from", "cost")


def summary_of(
    recipe_name: str, stages: Sequence[Record], results: Results, reinforcement: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of ``summary.json``: the run's numbers for scripts. ``reinforcement`` is by the
    stage.

    Rates are fractions. Stages stand in recipe order, evaluations in the order of their stages.
    A number that is not finite becomes null. Seconds stand only under ``stages``, so that two
    runs with the same seed can be compared by the rest.
    """
    rows: dict[str, dict[str, Any]] = {}
    for row in results.rows:
        rows[row.key] = {**row.metrics, "supervision": results.supervision[row.key]}
        if row.key in results.published:
            rows[row.key]["published"] = results.published[row.key]
    return plain(
        {
            "schema_version": SCHEMA_VERSION,
            "butwait_version": butwait_version(),
            "recipe": recipe_name,
            "verdict": results.verdict.sentence,
            "stages": {
                stage["name"]: {key: stage.get(key) for key in _STAGE_KEYS} for stage in stages
            },
            "evaluations": rows,
            "comparisons": results.comparisons,
            "rankings": [asdict(ranking) for ranking in results.rankings],
            "reinforcement": reinforcement,
            **({"rounds": results.rounds} if results.rounds else {}),
        }
    )


def butwait_version() -> str:
    """The installed version, "unknown" where butwait runs from a folder never installed."""
    try:
        return version("butwait")
    except PackageNotFoundError:
        return "unknown"


def plain(value: Any) -> Any:
    """``value`` as JSON knows it: string keys, lists, Python numbers; not finite -> None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value

"""The report of a run: one self-contained HTML page, and ``summary.json`` beside it.

Each section takes what it finds on disk; a run that lacks a stage gives a smaller page. Text of
models and data sets is escaped by the templates (autoescape).
"""

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from butwait.report import formats, sections
from butwait.report.collect import Record, evaluations
from butwait.report.ranking import rankings
from butwait.report.reinforcement.section import facts
from butwait.report.summary import butwait_version, summarise
from butwait.report.verdict import judge
from butwait.running.files import atomic_path, write_json


def write_report(
    run: Path,
    stages: list[Record],
    recipe_name: str,
    comparisons: list[dict[str, Any]],
    arms: dict[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Writes RUN/report.html and RUN/summary.json, each whole or not at all.

    Args:
        run: the run's folder.
        stages: the stages' records (stage.json) in recipe order.
        recipe_name: the recipe's name, for the title.
        comparisons: paired comparisons {a, b, delta, interval, p, estimand, test, ...}; ``a`` and
            ``b`` are "stage/set/method", delta is b minus a as a fraction.
        arms: "arm/set/method" -> the metrics of an arm's seeds together; ``a`` and ``b`` name
            arms in place of their stages.

    Returns:
        The content of summary.json.

    Raises:
        UserError: a file of the run is damaged, or the disk is full.
    """
    rows = evaluations(stages, arms)
    verdict = judge(stages, rows, comparisons)
    ranked = rankings(rows, comparisons)
    material = sections.Material(run, stages, rows, comparisons, verdict, ranked)
    html = (
        _templates()
        .get_template("page.html")
        .render(
            recipe=recipe_name,
            version=butwait_version(),
            verdict=verdict,
            sections=sections.build(material),
        )
    )
    with atomic_path(run / "report.html") as path:
        path.write_text(html, encoding="utf-8")
    summary = summarise(
        recipe_name,
        verdict.sentence,
        stages,
        rows,
        comparisons,
        ranked,
        material.supervision,
        material.published,
        facts(material.trainings),
    )
    write_json(run / "summary.json", summary)
    return summary


def write_profile(target: Path, profile: dict[str, Any]) -> None:
    """Writes a profile (``profile.findings``) as a page of its own, as a run's report shows it.

    Raises UserError where the page cannot be written.
    """
    data = [sections.profile_section("profile", profile)]
    html = (
        _templates().get_template("profile-page.html").render(data=data, version=butwait_version())
    )
    with atomic_path(target) as path:
        path.write_text(html, encoding="utf-8")


def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("butwait.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["typeset"] = formats.typeset
    environment.filters["pretty_json"] = lambda value: json.dumps(value, indent=2, default=str)
    return environment

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
from butwait.report.summary import butwait_version, summarise
from butwait.report.verdict import judge
from butwait.running.files import atomic_path, write_json


def write_report(
    run: Path, stages: list[Record], recipe_name: str, comparisons: list[dict[str, Any]]
) -> dict[str, Any]:
    """Writes RUN/report.html and RUN/summary.json, each whole or not at all.

    Args:
        run: the run's folder.
        stages: the stages' records (stage.json) in recipe order.
        recipe_name: the recipe's name, for the title.
        comparisons: paired comparisons {a, b, delta, interval, p, estimand, test, ...}; ``a`` and
            ``b`` are "stage/set/method", delta is b minus a as a fraction.

    Returns:
        The content of summary.json.

    Raises:
        UserError: a file of the run is damaged, or the disk is full.
    """
    rows = evaluations(stages)
    verdict = judge(stages, rows, comparisons)
    material = sections.Material(run, stages, rows, comparisons, verdict)
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
    summary = summarise(recipe_name, verdict.sentence, stages, rows, comparisons)
    write_json(run / "summary.json", summary)
    return summary


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

"""Figures of others beside the run's own."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from report_fake_kinds import KINDS

from butwait.report.collect import published
from butwait.report.formats import published_rates as cell
from butwait.report.page import write_report

KEY = "base_eval/heldout/plain"
FIGURE = {
    "pass_at_1": 0.1917,
    "pass_at_k": {"8": 0.4333},
    "n": 30,
    "k": 8,
    "source": "example.org/<post>",
    "note": "The best of four checkpoints.",
}


def with_published(stages: list[dict[str, Any]], figures: dict[str, Any]) -> list[dict[str, Any]]:
    *others, report = stages
    return [*others, report | {"settings": report["settings"] | {"published": figures}}]


def test_a_cell_has_the_rates_that_were_published() -> None:
    assert cell(FIGURE) == "19.17 %, @8 43.33 %"
    assert cell({"pass_at_1": 0.32}) == "32 %"
    assert cell({"pass_at_1": None, "pass_at_k": {"16": 0.5, "8": 0.25}}) == "@8 25 %, @16 50 %"
    assert cell({}) == ""


def test_sources_stand_in_the_order_of_the_table(tmp_path: Path) -> None:
    stages: list[dict[str, Any]] = [
        {"name": name, "kind": "evaluate", "metrics": {"aime24/sample": {}}}
        for name in ("base", "sft", "rl")
    ]
    known = {
        "rl/aime24/sample": {"pass_at_1": 0.2, "source": "there"},
        "base/aime24/sample": FIGURE,
        "gone/aime24/sample": FIGURE,
    }
    report = {"name": "report", "kind": "report", "settings": {"published": known}}
    write_report(tmp_path, [*stages, report], "seed", [], {}, KINDS)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    table = html.partition("published, beside")[2].partition("</table>")[0]
    text = re.sub(r"<[^>]+>", "|", table).replace("\u202f", " ")
    assert [cell for cell in re.split(r"[|\s]*[|][|\s]*", text) if cell] == [
        "figure", "source",
        "base/aime24/sample", "30 questions, 8 samples of each", "19.17 %, @8 43.33 %",
        "example.org/&lt;post&gt;", "The best of four checkpoints.",
        "rl/aime24/sample", "20 %", "there",
    ]  # fmt: skip


def test_the_page_shows_them_with_their_sources_and_the_summary_has_them(
    whole_run: tuple[Path, list, list], tmp_path: Path
) -> None:
    run, stages, comparisons = whole_run
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    summary = write_report(
        copy, with_published(stages, {KEY: FIGURE}), "seed", comparisons, {}, KINDS
    )
    html = (copy / "report.html").read_text(encoding="utf-8")
    assert "19.17\u202f%, @8 43.33\u202f%" in html
    assert "30 questions, 8 samples of each" in html
    assert "example.org/&lt;post&gt;<br>The best of four checkpoints." in html
    assert "no difference to them is evidence" in html
    assert summary["evaluations"][KEY]["published"] == FIGURE
    assert "published" not in summary["evaluations"]["sft_eval/heldout/plain"]
    # The figures of the run are what they are without them.
    plain = write_report(copy, stages, "seed", comparisons, {}, KINDS)
    for name in ("verdict", "comparisons", "rankings"):
        assert plain[name] == summary[name]
    assert "no difference to them is evidence" not in (copy / "report.html").read_text()
    assert "published" not in json.dumps(plain["evaluations"])


def test_a_run_without_published_figures_has_none() -> None:
    assert published([{"name": "report", "kind": "report"}], KINDS) == {}
    assert published([{"kind": "report", "settings": {"published": {KEY: FIGURE}}}], KINDS) == {
        KEY: FIGURE
    }

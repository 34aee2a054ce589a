"""Budget ladders on the page and in summary.json."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from report_fake_kinds import KINDS

from butwait.evaluation.metrics import attempt_figures
from butwait.evaluation.storage import write_shard
from butwait.records import Attempt
from butwait.report import collect, page
from butwait.report.budget import budgets
from butwait.report.collect import Evaluation
from butwait.report.kinds import PageMaterial
from butwait.running.json_lines import dump_rows


def evaluation(run: Path, stage: str, name: str, right: list[int], **clusters: str) -> Any:
    """A row and its record: of each question so many of four attempts are right."""
    attempts = [
        [
            Attempt(f"q{i}", s, f"{i}/{s}", "eos", "1", status, 9, 0, 9, int(s >= c))
            for s in range(4)
            for status in ("correct" if s < c else "wrong",)
        ]
        for i, c in enumerate(right)
    ]
    folder = run / stage / "attempts" / name / "plain"
    folder.mkdir(parents=True)
    half = len(attempts) // 2
    write_shard(folder / "shard-00000.parquet", attempts[:half])
    write_shard(folder / "shard-00001.parquet", attempts[half:])
    figures = attempt_figures([a for one in attempts for a in one], clusters or None)
    record = {"name": stage, "kind": "evaluate", "metrics": {f"{name}/plain": figures}}
    record["settings"] = {"clusters": {name: "year"}} if clusters else {}
    return Evaluation(stage, name, "plain", figures), record


def test_sets_are_never_in_one_chart(tmp_path):
    pairs = [
        evaluation(tmp_path, stage, name, right)
        for stage, name, right in (
            ("base", "hard", [0, 1, 2, 1]),
            ("after", "hard", [1, 1, 2, 3]),
            ("after_easy", "easy", [4, 4, 4, 3]),
        )
    ]
    rows, records = [row for row, _ in pairs], {row.stage: record for row, record in pairs}
    colours = {"other": 0, "base": 1, "after": 2, "after_easy": 3}
    found = budgets(PageMaterial(tmp_path, list(records.values()), {}, colours), rows, records)
    assert found is not None
    hard, easy = found["figures"]
    assert (hard.title, easy.title) == (
        "Accuracy against the budget, hard",
        "Accuracy against the budget, easy",
    )
    assert "Right most often is after/hard/plain by" in hard.reading
    assert "Right most often is after_easy/easy/plain by" in easy.reading
    drawn = [(entry.sign, entry.colour, entry.text) for entry in (*hard.legend, *easy.legend)]
    assert drawn == [
        ("●", "var(--s2)", "base/hard/plain (vote)"),
        ("●", "var(--s3)", "after/hard/plain (vote)"),
        ("●", "var(--s4)", "after_easy/easy/plain (vote)"),
    ]
    assert 'id="budget-0-' in hard.svg
    assert 'id="budget-1-' in easy.svg
    told = found["summary"]["after/hard/plain"]
    assert (told["set"], told["how"]) == ("hard", "vote")
    assert [rung["n"] for rung in told["rungs"]] == [1, 2, 4]
    assert told["rungs"][0]["accuracy"] == pytest.approx(7 / 16)


def test_intervals_count_clusters(tmp_path):
    right = [0, 0, 1, 4, 4, 3]
    years = {f"q{i}": str(i // 3) for i in range(6)}
    row, record = evaluation(tmp_path, "base", "aime", right, **years)
    material = PageMaterial(tmp_path, [record], {}, {"base": 0})
    assert budgets(material, [row], {"base": record}) is None  # the questions are not there
    asked = [{"id": i, "question": i, "metadata": {"year": int(year)}} for i, year in years.items()]
    (tmp_path / "problems").mkdir()
    (tmp_path / "problems" / "aime.jsonl").write_text(dump_rows(asked))
    found = budgets(material, [row], {"base": record})
    assert found is not None
    first = found["ladders"][0].rungs[0]
    assert first.interval == pytest.approx(row.metrics["interval"])
    assert first.interval[1] - first.interval[0] > 0.8  # two years are hardly a sample


def test_the_summary_holds_what_the_page_shows(whole_run, tmp_path):
    run, stages, comparisons = whole_run
    summary = page.write_report(run, stages, "toy", comparisons, {}, KINDS, tmp_path)
    assert list(summary["budgets"]) == [
        f"{stage}/heldout/{method}"
        for stage in ("base_eval", "sft_eval")
        for method in ("plain", "filter8")
    ]
    ladder = summary["budgets"]["base_eval/heldout/plain"]
    assert ladder["rungs"][0]["accuracy"] == pytest.approx(
        summary["evaluations"]["base_eval/heldout/plain"]["pass_at_1"]
    )
    assert json.loads((tmp_path / "summary.json").read_text())["budgets"] == summary["budgets"]


def test_texts_are_read_of_the_one_shard_that_holds_the_attempt(tmp_path, monkeypatch):
    row, _ = evaluation(tmp_path, "base", "aime", [1, 2, 3, 4])
    read, real = [], pq.read_table

    def noted(shard: Path, **options: Any) -> Any:
        if "text" in options["columns"]:
            read.append(shard.name)
        return real(shard, **options)

    monkeypatch.setattr(collect.pq, "read_table", noted)
    found = collect.attempt(tmp_path, row, ("text", "status"), "q3", 2)
    assert found == {"text": "3/2", "status": "correct"}
    assert read == ["shard-00001.parquet"]
    with pytest.raises(KeyError):
        collect.attempt(tmp_path, row, ("text",), "q3", 4)

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from report_fake_kinds import KINDS
from report_fake_run import EVIL, build_run, comparisons_of

from butwait.records import UserError
from butwait.report.page import plain, write_report
from butwait.report.samples import side_by_side

DOCS = Path(__file__).parents[2] / "docs" / "report.md"
VOID = {"meta", "br", "img", "hr", "input", "link"}


class Page(HTMLParser):
    """What a browser would see: tags balanced, ids, headings, addresses, scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.headings: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._note(attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._note(attributes)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data.strip())

    def _note(self, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "srcset", "data"):
                self.addresses.append(value or "")


@pytest.fixture(scope="module")
def written(whole_run: tuple[Path, list, list]) -> tuple[str, dict[str, Any], Path]:
    run, stages, comparisons = whole_run
    summary = write_report(run, stages, "quickstart", comparisons, {}, KINDS)
    return (run / "report.html").read_text(encoding="utf-8"), summary, run


def test_the_page_holds_its_sections_in_order(written: tuple[str, dict, Path]) -> None:
    html, summary, _ = written
    page = Page(html)
    assert page.open == []
    assert page.headings[0].replace("\u202f", " ").replace("\u00a0", " ") == summary["verdict"]
    assert page.headings[1:] == [
        "Evaluations", "Budget", "Solution lengths", "Reward model", "Search",
        "Attempts side by side", "Attempts", "Training", "Data and other stages",
        "Cost", "Provenance",
    ]  # fmt: skip


def test_the_page_loads_nothing_and_is_small(written: tuple[str, dict, Path]) -> None:
    html, _, run = written
    page = Page(html)
    assert all(address.startswith("#") for address in page.addresses)
    assert not page.tags & {"script", "link", "img", "iframe", "object"}
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert (run / "report.html").stat().st_size < 1_500_000


def test_ids_are_unique_and_references_lead_somewhere(written: tuple[str, dict, Path]) -> None:
    html = written[0]
    page = Page(html)
    twice = {name for name in page.ids if page.ids.count(name) > 1}
    # matplotlib defines a shape once for every use; the same id then has the same content.
    assert all(re.fullmatch(r"[\w-]+-(m|p)[0-9a-f]{8,}", name) for name in twice)
    used = {address[1:] for address in page.addresses} | set(re.findall(r"url\(#([^)]+)\)", html))
    assert used <= set(page.ids)


def test_text_of_a_model_is_shown_and_never_run(written: tuple[str, dict, Path]) -> None:
    html = written[0]
    assert EVIL not in html
    assert "&lt;script&gt;alert(&#39;from a model&#39;)&lt;/script&gt;" in html


def test_a_second_report_is_the_same_bytes(
    whole_run: tuple[Path, list, list], written: tuple[str, dict, Path]
) -> None:
    run, stages, comparisons = whole_run
    summary = (run / "summary.json").read_bytes()
    write_report(run, stages, "quickstart", comparisons, {}, KINDS)
    assert (run / "report.html").read_text(encoding="utf-8") == written[0]
    assert (run / "summary.json").read_bytes() == summary


def test_summary_on_disk(written: tuple[str, dict, Path]) -> None:
    _, summary, run = written
    stored = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert stored == summary
    assert list(stored) == [
        "schema_version", "butwait_version", "recipe", "verdict", "stages", "evaluations",
        "comparisons", "rankings", "reinforcement", "caveats", "budgets",
    ]  # fmt: skip
    assert stored["schema_version"] == 1
    assert stored["recipe"] == "quickstart"
    assert list(stored["stages"])[:3] == ["base_eval", "prm", "search"]
    assert set(stored["stages"]["prm"]) == {"kind", "status", "seconds", "metrics", "from", "cost"}
    assert stored["stages"]["prm"]["seconds"] == 71.2
    assert list(stored["evaluations"]) == [
        f"{stage}/heldout/{method}"
        for stage in ("base_eval", "sft_eval")
        for method in ("plain", "filter8")
    ]
    base = stored["evaluations"]["base_eval/heldout/plain"]
    assert base["n"] == 60
    assert base["k"] == 4
    assert base["interval"][0] < base["pass_at_1"] < base["interval"][1] < 1
    assert [c["a"] for c in stored["comparisons"]] == [
        "base_eval/heldout/filter8", "base_eval/heldout/plain", "base_eval/heldout/plain",
    ]  # fmt: skip


def test_seconds_stand_only_under_stages(written: tuple[str, dict, Path]) -> None:
    rest = {name: value for name, value in written[1].items() if name != "stages"}
    assert "seconds" not in json.dumps(rest)


def test_what_is_no_number_becomes_null() -> None:
    import numpy as np

    value = {"a": float("nan"), 3: (np.float32(0.5), np.int64(2), np.array([1.0, np.inf]))}
    assert plain(value) == {"a": None, "3": [0.5, 2, [1.0, None]]}


@pytest.mark.parametrize(
    "left_out",
    [
        ("prm",),
        ("search", "verified", "sft", "sft_eval"),
        ("base_eval", "sft_eval"),
        ("prm", "search", "verified", "sft", "sft_eval", "report"),
    ],
)
def test_a_partial_run_gives_a_smaller_page(tmp_path: Path, left_out: tuple[str, ...]) -> None:
    stages = build_run(tmp_path, n=6, trees=2, leave_out=left_out)
    for name in left_out:
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    summary = write_report(tmp_path, stages, "partial", [], {}, KINDS)
    assert set(summary["stages"]).isdisjoint(left_out)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert ("Reward model" in page.headings) == ("prm" not in left_out)
    assert ("Evaluations" in page.headings) == ("base_eval" not in left_out)


def test_an_empty_run_gives_a_page(tmp_path: Path) -> None:
    summary = write_report(tmp_path, [], "empty", [], {}, KINDS)
    assert summary["verdict"].startswith("This run has no evaluation yet")
    assert Page((tmp_path / "report.html").read_text(encoding="utf-8")).open == []


def test_stages_that_have_not_run_yet_are_taken_as_they_are(tmp_path: Path) -> None:
    stages = [
        {"name": "base", "kind": "evaluate", "from": [], "status": "running", "metrics": {}},
        {"name": "filter", "kind": "search", "from": [], "status": "running", "seconds": 1.0},
    ]
    write_report(tmp_path, stages, "started", [], {}, KINDS)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Not finished: base, filter." in html


def test_an_unknown_kind_shows_its_figures(tmp_path: Path) -> None:
    metrics = {"best_reward": 0.25, "note": "<b>bold</b>", "curve": [1, 2], "stopped": True}
    stage = {"name": "tune", "kind": "grpo_next", "from": [], "status": "complete", "seconds": 2.0}
    write_report(tmp_path, [stage | {"metrics": metrics}], "later", [], {}, KINDS)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    for text in ("tune", "grpo_next", "best reward", "0.25", "&lt;b&gt;bold&lt;/b&gt;", "yes"):
        assert text in html
    assert "<b>bold</b>" not in html


@pytest.mark.parametrize(
    "file",
    [
        "base_eval/attempts/heldout/plain/shard-00000.parquet",
        "prm/audit.json",
        "search/trees/shard-00000.parquet",
        "verified/statistics.json",
    ],
)
def test_a_damaged_file_is_named_and_the_old_report_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.setattr(Figure, "savefig", lambda _, page, **__: page.write("<svg></svg>"))
    stages = build_run(tmp_path, n=4, trees=2)
    comparisons = comparisons_of(tmp_path)
    write_report(tmp_path, stages, "quickstart", comparisons, {}, KINDS)
    old = (tmp_path / "report.html").read_bytes()
    (tmp_path / file).write_bytes(b"{broken")
    with pytest.raises(UserError, match=re.escape(file)):
        write_report(tmp_path, stages, "quickstart", comparisons, {}, KINDS)
    assert (tmp_path / "report.html").read_bytes() == old


def test_a_log_line_cut_by_a_crash_is_left_out(tmp_path: Path) -> None:
    stages = build_run(tmp_path, n=4, trees=2)
    with (tmp_path / "sft" / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"step": 130, "lo')
    write_report(tmp_path, stages, "quickstart", [], {}, KINDS)
    assert "Over 25 logged steps" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_samples_are_counted_over_first_attempts(whole_run: tuple[Path, list, list]) -> None:
    from butwait.evaluation.storage import read_attempts
    from butwait.report.collect import evaluations

    run, stages, _ = whole_run
    rows = {row.key: row for row in evaluations(stages, KINDS)}
    keys = ("base_eval/heldout/plain", "sft_eval/heldout/plain")
    shown = side_by_side(run, *(rows[key] for key in keys))
    right = [
        {
            attempt.problem_id: attempt.status == "correct"
            for attempt in read_attempts(run / key.split("/")[0] / "attempts/heldout/plain")
            if attempt.sample == 0
        }
        for key in keys
    ]
    gained = [i for i in right[0] if right[1][i] and not right[0][i]]
    assert shown is not None
    assert shown.counts["only the second is right"] == len(gained)
    assert sum(shown.counts.values()) == 60
    assert shown.pairs[0].problem_id == gained[0]
    assert shown.pairs[0].b["status"] == "correct"
    assert shown.pairs[0].known["question"].startswith("What is ")


def test_every_key_of_the_summary_is_documented(written: tuple[str, dict, Path]) -> None:
    text = DOCS.read_text(encoding="utf-8")
    summary = written[1]
    stages, rows = summary["stages"].values(), summary["evaluations"].values()
    keys = set(summary)
    keys |= {key for stage in stages for key in stage}
    keys |= {key for stage in stages for key in stage["cost"]}
    keys |= {key for row in rows for key in row} | {s for row in rows for s in row["status"]}
    keys |= {key for comparison in summary["comparisons"] for key in comparison}
    assert [key for key in sorted(keys) if f"`{key}`" not in text] == []

"""Names and texts of users on the way through a whole run: they are shown, stored, and obeyed by
nobody."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))

from pipeline_runs import PLUGIN

from butwait.running.json_lines import read_rows

NAME = "[bold]$x_{$ :warning: [red]"
TEXT = "\x1b[31m<script>\x00$[/]\u202e"


STEP = {"delimiters": ["\n"], "max_tokens": 8}
SAMPLER = {"kind": "self_consistency", "samples": 4, "step": STEP}
SET = {
    "source": "[red].json",
    "columns": {"answer": "gold.any", "id": "key", "metadata": ["note"]},
    "accept_any": True,
    "repeated_ids": "number",
}
RECIPE = {
    "name": f"run {NAME}",
    "model": {"name": "none"},
    "engine": {"kind": "scripted", "script": "toys:policy"},
    "problems": {f"set {NAME}": {**SET, "limit": 2}, "[bold]": {**SET, "offset": 2}},
    "stages": {
        "search": {"kind": "search", "problems": "[bold]", "sampler": SAMPLER},
        "ask": {
            "kind": "evaluate",
            "problems": [f"set {NAME}"],
            "methods": {"plain": {"k": 2, "sampler": {"kind": "independent", "step": STEP}}},
        },
        "report": {"kind": "report"},
    },
}


def test_nobody_obeys_a_name(
    own_folder: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    (own_folder / "toys.py").write_text(PLUGIN)
    rows = [
        {"question": f"{TEXT} {i}", "gold": {"any": ["3", 5]}, "key": TEXT, "note": {TEXT: [TEXT]}}
        for i in range(4)
    ]
    (own_folder / "[red].json").write_text(json.dumps(rows))
    (own_folder / "mine.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    code, out, err = command("run", "mine.yaml", "--run-dir", "run [x]")
    assert (code, err) == (0, "")
    assert f"run {NAME} in run [x]" in out
    assert "\x1b[31m" not in out
    (test, train) = (own_folder / "run [x]" / "problems").glob("*.jsonl")
    for file in (test, train):
        for row in read_rows(file):
            assert row["question"].startswith(TEXT)
            assert row["id"].startswith(TEXT)
            assert (row["answer"], row["also"], row["answer_kind"]) == ("3", ["5"], "integer")
            assert row["metadata"] == {"note": {TEXT: [TEXT]}}
    summary = json.loads((own_folder / "run [x]" / "summary.json").read_text())
    assert "solves 100.0 %" in summary["verdict"]
    page = (own_folder / "run [x]" / "report.html").read_text()
    assert "<script>\x00" not in page
    again = command("run", "mine.yaml", "--run-dir", "run [x]")
    assert again[0] == 0
    assert again[1].count("finished before") == 3
    code, out, err = command("trees", "run [x]/search")
    assert (code, err) == (0, "")
    assert r"\x1b[31m<script>\x00$[/]" in out
    assert "\x1b[31m" not in out
    code, out, err = command("profile", "[/]=run [x]/search", "[b]=run [x]/ask", "--html", "p.html")
    assert (code, err) == (0, "")
    assert "[/]" in out
    code, out, err = command("trees", "run [x]/search", "--problem", TEXT + "\ud83d")
    assert code == 2
    assert "\x1b[31m" not in err

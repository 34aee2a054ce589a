"""A recipe with ``seeds``, run to its report."""

import json
from pathlib import Path

import pytest
from pipeline_runs import SCRIPTED, prepare

from butwait.pipeline.run import run_recipe
from butwait.recipe.load import load_recipe
from butwait.stages.kinds import STAGES

WRITTEN = """
stages:
  one: {kind: evaluate, problems: [train], methods: &methods {sample: {k: 2, sampler: {kind:
    independent, step: {delimiters: ["\\n"], max_tokens: 8}}}}}
  several: {kind: evaluate, problems: [train], methods: *methods, seeds: 3}
  report: {kind: report}
"""


def test_an_evaluation_with_seeds_is_an_arm_of_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = prepare(tmp_path, SCRIPTED.partition("stages:")[0] + WRITTEN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    records = run_recipe(load_recipe(str(path), STAGES), tmp_path / "run")
    assert list(records) == ["one", "several-1", "several-2", "several-3", "report"]
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    rates = [records[f"several-{i}"]["metrics"]["train/sample"]["pass_at_1"] for i in (1, 2, 3)]
    assert len(set(rates)) > 1  # other seeds, other attempts
    arm = summary["evaluations"]["several/train/sample"]
    assert arm["seed_rates"] == pytest.approx(rates)
    assert list(summary["evaluations"]) == ["one/train/sample", "several/train/sample"]
    (comparison,) = summary["comparisons"]  # the same model by the same method, in two stages
    assert (comparison["a"], comparison["b"]) == tuple(summary["evaluations"])
    (ranking,) = summary["rankings"]
    assert {a["arm"]: a["seeds"] for a in ranking["arms"]} == {"one": 1, "several": 3}
    told = {a["arm"]: a["not_told_apart_from"] for a in ranking["arms"]}
    assert told == {"one": ["several"], "several": ["one"]}
    verdict, title, first, _ = STAGES["report"].headline(records["report"]["metrics"])
    assert verdict == summary["verdict"]
    assert title == "Arms on train by sample:"
    assert first.startswith(f"1. {ranking['arms'][0]['arm']}")

"""Pilots, and plans that runs store."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from butwait.pipeline import pilot as pilots
from butwait.recipe.load import load_recipe
from butwait.recipe.recipe import Recipe
from butwait.records import UserError
from butwait.running.stages import Stage
from butwait.stages.kinds import STAGES

Command = Callable[..., tuple[int, str, str]]

TOYS = r"""
from butwait.engines.scripted import ScriptedEngine


def policy():
    return ScriptedEngine({"": {"\\boxed{3}": 0.5, "\\boxed{5}": 0.5}})
"""
RECIPE = """
name: toy
model: {name: tiny}
engine: {kind: scripted, script: "plantoys:policy"}
problems:
  searched: {source: arithmetic, split: search, limit: 12}
  test: {source: arithmetic, split: test, limit: 10}
stages:
  search:
    kind: search
    problems: searched
    sampler: {kind: independent, samples: 4, step: {delimiters: [], max_tokens: 16}}
  late:
    kind: evaluate
    problems: [test]
    methods: {sample: {k: 2, sampler: {kind: independent, step: {delimiters: []}}}}
  report: {kind: report}
"""


@pytest.fixture
def toy(own_folder: Path) -> Path:
    (own_folder / "plantoys.py").write_text(TOYS, encoding="utf-8")
    (own_folder / "toy.yaml").write_text(RECIPE, encoding="utf-8")
    return own_folder


@pytest.mark.slow
def test_a_pilot_runs_some_problems_and_projects_all(toy: Path, command: Command) -> None:
    words = ["plan", "toy.yaml", "--pilot", "4", "--json", "plan.json", "-q"]
    code, out, err = command(*words)
    assert code == 0, err
    assert "4 of 12" in out
    stages = json.loads((toy / "plan.json").read_text())["stages"]
    pilot = stages["search"]["pilot"]
    assert (pilot["pilot"], pilot["problems"]) == (4, 12)
    for key in ("tokens", "seconds", "solved_share", "peak_gb"):
        low, high = pilot[key]["interval"]
        assert low <= pilot[key]["estimate"] <= high
    assert stages["late"]["pilot"]["problems"] == 10
    assert stages["search"]["gpu_gb"] is None  # a written policy holds no weights
    before = pilot["seconds"]
    assert command(*words)[0] == 0
    again = json.loads((toy / "plan.json").read_text())["stages"]["search"]["pilot"]
    assert again["seconds"] == before  # not run twice


def test_a_pilot_of_all_is_what_a_run_does_and_the_report_shows_both(
    toy: Path, command: Command
) -> None:
    assert command("plan", "toy.yaml", "--pilot", "50", "--json", "plan.json", "-q")[0] == 0
    pilot = json.loads((toy / "plan.json").read_text())["stages"]["search"]["pilot"]
    assert command("run", "toy.yaml", "-q")[0] == 0
    run = toy / "runs" / "toy"
    record = json.loads((run / "search" / "stage.json").read_text())
    tokens = record["cost"]["policy_tokens"]
    assert pilot["tokens"] == {"estimate": tokens, "interval": [tokens, tokens]}
    assert pilot["solved_share"]["estimate"] == record["metrics"]["solved_share"]
    plan = json.loads((run / "plan.json").read_text())
    assert plan["measured"]["search"]["cpu_gb"] > 0
    assert plan["measured"]["search"]["planned_as"] == "laptop CPU"
    assert "Planned and actual" in (run / "report.html").read_text()


@pytest.mark.slow
def test_a_plan_that_fails_stops_no_run(
    toy: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(recipe: object) -> None:
        raise RuntimeError("a plan that fails")

    monkeypatch.setattr("butwait.planning.stored.plan_recipe", broken)
    assert command("run", "toy.yaml", "-q")[0] == 0
    run = toy / "runs" / "toy"
    assert not (run / "plan.json").exists()
    assert "Planned and actual" not in (run / "report.html").read_text()
    (run / "plan.json").write_text("[]")
    assert command("run", "toy.yaml", "--set", "seed=2", "-q")[0] == 0


def test_a_pilot_takes_only_what_this_recipe_finished(
    toy: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what an older recipe left; and what was put aside, where it is that recipe's."""
    seen: dict[str, Path] = {}

    def runnable(recipe: Recipe, name: str, done: dict[str, Stage]) -> None:
        seen.update({stage: found.path for stage, found in done.items()})

    def found(*overrides: str) -> dict[str, str]:
        seen.clear()
        recipe = load_recipe(str(toy / "toy.yaml"), STAGES, overrides)
        with pytest.raises(UserError, match="no stage of toy can be piloted"):
            pilots.run_pilot(recipe, 2, run)
        return {name: path.parent.name for name, path in seen.items()}

    run, other = toy / "runs" / "toy", "stages.search.sampler.samples=3"
    assert command("run", "toy.yaml", "-q")[0] == 0
    monkeypatch.setattr(pilots, "_runnable", runnable)
    assert found() == {"search": "toy", "late": "toy", "report": "toy"}
    assert found(other) == {"late": "toy"}
    assert command("run", "toy.yaml", "-q", "--set", other)[0] == 0
    assert found() == {"search": ".superseded", "late": "toy", "report": ".superseded"}


def test_a_stage_that_comes_out_as_before_leaves_nothing_due(toy: Path, command: Command) -> None:
    """An input that was removed is made again; what was made of it is as it was."""
    run = toy / "runs" / "toy"
    assert command("run", "toy.yaml", "-q")[0] == 0
    shutil.rmtree(run / "search")
    assert command("run", "toy.yaml", "-q")[0] == 0
    assert json.loads((run / ".progress.json").read_text())["due"] == []


def test_a_pilot_needs_two_problems(toy: Path, command: Command) -> None:
    code, _, err = command("plan", "toy.yaml", "--pilot", "1")
    assert code == 2
    assert "--pilot" in err

"""``concurrency: auto`` and ``live_tokens: auto`` in a run: the same results, and what was done."""

import json
from pathlib import Path
from typing import Any

import pipeline_runs
import pytest

AUTO = ("--set", "stages.search.concurrency=auto")


def scheduling(run: str) -> Any:
    return json.loads(Path(run, "search", "stage.json").read_text())["scheduling"]


def ran(command: Any, recipe: Path, run: str, *words: str) -> dict[str, bytes]:
    code, _, error = command("run", recipe, "--run-dir", run, *words)
    assert code == 0, error
    return pipeline_runs.shards(Path(run, "search", "trees"))


def test_the_trees_are_the_same_and_the_stage_says_what_was_done(
    own_folder: Path, command: Any
) -> None:
    recipe = pipeline_runs.prepare(own_folder, questions=20)
    fixed = ran(command, recipe, "fixed")
    assert ran(command, recipe, "auto", *AUTO, "--set", "engine.live_tokens=40") == fixed
    assert scheduling("fixed")["problems"] == 3
    told = scheduling("auto")
    assert told["rows"] == 128
    assert 1 <= told["problems"] <= 20
    assert 0 <= told["empty"] <= 1
    assert 4 < told["live"] <= 40
    # The scripted engine has no cache to tell of, and that is said.
    words = ("--run-dir", "governed", *AUTO, "--set", "engine.live_tokens=auto")
    code, said, _ = command("run", recipe, *words)
    assert code == 0
    assert said.count("the engine scripted tells nothing of its cache") == 1
    assert pipeline_runs.shards(Path("governed/search/trees")) == fixed


def test_a_model_in_deterministic_mode(own_folder: Path, command: Any) -> None:
    recipe = pipeline_runs.prepare(own_folder, pipeline_runs.TINY)
    few = ("--set", "problems.train.params.size=8")
    fixed = ran(command, recipe, "fixed", *few)
    assert ran(command, recipe, "auto", *few, *AUTO, "--set", "engine.live_tokens=auto") == fixed
    told = scheduling("auto")
    assert (told["rows"], told["preemptions"]) == (16, 0)
    caps = [cap for _, cap in told["caps"]]
    # It never fills: looked at while a path waits for room, the cap grows.
    assert caps == sorted(caps)
    assert caps[-1] >= told["live"] > 0


@pytest.mark.parametrize("word", ["none", "0", "automatic"])
def test_what_is_no_concurrency(own_folder: Path, command: Any, word: str) -> None:
    recipe = pipeline_runs.prepare(own_folder)
    code, _, told = command("check", recipe, "--set", f"stages.search.concurrency={word}")
    assert code == 2
    assert told.count("\n") == 1
    assert "stages.search.concurrency" in told

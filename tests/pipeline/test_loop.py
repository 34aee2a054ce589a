"""The whole loop on the tiny model, small: what it leaves on disk, and that it can be repeated."""

import json
from pathlib import Path
from typing import Any

import pytest
from pipeline_runs import PLUGIN, prepare

from butwait.pipeline.run import run_recipe
from butwait.recipe.load import load_recipe
from butwait.search.storage import read_trees
from butwait.stages.kinds import STAGES
from butwait.synthesis.dataset import load_examples

LOOP = """# The loop, small.
model: {name: tiny}
prompt: {template: "{question}"}
engine: {kind: transformers, slots: 32, prefill_chunk: 8, deterministic: true}
problems:
  test: {source: arithmetic, split: test, params: {size: 12}}
  train: {source: arithmetic, split: train, params: {size: 12}}
  hunt: {source: arithmetic, split: search, params: {size: 12}}
stages:
  base: {kind: evaluate, problems: [test], concurrency: 8, methods: &methods {sample: {k: 2,
    sampler: {kind: independent, step: {delimiters: [], max_tokens: 96}}}}}
  prm:
    kind: prm
    problems: train
    max_steps: 3
    learning_rate: 1.0e-3
    rollouts: {solutions: 4, prefixes: 1, completions: 2,
      steps: {delimiters: ["\\n"], max_tokens: 96}}
  hunt:
    kind: search
    from: [prm]
    problems: hunt
    concurrency: 4
    sampler: {kind: particle_filter, particles: 8, step: {delimiters: ["\\n"], max_tokens: 96}}
  verified: {kind: verified, from: [hunt], per_question: 2}
  sft: {kind: sft, from: [verified], max_steps: 3, learning_rate: 3.0e-4}
  after: {kind: evaluate, from: [sft, prm], problems: [test], concurrency: 8, methods: *methods}
  report: {kind: report}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return loop(tmp_path_factory.mktemp("loop"))


def loop(folder: Path) -> Path:
    """Runs the loop; returns the run's folder."""
    recipe = load_recipe(str(prepare(folder, LOOP)), STAGES)
    run_recipe(recipe, folder / "run")
    return folder / "run"


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def test_the_summary_has_the_names_that_scripts_rely_on(run: Path) -> None:
    found = summary(run)
    assert found["schema_version"] == 1
    assert [(name, s["kind"], s["status"]) for name, s in found["stages"].items()] == [
        ("base", "evaluate", "complete"),
        ("prm", "prm", "complete"),
        ("hunt", "search", "complete"),
        ("verified", "verified", "complete"),
        ("sft", "sft", "complete"),
        ("after", "evaluate", "complete"),
        ("report", "report", "complete"),
    ]
    assert all(stage["seconds"] >= 0 for stage in found["stages"].values())
    assert list(found["evaluations"]) == ["base/test/sample", "after/test/sample"]
    base = found["evaluations"]["base/test/sample"]
    assert (base["n"], base["k"]) == (12, 2)
    assert base["interval"][0] <= base["pass_at_1"] <= base["interval"][1]
    assert sum(base["status"].values()) == 24
    (comparison,) = found["comparisons"]
    assert (comparison["a"], comparison["b"]) == ("base/test/sample", "after/test/sample")
    rates = [found["evaluations"][comparison[side]]["pass_at_1"] for side in "ab"]
    assert comparison["delta"] == pytest.approx(rates[1] - rates[0])
    assert 0 <= comparison["p"] <= 1


def test_the_data_holds_the_verified_paths_of_the_trees_and_their_very_tokens(run: Path) -> None:
    trees = {tree.problem_id: tree for tree in read_trees(run / "hunt" / "trees")}
    examples = load_examples(run / "verified" / "dataset")
    assert len(trees) == 12
    assert examples
    for example in examples:
        tree, leaf = trees[example.problem_id], example.provenance["leaf"]
        assert tree.grades[leaf].correct
        ids = tree.path_tokens(leaf).tolist()
        assert example.completion_ids[: len(ids)].tolist() == ids
        assert example.prompt_ids.tolist() == tree.prompt_ids.tolist()


def test_costs_are_those_of_the_trees(run: Path) -> None:
    trees = list(read_trees(run / "hunt" / "trees"))
    cost = summary(run)["stages"]["hunt"]["cost"]
    sampled = sum(len(node.token_ids) for tree in trees for node in tree.nodes)
    assert cost["policy_tokens"] == sampled
    assert cost["prefilled_tokens"] == sum(len(tree.prompt_ids) for tree in trees)
    assert cost["reward_tokens"] >= sampled


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(run: Path, tmp_path: Path) -> None:
    again = loop(tmp_path)
    first, second = summary(run), summary(again)
    for found in (first, second):
        for stage in found["stages"].values():
            del stage["seconds"]
    assert first == second
    for name in ("hunt/trees/shard-00000.parquet", "sft/model/model.safetensors"):
        assert (run / name).read_bytes() == (again / name).read_bytes()


def test_a_changed_stage_runs_again_with_those_that_take_from_it_and_no_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = """# A branch.
model: {name: none}
engine: {kind: scripted, script: "branching:policy"}
problems:
  train: {source: questions.jsonl}
  test: {source: questions.jsonl, offset: 6}
stages:
  base: {kind: evaluate, problems: [test], methods: {sample: {k: 2}}}
  hunt:
    kind: search
    problems: train
    reward_model: {kind: custom, factory: "branching:reward"}
    sampler: {kind: particle_filter, particles: 4, step: {delimiters: ["\\n"], max_tokens: 8}}
  verified: {kind: verified, from: [hunt]}
  report: {kind: report}
"""
    path = prepare(tmp_path, recipe, questions=12)
    (tmp_path / "branching.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)

    def ran(*words: str) -> set[str]:
        run_recipe(load_recipe(str(path), STAGES, words), tmp_path / "run")
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
        return {line.split()[1] for line in lines if "finished before" not in line}

    assert ran() == {"base", "hunt", "verified", "report"}
    # The questions of the evaluation are kept out of the search.
    assert len(list(read_trees(tmp_path / "run" / "hunt" / "trees"))) == 6
    assert ran() == set()
    assert ran("stages.hunt.sampler.particles=8") == {"hunt", "verified", "report"}
    assert ran() == set()
    assert ran("seed=1") == {"base", "hunt", "verified", "report"}

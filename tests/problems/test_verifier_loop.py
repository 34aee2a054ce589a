"""One verifier through all that judges: searches, data, a reward model, evaluation, GRPO."""

import json
from pathlib import Path

import pytest

from butwait.evaluation.storage import read_attempts
from butwait.pipeline.preflight import finished_stages
from butwait.recipe.load import load_recipe
from butwait.search.storage import read_trees
from butwait.stages.kinds import STAGES
from butwait.stages.problem_sets import load_problem_sets

OWN = """
def same(question, answer, metadata):
    if metadata["gold"] is None or answer == "7":
        raise ValueError(answer)
    return 1.0 if answer == metadata["gold"] else 0.0 if answer is None else 0.25

def short(question, answer, metadata):
    assert {"gold", "response", "length", "finish", "status", "score"} <= set(metadata)
    return -metadata["length"] / 100

def some(question, answer, metadata):
    return None if "3" in metadata["response"] else 3 * metadata["score"]
"""
RECIPE = """
model: {name: tiny, device: cpu}
prompt: {template: "{question}"}
problems:
  some: {source: arithmetic, split: search, limit: 6, verifier: "own:same"}
  held: {source: arithmetic, split: test, limit: 6, verifier: "own:same"}
stages:
  hunt:
    kind: search
    problems: some
    sampler: &sampler
      {kind: self_consistency, samples: 6, step: &step {delimiters: ["\\n"], max_tokens: 64}}
  verified: {kind: verified, from: [hunt]}
  detours: {kind: backtrack, from: [hunt]}
  judge:
    kind: prm
    problems: some
    max_steps: 1
    warmup_ratio: 0
    rollouts: {solutions: 4, prefixes: 0, steps: *step}
  base: {kind: evaluate, problems: [held], methods: {vote: {sampler: *sampler}}}
  rl: &rl
    kind: grpo
    problems: some
    steps: 2
    questions: 2
    group: 4
    batch_size: 8
    step: {delimiters: [], max_tokens: 48}
    reward: {format: 0.5, functions: ["own:short", {function: "own:some", weight: 2.0}]}
    report_to: [tensorboard]
  direct:
    <<: *rl
    kind: grpo_direct
    mode: replace
    report_to: []
    reward_model: {kind: confidence}
    sampler: {kind: particle_filter, particles: 4, step: *step}
"""


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_a_whole_recipe_is_judged_by_it(own_folder: Path, command) -> None:
    """It lies beside the recipe; and its source is a part of what a result depends on."""
    there, run = own_folder / "there", own_folder / "runs/mine"
    there.mkdir()
    (there / "own.py").write_text(OWN)
    (there / "mine.yaml").write_text(RECIPE)
    code, said, told = command("run", "there/mine.yaml")
    assert code == 0, told

    trees = list(read_trees(run / "hunt/trees"))
    grades = [grade for tree in trees for grade in tree.grades.values()]
    expected = {"correct": 1.0, "wrong": 0.25, "no_answer": 0.0, "truncated": 0.0}
    assert all(grade.score == expected.get(grade.status) for grade in grades)
    assert {"correct", "wrong"} <= {grade.status for grade in grades}
    solved = json.loads((run / "hunt/stage.json").read_text())["metrics"]["solved"]
    assert solved == sum(tree.solved for tree in trees)

    attempts = read_attempts(run / "base/attempts/held/vote")
    graded = [row for row in attempts if row.status != "ungradable"]
    assert all(row.score == expected[row.status] for row in graded)
    figures = json.loads((run / "base/stage.json").read_text())["metrics"]["held/vote"]
    scored = [row.score for row in graded if row.problem_id not in figures["excluded"]["problems"]]
    assert figures["score"] == pytest.approx(sum(scored) / len(scored))

    for name in ("rl", "direct"):
        first = rows(run / name / "log.jsonl")[0]
        assert -0.48 <= first["rewards/short"] < 0
        assert 0 <= first["rewards/answer"] <= 1
        assert 0 <= first["rewards/format"] <= 1
        assert "rewards/some" in first or first["rewards/some/failed"] == 1
    events = b"".join(file.read_bytes() for file in (run / "rl/tensorboard").glob("events*"))
    assert b"rewards/short" in events
    assert "nothing: the plugin 'own:some' gives None in its call" in said

    recipe = load_recipe("there/mine.yaml", STAGES)
    sets = load_problem_sets(recipe, run / "problems", say=print)
    assert list(finished_stages(recipe, run, sets, {})) == list(recipe.stages)
    (there / "own.py").write_text(OWN.replace("/ 100", "/ 99"))
    sets = load_problem_sets(recipe, run / "problems", say=print)
    assert not finished_stages(recipe, run, sets, {})

"""A search stage whose paths are one token longer than the reward model takes."""

import json
from pathlib import Path

import pytest
from test_qwen_prm import make_tokenizer, save_checkpoint

from butwait.problems.prompts import encode, messages
from butwait.records import Problem
from butwait.reward_models.kinds.qwen_math_prm import MARK, PROMPT
from butwait.search.storage import read_trees

QUESTION = "What is 1 + 2?"
CONTEXT = 160
RECIPE = """model: {name: tiny}
engine: {kind: scripted, script: "toys:policy"}
problems: {one: {source: one.jsonl}}
stages:
  hunt:
    kind: search
    problems: one
    reward_model: {kind: qwen_math_prm, name: prm, dtype: float32, device: cpu}
    sampler: {kind: particle_filter, particles: 16, step: {delimiters: ["\\n"], max_tokens: 8}}
"""


@pytest.fixture
def folder(own_folder: Path) -> Path:
    save_checkpoint(own_folder / "prm", hidden_size=8, max_position_embeddings=CONTEXT)
    problem = Problem("q", QUESTION, "3")
    prompt = len(encode(make_tokenizer(), messages(problem, PROMPT), PROMPT, MARK))
    room = CONTEXT - prompt - 1
    fits, long = "b" * (room - 9) + "\\boxed{3}", "c" * (room + 1) + "\n"
    (own_folder / "toys.py").write_text(
        "from butwait.engines.scripted import ScriptedEngine\n"
        f"def policy():\n    return ScriptedEngine({{'': {{{fits!r}: 0.5, {long!r}: 0.5}}}})\n"
    )
    row = {"id": "q", "question": QUESTION, "answer": "3"}
    (own_folder / "one.jsonl").write_text(json.dumps(row) + "\n")
    (own_folder / "mine.yaml").write_text(RECIPE)
    return own_folder


@pytest.mark.parametrize("particles", [2, 16, pytest.param(512, marks=pytest.mark.slow)])
def test_the_stage_ends_complete_and_counts_them(folder, command, particles):
    words = ["--set", f"stages.hunt.sampler.particles={particles}", "--set", "seed=0"]
    if particles == 512:
        words += ["--set", "stages.report.kind=report"]
    code, out, said = command("run", "mine.yaml", *words)
    assert (code, said) == (0, "")
    record = json.loads((folder / "runs/mine/hunt/stage.json").read_text())
    (tree,) = read_trees(folder / "runs/mine/hunt/trees")
    cut = [node for node in tree.nodes if node.too_long]
    assert record["status"] == "complete"
    assert 0 < len(cut) < particles
    assert {node.text[0] for node in cut} == {"c"}
    assert {node.finish for node in cut} == {"length"}
    assert record["metrics"]["too_long_paths"] == record["metrics"]["truncated_paths"] == len(cut)
    assert record["metrics"]["finished_paths"] == particles - len(cut)
    assert f"{len(cut)} paths were longer than the reward model takes" in out
    if particles == 512:
        assert "too long paths" in (folder / "runs/mine/report.html").read_text().lower()

"""Rounds of a loop: what is pooled, what is computed anew, and what a stop leaves."""

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pipeline_runs import PLUGIN, finished

from butwait.records import UserError
from butwait.search.storage import read_trees
from butwait.stages import searching
from butwait.synthesis.dataset import load_examples

LOOP = """# Two rounds, small.
model: {name: tiny}
threads: 1
prompt: {template: "{question}"}
engine: {kind: transformers, slots: 32, prefill_chunk: 8, deterministic: true}
problems:
  hunt: {source: arithmetic, split: search, params: {size: 4}}
stages:
  hunt_1: &hunt
    kind: search
    problems: hunt
    concurrency: 4
    reward_model: {kind: confidence}
    sampler: {kind: particle_filter, particles: 8, step: {delimiters: ["\\n"], max_tokens: 96}}
  data_1: &data {kind: verified, from: [hunt_1], per_question: 2, balance: true}
  sft_1: &sft {kind: sft, from: [data_1], max_steps: 2, learning_rate: 3.0e-4}
  hunt_2: {<<: *hunt, from: [sft_1]}
  data_2: {<<: *data, from: [hunt_2, hunt_1]}
  sft_2: {<<: *sft, from: [data_2]}
  report: {kind: report}
"""
FIRST, SECOND = ["hunt_1", "data_1", "sft_1"], ["hunt_2", "data_2", "sft_2"]


def computed(said: str) -> list[str]:
    """Stages that a run did not find finished."""
    heads = [line.split("] ", 1)[1] for line in said.splitlines() if line.startswith("[")]
    return [head.split(" (")[0] for head in heads if "finished before" not in head]


def numbers(run: Path) -> dict[str, Any]:
    """summary.json without what differs by the clock."""
    found = json.loads((run / "summary.json").read_text())
    for stage in found["stages"].values():
        del stage["seconds"]
    return found


@pytest.mark.slow
def test_a_second_round(
    own_folder: Path,
    command: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (own_folder / "mine.yaml").write_text(LOOP)
    # Stopped in the second round's search, a run goes on there, to the same numbers.
    words, calls, sampled = ["run", "mine.yaml", "--run-dir"], count(1), searching.run_sampler

    async def stops(*given: Any) -> Any:
        if next(calls) == 4 + 3:  # four questions a round
            raise UserError("the machine is taken away")
        return await sampled(*given)

    with monkeypatch.context() as patch:
        patch.setattr(searching, "run_sampler", stops)
        assert command(*words, "stopped")[0] == 2
    assert len(finished(own_folder / "stopped" / "hunt_2" / "trees")) < 4
    status, said, _ = command(*words, "stopped")
    assert (status, computed(said)) == (0, [*SECOND, "report"])
    status, said, _ = command(*words, "whole")
    assert (status, computed(said)) == (0, [*FIRST, *SECOND, "report"])
    stopped, whole = (numbers(own_folder / name) for name in ("stopped", "whole"))
    assert stopped == whole

    # The table's figures are those of the files.
    run = own_folder / "whole"
    first, second = (
        {tree.problem_id for tree in read_trees(run / name / "trees") if tree.solved}
        for name in ("hunt_1", "hunt_2")
    )
    (loop,) = whole["rounds"]
    assert [row["searches"] for row in loop["rounds"]] == [["hunt_1"], ["hunt_2"]]
    assert [row["solved"] for row in loop["rounds"]] == [len(first), len(second)]
    assert [row["first_solved"] for row in loop["rounds"]] == [len(first), len(second - first)]
    for row, name in zip(loop["rounds"], ("data_1", "data_2"), strict=True):
        texts = [(e.problem_id, e.text) for e in load_examples(run / name / "dataset")]
        assert len(set(texts)) == len(texts) == row["examples"]
    assert f"1. base solves {len(first)} of 4 by search" in said

    card = (run / "data_2" / "card.md").read_text()
    assert "| model that searched | whole/sft_1/model, tiny |" in card

    # What a change computes anew.
    for change, anew in (
        ("stages.sft_2.learning_rate=2.0e-4", ["sft_2", "report"]),
        ("stages.data_1.per_question=1", ["data_1", "sft_1", *SECOND, "report"]),
    ):
        status, said, _ = command(*words, "whole", "--set", change)
        assert (status, computed(said)) == (0, anew), change


POOLED = """# Two searches of two sets that share ids and a question.
model: {name: none}
engine: {kind: scripted, script: "toys:policy"}
problems:
  held: {source: held.jsonl}
  first: {source: first.jsonl}
  second: {source: second.jsonl}
stages:
  hunt_1: &hunt {kind: search, problems: first, sampler: &sampler {kind: self_consistency,
    samples: 16, step: {delimiters: ["\\n"], max_tokens: 8}}}
  base: {kind: evaluate, problems: [held], methods: {sample: {sampler: *sampler}}}
  hunt_2: {<<: *hunt, problems: second}
  data: {kind: verified, from: [hunt_2, hunt_1], per_question: 2, balance: true}
"""


@pytest.mark.slow
def test_pooled_searches_of_several_sets(
    own_folder: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    def write(name: str, **asked: str) -> None:
        rows = [{"id": i, "question": q, "answer": "3"} for i, q in asked.items()]
        (own_folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))

    (own_folder / "toys.py").write_text(PLUGIN)
    write("held", h="question nine", g="question eight")
    write("first", a="question one", b="question two", h="question nine")
    # An id of the first set for another question, a question of it, and a held-out one.
    write("second", a="question three", c="question two", d="question eight", e="question five")
    (own_folder / "mine.yaml").write_text(POOLED)
    status, _, said = command("run", "mine.yaml")
    assert status == 0, said
    run = own_folder / "runs" / "mine"
    searched = {
        name: sorted(tree.problem_id for tree in read_trees(run / name / "trees"))
        for name in ("hunt_1", "hunt_2")
    }
    assert searched == {"hunt_1": ["a", "b"], "hunt_2": ["second/a", "second/e"]}
    examples = load_examples(run / "data" / "dataset")
    asked = {(e.problem_id, e.prompt[0]["content"].splitlines()[0]) for e in examples}
    assert {problem_id for problem_id, _ in asked} == {"a", "b", "second/a", "second/e"}
    told = dict(asked)
    assert "one" in told["a"]
    assert "three" in told["second/a"]

"""`butwait trees`."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from butwait.cli.trees import Choice, trees
from butwait.records import Counts, Grade, Node, Population, SearchTree, UserError
from butwait.search.storage import write_shard


def step(parent: int, text: str, finish: str, logit: float) -> Node:
    return Node(parent, np.zeros(2, np.int32), text, np.zeros(2, np.float32), finish, logit)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """RUN/search with one tree: a dead branch, a step with markup in it, a graded answer."""
    monkeypatch.setenv("COLUMNS", "120")
    root = Node(-1, np.zeros(0, np.int32), "", np.zeros(0, np.float32), "step")
    nodes = [
        root,
        step(0, "dead end\n", "step", 1.0),
        step(0, "2 + 2 [bold]\n", "step", 0.0),
        step(2, "\\boxed{4}", "box", np.log(3)),
    ]
    slots = np.arange(2, dtype=np.int32)
    leaves = np.array([3, 3], np.int32)
    populations = [
        Population(np.array([1, 2], np.int32), slots, np.zeros(2), False),
        Population(leaves, np.array([1, 1], np.int32), np.zeros(2), True),
    ]
    tree = SearchTree(
        "sum-1", "particle_filter", np.zeros(3, np.int32), nodes, populations, leaves,
        np.log([0.5, 0.5]), -0.25, "complete", Counts(6, 3, 6), {3: Grade("4", "correct")},
    )  # fmt: skip
    write_shard(tmp_path / "search" / "trees" / "shard-00000.parquet", [tree])
    return tmp_path / "search"


def test_the_summary_and_the_first_tree(stage: Path, capsys) -> None:
    trees(stage)
    out = capsys.readouterr().out
    assert "Search trees: 1 (particle_filter 1)" in out
    assert "of them dead" in out
    assert "33.3%" in out
    assert "log-evidence -0.25, 2 particles, 6 policy tokens" in out
    assert "2 + 2 [bold]  reward 0.50, 2 of 2, weight 1.000" in out
    assert "\\boxed{4}  reward 0.75, 2 of 2, weight 1.000, box, correct" in out
    assert "1 dead, best reward 0.73" in out


def test_one_problem(stage: Path, capsys) -> None:
    trees(stage, Choice(problem="sum-1"))
    out = capsys.readouterr().out
    assert "Search trees" not in out
    assert out.startswith("sum-1  particle_filter, complete")


def test_mistakes_are_user_errors(stage: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tree of problem 'sum-2'"):
        trees(stage, Choice(problem="sum-2"))
    with pytest.raises(UserError, match="holds no search trees"):
        trees(tmp_path)


def test_operations_are_those_of_the_stage(stage: Path, capsys) -> None:
    record = {"fingerprint": "f", "status": "complete", "seconds": 1.0}
    cost = {"policy_flops": 1.25e12, "reward_flops": None}
    (stage / "stage.json").write_text(json.dumps(record | {"cost": cost}))
    trees(stage)
    lines = [line.split() for line in capsys.readouterr().out.replace("│", " ").splitlines()]
    assert ["policy", "FLOPs", "1.25e+12"] in lines
    assert ["reward-model", "FLOPs", "unknown"] in lines


def test_a_choice_of_trees_with_their_question(stage: Path, capsys) -> None:
    (stage.parent / "problems").mkdir()
    row = {"id": "sum-1", "question": "What is \x1b[31m2 + 2?", "answer": "4"}
    (stage.parent / "problems" / "sums.jsonl").write_text(json.dumps(row) + "\n")
    trees(stage, Choice(status="correct"))
    out = capsys.readouterr().out
    assert "  What is \\x1b[31m2 + 2?\n  gold answer: 4\n" in out
    assert "correct: only the answer is verified, the steps are not" in out
    trees(stage, Choice(wrong=True))
    assert "has no such tree" in capsys.readouterr().out
    trees(stage)
    assert "sum-1    2 of 2  3      4     What is \\x1b[31m2 + 2?" in capsys.readouterr().out
    for status, why in (("right", "'right' is none of correct, wrong"), ("wrong", "two choices")):
        with pytest.raises(UserError, match=why):
            trees(stage, Choice(status=status, wrong=status == "wrong"))


def test_trees_as_json_and_as_a_table(stage: Path, tmp_path: Path, capsys) -> None:
    trees(stage, as_json=True)
    (row,) = json.loads(capsys.readouterr().out)
    assert row["status"] == {"correct": 2}
    assert (row["particles"], row["nodes"], row["policy_tokens"]) == (2, 3, 6)
    assert "tree" not in row
    trees(stage, Choice(problem="sum-1"), as_json=True)
    (row,) = json.loads(capsys.readouterr().out)
    assert [node["text"] for node in row["tree"]] == [
        "dead end\n", "2 + 2 [bold]\n", "\\boxed{4}",
    ]  # fmt: skip
    trees(stage, parquet=tmp_path / "nodes.parquet")
    table = pq.read_table(tmp_path / "nodes.parquet").to_pylist()
    assert [node["reward"] for node in table] == pytest.approx([0.7311, 0.5, 0.75], abs=1e-4)
    assert [node["particles"] for node in table] == [0, 2, 2]
    assert [(node["problem"], node["depth"], node["status"]) for node in table] == [
        ("sum-1", 1, None), ("sum-1", 1, None), ("sum-1", 2, "correct"),
    ]  # fmt: skip
    with pytest.raises(UserError, match="is the file that is read"):
        trees(stage, parquet=stage / "trees" / "shard-00000.parquet")


def test_a_run_or_nothing_lists_the_stages(
    stage: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {"fingerprint": "f", "status": "complete", "seconds": 1.0, "kind": "search"}
    (stage / "stage.json").write_text(json.dumps(record))
    trees(tmp_path)
    assert f"{stage}  (search, complete)" in capsys.readouterr().out
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no run under runs/ holds search trees"):
        trees(None)
    (tmp_path / "runs" / "mine").symlink_to(tmp_path)
    trees(None)
    assert "runs/mine/search  (search, complete)" in capsys.readouterr().out
    trees(Path("mine/search"))  # under runs/
    assert "Search trees: 1" in capsys.readouterr().out

"""`butwait audit-prm`."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from butwait.cli import audit_prm
from butwait.records import Counts, Grade, Node, SearchTree
from butwait.running.files import write_json
from butwait.search.storage import write_shard

MODEL = "from butwait.reward_models.scripted import ScriptedRewardModel\n\n\n" + (
    "def by_word():\n"
    '    return ScriptedRewardModel(lambda p, s: -3.0 if "bad" in s[-1].text else 1.0)\n'
)


@pytest.fixture
def folder(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of a scripted policy with 12 trees, a reward model, and labelled solutions.

    In each tree a good and a bad step end in a correct and in a wrong answer. The recorded
    rewards rank them the wrong way round in a third of the trees.
    """
    monkeypatch.setenv("COLUMNS", "120")
    (own_folder / "words.py").write_text(MODEL)
    (own_folder / "prm.yaml").write_text("kind: custom\nfactory: words:by_word\n")
    trees = [_tree(f"q{i}", 1.0 if i % 3 else -1.0) for i in range(12)]
    write_shard(own_folder / "run" / "hunt" / "trees" / "shard-00000.parquet", trees)
    shared = {"engine": {"kind": "scripted"}, "prompt": {}, "model": {"name": "tiny"}}
    record = {"status": "complete", "seconds": 0.0, "fingerprint": "x", "kind": "search"}
    write_json(
        own_folder / "run" / "hunt" / "stage.json",
        {**record, "from": [], "settings": {"recipe": shared}},
    )
    problems = [{"id": f"q{i}", "question": f"{i}?", "answer": "1"} for i in range(12)]
    _write_lines(own_folder / "run" / "problems" / "hunt.jsonl", problems)
    solutions = [
        {"id": f"math-{i}", "problem": f"{i}?", "steps": ["good", word, "good"], "label": label}
        for i, (word, label) in enumerate([("bad", 1), ("bad", 2), ("good", -1), ("good", -1)])
    ]
    _write_lines(own_folder / "bench.jsonl", solutions)
    return own_folder


def _write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _tree(name: str, logit: float) -> SearchTree:
    def node(parent: int, text: str, finish: str, reward: float) -> Node:
        return Node(parent, np.ones(1, np.int32), text, np.zeros(1, np.float32), finish, reward)

    empty = np.zeros(0, np.int32)
    nodes = [
        Node(-1, empty, "", np.zeros(0, np.float32), "step"),
        node(0, "good\n", "eos", logit),
        node(0, "bad\n", "eos", -logit),
    ]
    grades = {1: Grade("1", "correct"), 2: Grade("2", "wrong")}
    leaves = np.array([1, 2], np.int32)
    return SearchTree(
        name, "best_of_n", np.ones(1, np.int32), nodes, [], leaves, np.log([0.5, 0.5]), None,
        "complete", Counts(), grades,
    )  # fmt: skip


@pytest.fixture
def audit(folder: Path, command):
    """Runs the command: (exit code, stdout, stderr)."""
    return partial(command, "audit-prm")


def test_recorded_rewards(audit, folder: Path) -> None:
    code, out, _ = audit("--trees", "run/hunt", "--out", "audit.json")
    assert code == 0
    found = json.loads((folder / "audit.json").read_text())
    assert found["reward_model"] == "recorded"
    trees = found["trees"]
    assert (trees["trees"], trees["prefixes"], trees["samplers"]) == (12, 24, ["best_of_n"])
    assert trees["within_question_auc"] == pytest.approx(8 / 12)
    assert trees["base_rate"] == 0.5
    # Each tree has one of both outcomes, however often it is drawn.
    assert trees["base_rate_interval"] == [0.5, 0.5]
    # Both answers get 0.73 or 0.27: two thirds of the correct ones the former.
    p = 1 / (1 + np.exp(-1))
    assert trees["ece"] == pytest.approx(abs(p - 8 / 12))
    assert trees["ece_interval"][0] <= trees["ece"] <= trees["ece_interval"][1]
    assert "within-question AUC" in out
    assert "0.667 [" in out
    # Eight of twelve leave room for a coin.
    assert "useless: within-question AUC 0.67 [" in out


def test_a_model_on_trees_and_solutions(audit, folder: Path) -> None:
    code, out, _ = audit(
        "--model", "prm.yaml", "--trees", "run/hunt", "--processbench", "bench.jsonl",
        "--out", "audit.json",
    )  # fmt: skip
    assert code == 0
    found = json.loads((folder / "audit.json").read_text())
    assert found["trees"]["within_question_auc"] == 1.0
    # "bad" is blamed in both erroneous solutions; in one of them a later step is wrong.
    figures = found["processbench"]["fixed"]["math"]
    assert (figures["accuracy_erroneous"], figures["accuracy_correct"]) == (0.5, 1.0)
    assert figures["f1"] == pytest.approx(2 / 3)
    assert "strong: within-question AUC 1.00 [1.00, 1.00]" in out
    assert "First error: 4 solutions of 4 questions" in out


def test_solutions_are_read_before_the_model_is_loaded(
    audit, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_prm, "_load", lambda *_: pytest.fail("it was loaded"))
    code, _, said = audit("--model", "prm.yaml", "--processbench", "gone.jsonl")
    assert code == 2
    assert "gone.jsonl" in said


def test_a_limit_is_the_same_subset_every_time(audit, folder: Path) -> None:
    for name in ("one.json", "two.json"):
        assert audit("--trees", "run/hunt", "--limit", "5", "--out", name)[0] == 0
    one, two = (json.loads((folder / n).read_text()) for n in ("one.json", "two.json"))
    assert one == two
    assert one["trees"]["trees"] == 5


def test_a_recipe_with_one_reward_model_will_do(audit, folder: Path) -> None:
    (folder / "recipe.yaml").write_text(
        "model: {name: tiny}\nstages:\n"
        "  a: {kind: search, reward_model: {kind: custom, factory: 'words:by_word'}}\n"
        "  b: {kind: evaluate, reward_model: {kind: custom, factory: 'words:by_word'}}\n"
    )
    code, out, _ = audit("--model", "recipe.yaml", "--processbench", "bench.jsonl")
    assert code == 0
    assert "Labelled solutions do not tell how many particles" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "there is nothing to audit on"),
        (["--processbench", "bench.jsonl"], "give a reward model with --model"),
        (["--trees", "run/nothing"], "run/nothing is no stage of a run"),
        (["--trees", "run/hunt", "--model", "run"], "holds no reward model made by a prm stage"),
        (["--trees", "run/hunt", "--model", "none.yaml"], "cannot be read: No such file"),
        (["--processbench", "no.jsonl", "--model", "prm.yaml"], "no.jsonl does not exist"),
        (["--trees", "run/hunt", "--threshold", "2"], "a probability between 0 and 1, not 2.0"),
        (["--trees", "run/hunt", "--out", "no/audit.json"], "there is no folder no; make it"),
        (["--trees", "run/hunt", "--model", "two.yaml"], "two.yaml names no reward models"),
        (
            ["--trees", "run/hunt", "--model", "odd.yaml"],
            "odd.yaml: reward model: 'oracle' is no kind",
        ),
    ],
)
def test_mistakes_are_one_sentence(audit, folder: Path, words: list[str], message: str) -> None:
    (folder / "two.yaml").write_text("stages: {}\n")
    (folder / "odd.yaml").write_text("kind: oracle\n")
    code, _, err = audit(*words)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1

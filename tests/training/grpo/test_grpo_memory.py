"""What a training remembers of questions: solve rates, and the trees of its searches."""

import json
from pathlib import Path

import numpy as np
import pytest

from butwait.records import Counts, Grade, Node, SearchTree
from butwait.training.grpo.generation import SolveRates
from butwait.training.grpo.searches import SearchFolder, is_solved


def test_a_rate_is_over_the_latest_generations() -> None:
    rates = SolveRates(2)
    assert rates.rate("a") is None
    rates.add([("a", 4, 4), ("b", 0, 4)])
    rates.add([("a", 1, 4)])
    assert rates.rate("a") == 5 / 8
    assert rates.rate("b") == 0.0
    rates.add([("a", 0, 2)])
    assert rates.rate("a") == 1 / 6  # the first generation is forgotten


def test_a_rate_with_a_new_generation_counts_it_and_keeps_nothing() -> None:
    rates = SolveRates(2)
    rates.add([("a", 4, 4)])
    rates.add([("a", 0, 4)])
    assert rates.rate("a", (1, 4)) == 1 / 8
    assert rates.rate("new", (1, 4)) == 1 / 4
    assert rates.rate("a") == 4 / 8
    assert rates.rate("new") is None


def test_ungradable_samples_are_no_evidence() -> None:
    rates = SolveRates(4)
    rates.add([("a", 0, 0)])
    assert rates.rate("a") is None
    rates.add([("a", 1, 2)])
    assert rates.rate("a") == 1 / 2
    assert rates.rate("a", (1, 1)) == 2 / 3


def test_rates_come_through_a_checkpoint() -> None:
    rates = SolveRates(2)
    rates.add([("a", 1, 4), ("b", 2, 4)])
    rates.add([("a", 2, 4)])
    stored = json.loads(json.dumps(rates.state()))
    again = SolveRates(2)
    again.add([("z", 1, 1)])
    again.restore(stored)
    assert again.rate("z") is None
    assert again.state() == rates.state() == {"a": [[1, 4], [2, 4]], "b": [[2, 4]]}
    again.add([("a", 4, 4)])
    assert again.rate("a") == 6 / 8  # and they still forget


def tree(problem_id: str, solved: bool, token: int = 5) -> SearchTree:
    ids = np.array([token], np.int32)
    nodes = [
        Node(-1, np.zeros(0, np.int32), "", np.zeros(0, np.float32), "step"),
        Node(0, ids, "x", np.zeros(1, np.float32), "eos"),
    ]
    return SearchTree(
        problem_id=problem_id,
        sampler="particle_filter",
        prompt_ids=np.array([1], np.int32),
        nodes=nodes,
        populations=[],
        leaves=np.array([1], np.int32),
        log_weights=np.zeros(1),
        log_evidence=0.0,
        outcome="complete",
        counts=Counts(3, 2, 1),
        grades={1: Grade("1", "correct" if solved else "wrong")},
    )


def test_a_search_is_found_at_its_step_alone(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path)
    folder.keep(tree("a/b?", True, token=9), 3)
    found = SearchFolder(tmp_path).find("a/b?", 3)
    assert found is not None
    assert found.path_tokens(1).tolist() == [9]
    assert found.counts == Counts(3, 2, 1)
    assert is_solved(found)
    assert folder.find("a/b?", 2) is None
    assert folder.find("a", 3) is None


def test_a_solved_search_is_used_again_while_it_is_young(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path)
    folder.keep(tree("a", True), 4)
    assert folder.solved_lately("a", 4, 3) is None  # a step sees what came before it
    assert folder.solved_lately("a", 3, 3) is None
    assert folder.solved_lately("a", 5, 1) is not None
    assert folder.solved_lately("a", 7, 3) is not None
    assert folder.solved_lately("a", 8, 3) is None
    assert folder.solved_lately("a", 5, 0) is None
    assert folder.solved_lately("b", 5, 3) is None


def test_the_latest_solved_search_counts(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path)
    folder.keep(tree("a", True, token=1), 2)
    folder.keep(tree("a", True, token=2), 4)
    folder.keep(tree("a", False, token=3), 5)
    found = folder.solved_lately("a", 6, 10)
    assert found is not None
    assert found.path_tokens(1).tolist() == [2]


def test_a_resume_sees_no_search_of_a_later_step(tmp_path: Path) -> None:
    SearchFolder(tmp_path).keep(tree("a", True), 7)  # by the training that was killed
    resumed = SearchFolder(tmp_path)
    assert all(resumed.solved_lately("a", step, 100) is None for step in range(8))
    assert resumed.find("a", 7) is not None


def test_another_policy_at_the_same_step_is_noted(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path)
    assert folder.note_policy(3, "first") is False
    assert folder.note_policy(3, "first") is False
    assert folder.note_policy(4, "second") is False
    assert SearchFolder(tmp_path).note_policy(3, "second") is True
    # The trees that are there are still of the first.
    assert folder.note_policy(3, "first") is False


@pytest.mark.parametrize(
    ("most", "oldest", "expected"),
    [(10, 0, [1, 2, 3, 4]), (3, 0, [2, 3, 4]), (10, 5, [3, 4]), (0, 0, [])],
)
def test_the_latest_trees_come_older_ones_first(
    tmp_path: Path, most: int, oldest: int, expected: list[int]
) -> None:
    folder = SearchFolder(tmp_path)
    for token, step in ((1, 1), (2, 3), (3, 5), (4, 6), (5, 9)):
        folder.keep(tree("a", False, token), step)
        folder.note_policy(step, "p")
    found = folder.latest(6, most, oldest)
    assert [int(t.path_tokens(1)[0]) for t in found] == expected

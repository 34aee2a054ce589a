"""From leaves to one answer."""

import asyncio

import numpy as np
import pytest

from butwait.records import Counts, Key, Node, Population, SearchTree
from butwait.search.selection import answer_classes, leaf_answers, select

ROOT = Node(-1, np.zeros(0, np.int32), "", np.zeros(0, np.float32), "step")
KEY = Key.of(0, "selection")


def tree_of(*leaves: tuple[str, str, float, float]) -> SearchTree:
    """A tree of one step; leaves are (text, finish, weight, reward logit)."""
    nodes = [ROOT]
    for text, finish, _, logit in leaves:
        nodes.append(Node(0, np.zeros(1, np.int32), text, np.zeros(1, np.float32), finish, logit))
    ids = np.arange(1, len(nodes), dtype=np.int32)
    with np.errstate(divide="ignore"):
        log_weights = np.log([leaf[2] for leaf in leaves])
    last = Population(ids, ids - 1, log_weights, False)
    prompt = np.zeros(1, np.int32)
    return SearchTree(
        "p", "hand", prompt, nodes, [last], ids, log_weights, None, "complete", Counts()
    )


def answer(text: str) -> str | None:
    return text or None


def same_number(a: str, b: str) -> bool:
    return float(a) == float(b)


def run(tree: SearchTree, method: str, equal=same_number):
    return asyncio.run(select(tree, method, answer, equal, KEY))


VOTES = tree_of(
    ("3", "box", 0.40, 2.0),
    ("1", "eos", 0.25, 0.5),
    ("1.0", "box", 0.20, 1.0),
    ("2", "box", 0.05, 3.0),
    ("2.0", "box", 0.05, -1.0),
    ("2.00", "box", 0.05, 0.0),
)


@pytest.mark.parametrize(
    ("method", "leaf", "expected"),
    [
        ("weighted_vote", 1, "1"),  # 0.45 against 0.40; its heaviest leaf speaks
        ("vote", 3, "2"),  # three leaves against two and one
        ("argmax", 3, "2"),  # reward 3.0
    ],
)
def test_methods_by_hand(method: str, leaf: int, expected: str) -> None:
    chosen = run(VOTES, method)
    assert (chosen.leaf, chosen.node, chosen.answer) == (leaf, leaf + 1, expected)


def test_equality_may_be_asynchronous() -> None:
    async def equal(a: str, b: str) -> bool:
        await asyncio.sleep(0)
        return same_number(a, b)

    assert run(VOTES, "weighted_vote", equal).answer == "1"


def test_truncated_leaves_and_leaves_without_an_answer_never_vote() -> None:
    tree = tree_of(
        ("9", "length", 0.5, 9.0),
        ("8", "step", 0.2, 8.0),
        ("", "eos", 0.2, 7.0),
        ("1", "box", 0.1, 0.0),
    )
    for method in ("weighted_vote", "vote", "argmax", "sample"):
        assert run(tree, method).answer == "1"


def test_a_leaf_of_weight_zero_never_votes() -> None:
    tree = tree_of(("9", "box", 0.0, 9.0), ("9", "box", 0.0, 9.0), ("1", "box", 1.0, 0.0))
    for method in ("weighted_vote", "vote", "argmax", "sample"):
        assert run(tree, method).answer == "1"


def test_nobody_votes() -> None:
    chosen = run(tree_of(("", "eos", 0.3, 0.0), ("4", "length", 0.7, 0.0)), "weighted_vote")
    assert (chosen.leaf, chosen.node, chosen.answer) == (1, 2, None)


def test_an_extinct_search_has_no_answer() -> None:
    chosen = run(tree_of(("4", "box", 0.0, 0.0), ("5", "box", 0.0, 0.0)), "weighted_vote")
    assert (chosen.leaf, chosen.answer) == (0, None)


@pytest.mark.parametrize("method", ["weighted_vote", "vote", "argmax"])
def test_ties_go_to_the_first_leaf(method: str) -> None:
    tree = tree_of(*[(text, "box", 0.25, 1.0) for text in ("7", "5", "5", "7")])
    assert run(tree, method).leaf == 0


def test_sample_draws_by_weight_among_voters() -> None:
    tree = tree_of(("1", "box", 0.3, 0.0), ("9", "length", 0.5, 0.0), ("2", "box", 0.2, 0.0))

    async def draw(seed: int) -> str | None:
        return (await select(tree, "sample", answer, same_number, Key.of(seed))).answer

    draws = [asyncio.run(draw(seed)) for seed in range(3000)]
    assert draws.count("1") / 3000 == pytest.approx(0.6, abs=4.5 * np.sqrt(0.24 / 3000))
    assert draws.count("1") + draws.count("2") == 3000


def test_classes_compare_with_their_first_answer() -> None:
    """Closeness is not transitive: 1.0 ~ 1.4 ~ 1.8, and 1.8 is far from 1.0."""
    calls = []

    def close(a: str, b: str) -> bool:
        calls.append((a, b))
        return abs(float(a) - float(b)) < 0.5

    answers = ["1.0", "1.4", None, "1.8", "1.4", "1.0"]
    classes = asyncio.run(answer_classes(answers, close))
    assert [(c.answer, c.leaves) for c in classes] == [("1.0", [0, 1, 4, 5]), ("1.8", [3])]
    assert calls == [("1.0", "1.4"), ("1.0", "1.8")]


def test_answers_are_read_once_a_node() -> None:
    tree = tree_of(("1", "box", 0.5, 0.0), ("2", "box", 0.5, 0.0))
    tree.leaves = np.array([1, 1, 2], np.int32)
    tree.log_weights = np.log([0.25, 0.25, 0.5])
    seen = []

    def extract(text: str) -> str:
        seen.append(text)
        return text

    assert leaf_answers(tree, extract) == ["1", "1", "2"]
    assert sorted(seen) == ["1", "2"]

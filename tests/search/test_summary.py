"""Figures of search trees, on a tree made by hand."""

import numpy as np
import pytest

from butwait.records import Counts, Grade, Node, Population, SearchTree
from butwait.search.outline import outline
from butwait.search.summary import descendants, summary_of_trees, weight_below


def node(parent: int, tokens: int, finish: str) -> Node:
    return Node(parent, np.zeros(tokens, np.int32), "x" * tokens, np.zeros(tokens), finish, 0.0)


@pytest.fixture
def tree() -> SearchTree:
    """Root -> 1 (dies), 2 -> {3 box, 4 length}; node 3 carries two of the three particles."""
    nodes = [
        node(-1, 0, "step"), node(0, 2, "step"), node(0, 3, "step"), node(2, 4, "box"),
        node(2, 5, "length"),
    ]  # fmt: skip
    slots = np.arange(3, dtype=np.int32)
    leaves = np.array([3, 3, 4], np.int32)
    first = Population(np.array([1, 2, 2], np.int32), slots, np.zeros(3), False)
    second = Population(leaves, slots, np.zeros(3), True)
    return SearchTree(
        "p", "particle_filter", np.zeros(1, np.int32), nodes, [first, second], leaves,
        np.log([0.25, 0.25, 0.5]), -0.5, "complete", Counts(14, 1, 9),
        {3: Grade("7", "correct"), 4: Grade(None, "truncated")},
    )  # fmt: skip


def test_descendants_and_their_weight(tree: SearchTree) -> None:
    assert descendants(tree).tolist() == [3, 0, 3, 2, 1]
    assert weight_below(tree) == pytest.approx([1, 0, 1, 0.5, 0.5])


def test_summary(tree: SearchTree) -> None:
    summary = summary_of_trees([outline(tree), outline(tree)])
    assert summary.trees == 2
    assert summary.samplers == {"particle_filter": 2}
    assert summary.particles == 6
    assert summary.complete == pytest.approx(4 / 6)
    assert (summary.nodes, summary.dead) == (8, 0.25)
    assert summary.steps == 2
    assert summary.tokens == pytest.approx((7 + 7 + 8) / 3)
    assert summary.resamplings == 1
    assert summary.counts == Counts(28, 2, 18)
    assert summary.grades == {"correct": 2, "truncated": 2}
    assert summary.extinct == 0

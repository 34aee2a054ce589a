"""What the trees of a search stage say: effective sample sizes, ancestors, one tree to draw."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from butwait.records import SearchTree
from butwait.search.storage import read_trees
from butwait.search.weights import effective_sample_size

MOST_TREES = 512
"""Trees read for the figures; a large run has more than a page needs."""

MOST_TIPS = 36
"""Branches drawn of the example tree."""


def load_trees(run: Path, stage: str) -> list[SearchTree]:
    """The first ``MOST_TREES`` trees of a search stage, in stored order; empty without shards."""
    folder = run / stage / "trees"
    if not any(folder.glob("shard-*.parquet")):
        return []
    return list(islice(read_trees(folder), MOST_TREES))


def ess_shares(trees: list[SearchTree]) -> tuple[np.ndarray, np.ndarray]:
    """ESS over N after each step: float64 (trees, steps), NaN after a tree's end; and whether
    the step began with a resampling: bool, same shape."""
    steps = max((len(tree.populations) for tree in trees), default=0)
    shares = np.full((len(trees), steps), np.nan)
    resampled = np.zeros((len(trees), steps), bool)
    for row, tree in enumerate(trees):
        for step, population in enumerate(tree.populations):
            weights = population.log_weights
            shares[row, step] = effective_sample_size(weights) / len(weights)
            resampled[row, step] = population.resampled
    return shares, resampled


@dataclass(frozen=True, slots=True)
class Ancestry:
    """Attributes:
    particles: mean number of final particles a tree.
    first_steps: mean number of different first steps that they descend from.
    paths: mean number of different final paths.
    """

    particles: float
    first_steps: float
    paths: float


def final_ancestry(trees: list[SearchTree]) -> Ancestry | None:
    """How many different ancestors the final particles have, over trees that have any."""
    final = [tree for tree in trees if len(tree.leaves)]
    if not final:
        return None
    first_steps = [len({next(tree.path(int(leaf)), 0) for leaf in tree.leaves}) for tree in final]
    return Ancestry(
        particles=float(np.mean([len(tree.leaves) for tree in final])),
        first_steps=float(np.mean(first_steps)),
        paths=float(np.mean([len(set(tree.leaves.tolist())) for tree in final])),
    )


def tips(tree: SearchTree) -> list[int]:
    """Nodes without children, by index, the root left out."""
    parents = {node.parent for node in tree.nodes}
    return [i for i in range(1, len(tree.nodes)) if i not in parents]


def example_tree(trees: list[SearchTree]) -> SearchTree | None:
    """The tree that shows most on a page, by a fixed rule.

    Preferred: some final particle is correct; some branch died; small enough to be drawn whole.
    Among those the one whose number of branches is nearest to two thirds of ``MOST_TIPS``, the
    first of equals.
    """

    def rank(tree: SearchTree) -> tuple[bool, bool, bool, float]:
        ends = tips(tree)
        final = set(tree.leaves.tolist())
        solved = any(tree.grades[leaf].correct for leaf in final if leaf in tree.grades)
        died = any(end not in final for end in ends)
        return (
            not solved,
            not died,
            len(ends) > MOST_TIPS,
            abs(len(ends) - 2 * MOST_TIPS / 3),
        )

    return min((tree for tree in trees if len(tree.nodes) > 1), key=rank, default=None)

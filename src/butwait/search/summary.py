"""Figures of many search trees."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from butwait.records import COMPLETE, Counts, SearchTree
from butwait.search.outline import Outline, ancestry
from butwait.search.rows import FINISHES


@dataclass(frozen=True, slots=True)
class TreeSummary:
    """What a set of trees holds. Shares are fractions.

    Attributes:
        trees: how many.
        samplers: trees by sampler.
        extinct: trees whose every weight became zero.
        particles: final particles, all trees together.
        complete: share of the final particles that ended with an answer or EOS, by count.
        nodes: nodes without the roots.
        dead: share of the nodes that no final particle descends from.
        steps: mean steps of a final particle.
        tokens: mean tokens of a final particle.
        resamplings: mean number a tree.
        counts: token costs of all trees together.
        grades: graded leaves by status.
    """

    trees: int
    samplers: dict[str, int]
    extinct: int
    particles: int
    complete: float
    nodes: int
    dead: float
    steps: float
    tokens: float
    resamplings: float
    counts: Counts
    grades: dict[str, int]


def summary_of_trees(trees: Iterable[Outline]) -> TreeSummary:
    """The summary of at least one tree, held in memory one at a time."""
    samplers: Counter[str] = Counter()
    grades: Counter[str] = Counter()
    counts = Counts()
    extinct = particles = complete = nodes = alive = steps = tokens = resamplings = 0
    finished = [FINISHES.index(finish) for finish in sorted(COMPLETE)]
    for tree in trees:
        samplers[tree.sampler] += 1
        extinct += tree.outcome == "extinct"
        grades.update(tree.grades)
        counts += tree.counts
        nodes += len(tree.parents) - 1
        generations = ancestry(tree.parents, tree.leaves)
        lines = np.unique(np.concatenate(generations))
        alive += int(np.count_nonzero(lines > 0))
        resamplings += int(tree.population_resampled.sum())
        particles += len(tree.leaves)
        complete += int(np.isin(tree.finishes[tree.leaves], finished).sum())
        steps += sum(int((generation > 0).sum()) for generation in generations)
        tokens += int(tree.along_paths(tree.token_counts)[tree.leaves].sum())
    total = sum(samplers.values())
    return TreeSummary(
        trees=total,
        samplers=dict(sorted(samplers.items())),
        extinct=extinct,
        particles=particles,
        complete=complete / particles,
        nodes=nodes,
        dead=1 - alive / nodes,
        steps=steps / particles,
        tokens=tokens / particles,
        resamplings=resamplings / total,
        counts=counts,
        grades=dict(sorted(grades.items())),
    )


def descendants(tree: SearchTree) -> np.ndarray:
    """int64 (K,): how many final particles come from each node."""
    return below(_parents(tree), tree.leaves, np.ones(len(tree.leaves), np.int64))


def weight_below(tree: SearchTree) -> np.ndarray:
    """float64 (K,): the final weight of the particles that come from each node."""
    return below(_parents(tree), tree.leaves, np.exp(tree.log_weights))


def below(parents: np.ndarray, leaves: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(K,): the sum of the final particles' values, for every node on their paths.

    Args:
        parents: int32 (K,), -1 for the root.
        leaves: int32 (M,), the node of each final particle.
        values: (M,) theirs.
    """
    sums = np.zeros(len(parents), values.dtype)
    for generation in ancestry(parents, leaves):
        on_path = generation >= 0
        np.add.at(sums, generation[on_path], values[on_path])
    return sums


def _parents(tree: SearchTree) -> np.ndarray:
    return np.array([node.parent for node in tree.nodes], np.int32)

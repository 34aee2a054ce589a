"""Figures of many search trees."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from butwait.records import COMPLETE, Counts, SearchTree


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


def summarise(trees: Iterable[SearchTree]) -> TreeSummary:
    """The summary of at least one tree, held in memory one at a time."""
    samplers: Counter[str] = Counter()
    grades: Counter[str] = Counter()
    counts = Counts()
    extinct = particles = complete = nodes = alive = steps = tokens = resamplings = 0
    for tree in trees:
        samplers[tree.sampler] += 1
        extinct += tree.outcome == "extinct"
        grades.update(grade.status for grade in tree.grades.values())
        counts += tree.counts
        nodes += len(tree.nodes) - 1
        alive += int(np.count_nonzero(descendants(tree))) - 1
        resamplings += sum(population.resampled for population in tree.populations)
        for leaf in tree.leaves.tolist():
            path = list(tree.path(leaf))
            particles += 1
            complete += tree.nodes[leaf].finish in COMPLETE
            steps += len(path)
            tokens += sum(len(tree.nodes[node].token_ids) for node in path)
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
    below = np.bincount(tree.leaves, minlength=len(tree.nodes))
    for node in range(len(tree.nodes) - 1, 0, -1):  # children stand behind their parents
        below[tree.nodes[node].parent] += below[node]
    return below


def weight_below(tree: SearchTree) -> np.ndarray:
    """float64 (K,): the final weight of the particles that come from each node."""
    weights = np.bincount(tree.leaves, weights=np.exp(tree.log_weights), minlength=len(tree.nodes))
    for node in range(len(tree.nodes) - 1, 0, -1):
        weights[tree.nodes[node].parent] += weights[node]
    return weights

"""Does a reward model agree with itself along a path?

The probability of success is a martingale: at any prefix it is the mean of what it is one step on,
over the steps that the policy draws, V(s) = E[V(s')]. A reward model that estimates it must obey
the same equation (Bellman's, without discount or intermediate reward). How far it fails is seen
in any recorded tree, without a single graded answer.

The children of a node are independent draws of the policy, whatever resampling did before and
does after, so their mean is unbiased *at that node*. Which nodes have children is the search's
choice: a filter extends what the model likes, so that overrated prefixes are met more often
(the winner's curse) and ``drift`` comes out lower than over the policy's own paths.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from butwait.records import Key, SearchTree
from butwait.reward_models.audit.bootstrap import Interval, interval_of, resamples


@dataclass(frozen=True, slots=True, eq=False)
class Families:
    """Nodes with their children; all arrays (m,).

    Attributes:
        question: int, index of the tree.
        parent: float64, the model's probability at the node.
        children: float64, the mean of its probabilities at the children.
        noise: float64, the variance of that mean, s^2 / k; NaN for an only child.
    """

    question: np.ndarray
    parent: np.ndarray
    children: np.ndarray
    noise: np.ndarray


def families(trees: Iterable[tuple[SearchTree, np.ndarray]]) -> Families:
    """All scored nodes with scored children.

    Args:
        trees: each with its nodes' logits, float64 (K,); NaN: not scored.

    The root is no family (nothing scores it), nor are inserted children (nobody drew them).
    """
    rows: list[tuple[int, float, float, float]] = []
    for question, (tree, logits) in enumerate(trees):
        below: dict[int, list[float]] = {}
        for node, p in zip(tree.nodes, expit(logits).tolist(), strict=True):
            if node.parent > 0 and node.finish != "inserted" and not np.isnan(p):
                below.setdefault(node.parent, []).append(p)
        for parent, drawn in below.items():
            if not np.isnan(logits[parent]):
                noise = (
                    float(np.var(drawn, ddof=1)) / len(drawn) if len(drawn) > 1 else float("nan")
                )
                rows.append((question, float(expit(logits[parent])), float(np.mean(drawn)), noise))
    questions, *columns = np.array(rows, np.float64).reshape(-1, 4).T
    return Families(questions.astype(np.int64), *columns)


def bellman(found: Families, key: Key) -> dict[str, Any]:
    """How far the equation fails, in probability, with 95 % intervals over questions.

    Keys: ``drift``: the mean of (children - parent); below 0, prefixes are overrated.
    ``residual``: the root of the mean of (parent - children)^2 less the sampling noise s^2 / k of
    the children's mean, over nodes with two children and more; without that correction a perfect
    model would not reach 0. None where there is no such node. ``families``, ``siblings`` (those
    with two children and more), ``*_interval``.
    """
    gap = found.children - found.parent
    several = ~np.isnan(found.noise)
    drift, drift_interval = _mean(gap, found.question, key.derive("drift"))
    squared = (gap**2 - found.noise)[several]
    # Noise can bring an unbiased square below 0, which is then 0.
    residual, interval = _mean(
        squared,
        found.question[several],
        key.derive("residual"),
        lambda mean: np.sqrt(np.maximum(0.0, mean)),
    )
    return {
        "drift": drift,
        "drift_interval": drift_interval,
        "residual": residual,
        "residual_interval": interval,
        "families": len(gap),
        "siblings": int(several.sum()),
    }


def _mean(
    values: np.ndarray, question: np.ndarray, key: Key, of: Callable[[Any], Any] = lambda mean: mean
) -> tuple[float | None, Interval]:
    """A function of the values' mean, with its interval over questions."""
    if not len(values):
        return None, None
    _, index = np.unique(question, return_inverse=True)
    sums, counts = np.bincount(index, values), np.bincount(index)
    drawn = resamples(len(sums), key)
    return float(of(values.mean())), interval_of(of((drawn @ sums) / (drawn @ counts)))

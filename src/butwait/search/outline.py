"""A search tree without its tokens: what figures of many trees need, at a fraction of the reading.

Sizes: K nodes (the root first, parents before children), P populations, S slots in all populations
together, M leaves, g grades.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa

from butwait.records import Counts, SearchTree
from butwait.search.rows import FINISHES, LENGTH, TOO_LONG, counts_of, to_row


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """The shape and the cost of one tree.

    Attributes:
        problem_id: the problem's id.
        sampler: the sampler's name.
        outcome: ``complete`` or ``extinct``.
        counts: what it cost.
        prompt_tokens: length of the prompt.
        parents: int32 (K,), -1 for the root.
        token_counts: int32 (K,), tokens of each step.
        finishes: int8 (K,), positions in ``rows.FINISHES``, or ``rows.TOO_LONG``.
        prefilled: int32 (K,), tokens prefilled for each step.
        overshoot: int32 (K,), tokens sampled beyond each step's end; of a joined step minus its
            length, as nothing was sampled for it.
        rewarded: int32 (K,), reward-model tokens of each step.
        population_sizes: int32 (P,).
        population_resampled: bool (P,).
        population_log_weights: float64 (S,), flat, in step order.
        leaves: int32 (M,), the node of each final particle.
        grade_nodes: int32 (g,), the graded leaves, those of dead particles included.
        grades: status of each of them.
    """

    problem_id: str
    sampler: str
    outcome: str
    counts: Counts
    prompt_tokens: int
    parents: np.ndarray
    token_counts: np.ndarray
    finishes: np.ndarray
    prefilled: np.ndarray
    overshoot: np.ndarray
    rewarded: np.ndarray
    population_sizes: np.ndarray
    population_resampled: np.ndarray
    population_log_weights: np.ndarray
    leaves: np.ndarray
    grade_nodes: np.ndarray
    grades: list[str]

    @property
    def inserted(self) -> np.ndarray:
        """bool (K,): which steps were put in and not sampled."""
        return self.finishes == FINISHES.index("inserted")

    @property
    def too_long(self) -> np.ndarray:
        """bool (K,): where a path was longer than the reward model takes."""
        return self.finishes == TOO_LONG

    @property
    def truncated(self) -> np.ndarray:
        """bool (K,): where a path ended at a limit, the reward model's included."""
        return self.too_long | (self.finishes == LENGTH)

    def populations(self) -> list[np.ndarray]:
        """The log-weights of each population."""
        return np.split(self.population_log_weights, np.cumsum(self.population_sizes)[:-1])

    def along_paths(self, values: np.ndarray) -> np.ndarray:
        """int64 (K,): the sum of a node's value and its ancestors', for every node."""
        total = values.astype(np.int64)
        above = self.parents.copy()
        while (open_ := np.flatnonzero(above >= 0)).size:
            total[open_] += values[above[open_]]
            above[open_] = self.parents[above[open_]]
        return total


_ARRAYS = [field.name for field in fields(Outline) if field.type is np.ndarray]

COLUMNS = (
    *("problem_id", "sampler", "outcome", "policy_tokens", "prefilled_tokens", "reward_tokens"),
    *("prompt_ids", *_ARRAYS, "grade_statuses"),
)
"""The columns of a tree's row (``search/rows.py``) that its outline is read from."""


def outline(tree: SearchTree) -> Outline:
    """The outline of a tree in memory."""
    row = to_row(tree)
    return from_row({name: row[name].chunk(0)[0] for name in COLUMNS})


def from_row(row: Mapping[str, pa.Scalar]) -> Outline:
    """The outline of one row with ``COLUMNS``."""
    arrays = {name: row[name].values.to_numpy(zero_copy_only=False) for name in _ARRAYS}
    return Outline(
        problem_id=row["problem_id"].as_py(),
        sampler=row["sampler"].as_py(),
        outcome=row["outcome"].as_py(),
        counts=counts_of(row),
        prompt_tokens=len(row["prompt_ids"].values),
        **arrays,
        grades=row["grade_statuses"].as_py(),
    )


def ancestry(parents: np.ndarray, leaves: np.ndarray) -> list[np.ndarray]:
    """int32 (M,) each: the leaves, then their parents and so on up to the root, where each path
    stays out once it has passed it (-1)."""
    generations = [leaves]
    while (above := np.where(generations[-1] >= 0, parents[generations[-1]], -1)).max(
        initial=-1
    ) >= 0:
        generations.append(above)
    return generations

"""Signs that a reward is gamed: completions of a kind that earns a reward without solving."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from butwait.report.reinforcement.runs import Training

SIGNS = {
    "several_boxes": "several boxes",
    "no_reasoning": "answer without reasoning",
    "other_language": "other language",
}
"""``hacks/<name>`` of the log -> in words."""

RISE = 0.01
"""A share that rose by less is not named."""
STANDARD_ERRORS = 2.0
"""Nor one that rose by less than so many standard errors."""

_FEWEST_STEPS = 5
_SHARE = 10


@dataclass(frozen=True, slots=True)
class Ends:
    """A figure at the beginning and at the end of a training.

    Attributes:
        first, last: means over the first and the last ``steps`` logged values.
        steps: a tenth of them, at least five, at most half.
        rises: whether it is higher by ``RISE`` and by ``STANDARD_ERRORS``, the values of the steps
            taken as independent.
    """

    first: float
    last: float
    steps: int
    rises: bool


def ends(training: Training, figure: str) -> Ends | None:
    """None where the log has no such figure."""
    values = training.curve(figure)[:, 1]
    if not values.size:
        return None
    steps = max(1, min(max(_FEWEST_STEPS, values.size // _SHARE), values.size // 2))
    first, last = values[:steps], values[-steps:]
    rise = float(last.mean() - first.mean())
    error = float(np.sqrt(_variance(first) + _variance(last)))
    rises = values.size > 1 and rise >= RISE and rise > STANDARD_ERRORS * error
    return Ends(float(first.mean()), float(last.mean()), steps, rises)


def _variance(values: np.ndarray) -> float:
    """Of the mean; 0 where a single value tells nothing of it."""
    return float(values.var(ddof=1) / values.size) if values.size > 1 else 0.0


def guards(training: Training) -> Mapping[str, Ends]:
    """Of every sign that the log counts."""
    found = {name: ends(training, f"hacks/{name}") for name in SIGNS}
    return {name: seen for name, seen in found.items() if seen is not None}

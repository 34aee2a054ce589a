"""Rates of a model that was trained several times: questions crossed with seeds.

S trainings that differ in their seed alone attempt the same n questions. Both are samples: of
"problems like these", and of trainings like these. A difference of two arms can be due to either,
so its standard error holds both. An error over questions alone speaks of these trainings only, and
takes the luck of a seed for an effect.

The mean square of an effect of either kind holds its interaction with the other one too, and a sum
would count it twice. It is taken off once, as in the two-way analysis of variance with random
effects (Searle, Casella and McCulloch 1992, chapter 4; Cameron, Gelbach and Miller 2011 do the
same for regressions).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from butwait.statistics.intervals import Interval, normal_quantile
from butwait.statistics.paired import SMALLEST_P, bonett_price


@dataclass(frozen=True, slots=True)
class CrossedEstimate:
    """A mean over questions and seeds, or a difference of two, and what is known of it.

    Attributes:
        mean: the estimate, a fraction.
        se: its standard error.
        degrees: of freedom of Student's t, by Satterthwaite 1946.
    """

    mean: float
    se: float
    degrees: float

    def interval(self, level: float = 0.95) -> Interval:
        half = float(stats.t.ppf((1 + level) / 2, self.degrees)) * self.se
        return self.mean - half, self.mean + half

    @property
    def p(self) -> float:
        """Two-sided p for a mean of 0."""
        return max(float(2 * stats.t.sf(abs(self.mean) / self.se, self.degrees)), SMALLEST_P)


def crossed_mean(rates: ArrayLike) -> CrossedEstimate:
    """The mean rate of one arm.

    Args:
        rates: (seeds, n) share of correct attempts. One row is a model that no seed made: then
            the error is that over questions.
    """
    table = np.asarray(rates, dtype=np.float64)
    return _estimate(table.mean(axis=0), [table])


def crossed_difference(
    a: ArrayLike, b: ArrayLike, *, trained_once: bool = False
) -> CrossedEstimate:
    """Arm b minus arm a on the same questions; seeds of a and b are not paired.

    Args:
        a, b: (seeds of the arm, n), as in ``crossed_mean``; the numbers of seeds may differ.
        trained_once: the arm of one row is a training too, of a single seed. It shows no spread of
            its own and is taken to have that of the other arm's trainings.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    lone = trained_once and min(len(first), len(second)) == 1
    return _estimate(second.mean(axis=0) - first.mean(axis=0), [first, second], lone=lone)


def _estimate(
    by_question: np.ndarray, tables: list[np.ndarray], *, lone: bool = False
) -> CrossedEstimate:
    """``by_question`` (n,): what is averaged over questions; ``tables``: the arms in it; ``lone``:
    one of them is a single training."""
    n = len(by_question)
    over_questions = _mean_square(by_question)
    if over_questions < 1e-24:  # No two questions differ, which says nothing of their spread.
        over_questions = (bonett_price(0, 0, n)[1] / normal_quantile(0.95)) ** 2
    # (variance of the mean, degrees of freedom) of each source.
    parts = [(over_questions, max(1, n - 1))]
    counted_twice = 0.0
    for table in tables:
        seeds = len(table)
        if seeds > 1:
            trainings = 1 / seeds + lone
            between = float(table.mean(axis=1).var(ddof=1)) * trainings
            interaction = min(_interaction(table) / n * trainings, between)
            parts.append((between, seeds - 1))
            counted_twice += interaction
    variance = sum(part for part, _ in parts) - counted_twice
    degrees = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    return CrossedEstimate(float(by_question.mean()), math.sqrt(variance), degrees)


def _mean_square(values: np.ndarray) -> float:
    """The variance of the mean of ``values``; 0 for one value, which shows no spread."""
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0


def _interaction(table: np.ndarray) -> float:
    """What is left of a (seeds, n) table without the means of its rows and columns: the variance
    of one cell."""
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    seeds, n = table.shape
    return float((rest**2).sum()) / ((seeds - 1) * (n - 1)) if n > 1 else 0.0

"""Intervals for one success rate measured with k attempts on each of n problems.

Two questions have two answers. S, "problems like these": the problems are a sample, and the
interval speaks of the problems they were drawn from; it is the default for claims. F, "these
problems": the problems are fixed and only the attempts vary.

Rates are fractions in [0, 1], one per problem. Attempts of one problem are not independent
draws of the rate over problems, so an interval on n*k answers is far too short (0.30 coverage
of a nominal 0.95 at n = 30, k = 64). Two intervals that do without it are made here, Wilson's on an
effective number of answers and the beta-binomial's, and the default is what either covers.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from butwait.statistics.beta_binomial import score_interval

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class RateEstimate:
    """A mean rate and what is known of it.

    Attributes:
        rate: the mean over problems.
        interval: (low, high), estimand S.
        se: standard error of the mean, estimand S; None for a single problem or group.
        se_fixed: standard error of the mean, estimand F; None where a problem has one attempt.
        n_effective: the number of independent answers with this standard error.
    """

    rate: float
    interval: Interval
    se: float | None
    se_fixed: float | None
    n_effective: float


def wilson(rate: float, n: float, level: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion (Wilson 1927).

    ``n`` need not be whole. At a rate of 0 or 1 the interval has a width: 0 of 30 gives
    (0, 0.114), never "0 +- 0". Raises ValueError for n <= 0 or a rate outside [0, 1].
    """
    if n <= 0 or not 0 <= rate <= 1:
        raise ValueError(f"a Wilson interval needs n > 0 and a rate in [0, 1], got {n=}, {rate=}")
    z2 = normal_quantile(level) ** 2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (rate * (1 - rate) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # At rate 0 (or 1) the end is exactly 0 (or 1) on paper; rounding must not move it.
    low = 0.0 if rate == 0 else max(0.0, centre - half)
    high = 1.0 if rate == 1 else min(1.0, centre + half)
    return low, high


def standard_error(rates: ArrayLike, groups: Sequence[Hashable] | None = None) -> float | None:
    """Standard error of the mean rate for estimand S: sd / sqrt(n).

    It already holds the noise of the attempts (Miller 2024, arXiv 2411.00640, section 2).
    ``groups`` (n,) names the cluster of each problem (a year, a template); the error is then
    Miller's clustered one (equation 4) with the factor G / (G - 1) for G groups, which he leaves
    out: with it, groups of one problem give the plain error. None for one problem or group; 0
    where no two problems differ by more than rounding.
    """
    x = np.asarray(rates, dtype=np.float64)
    labels = np.arange(len(x)) if groups is None else _labels(groups, len(x))
    count = len(np.unique(labels))
    if count < 2:
        return None
    totals = np.bincount(labels, weights=x - x.mean())
    totals[np.abs(totals) < 1e-12] = 0.0
    return float(np.sqrt(count / (count - 1) * np.sum(totals**2)) / len(x))


def standard_error_fixed(rates: ArrayLike, attempts: ArrayLike) -> float | None:
    """Standard error of the mean rate for estimand F: sqrt(sum x (1 - x) / (k - 1)) / n.

    ``attempts`` is k, one number or one per problem. None where a problem has one attempt:
    a single answer says nothing about its own noise.
    """
    x = np.asarray(rates, dtype=np.float64)
    k = np.broadcast_to(np.asarray(attempts, dtype=np.float64), x.shape)
    if np.any(k < 2):
        return None
    return float(np.sqrt(np.sum(x * (1 - x) / (k - 1))) / len(x))


def estimate_rate(
    rates: ArrayLike,
    attempts: ArrayLike,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
) -> RateEstimate:
    """The mean rate with its interval (estimand S): ``rate_interval`` on an effective number of
    answers.

    n_effective = p (1 - p) / SE^2 * (z / t)^2, with Student's t on n - 1 (or groups - 1) degrees
    of freedom, at most the number of attempts (Korn and Graubard 1998 do the same for
    Clopper-Pearson). Where no two problems differ the error is 0 and says nothing: n_effective
    is then n (or the number of groups). With one attempt a problem and no groups the answers are
    independent, and it is n too.

    Args:
        rates: (n,) share of correct attempts of each problem.
        attempts: k, one number or (n,).
        groups: (n,) cluster of each problem, or None.
        level: coverage.

    Raises ValueError without problems.
    """
    x = np.asarray(rates, dtype=np.float64)
    if x.size == 0:
        raise ValueError("a rate needs at least one problem")
    k = np.broadcast_to(np.asarray(attempts, dtype=np.float64), x.shape)
    p = float(np.clip(x.mean(), 0.0, 1.0))
    se = standard_error(x, groups)
    units = len(x) if groups is None else len(set(groups))
    if not se or (groups is None and np.all(k == 1)):
        n_effective = float(units)
    else:
        shrink = normal_quantile(level) / float(stats.t.ppf((1 + level) / 2, units - 1))
        n_effective = min(p * (1 - p) / se**2 * shrink**2, float(k.sum()))
    interval = rate_interval(x, k, n_effective, groups, level)
    return RateEstimate(p, interval, se, standard_error_fixed(x, k), n_effective)


def rate_interval(
    rates: ArrayLike,
    attempts: ArrayLike,
    n_effective: float,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
) -> Interval:
    """What Wilson's interval on ``n_effective`` answers or the beta-binomial ``score_interval``
    covers.

    The second holds where few problems of very different rates decide (Wilson's covers 79 % at a
    mean of 2 % on 30 problems with 64 attempts), the first whatever the rates are distributed like.
    Where no two problems (or groups) differ, or each has one attempt, nothing is known of the
    spread, and it is Wilson's alone.

    Args as of ``estimate_rate``.
    """
    x = np.asarray(rates, dtype=np.float64)
    labels = np.arange(len(x)) if groups is None else _labels(groups, len(x))
    k = np.bincount(
        labels, weights=np.broadcast_to(np.asarray(attempts, dtype=np.float64), x.shape)
    )
    sizes = np.bincount(labels)
    means = np.bincount(labels, weights=x) / sizes
    low, high = wilson(float(np.clip(x.mean(), 0.0, 1.0)), n_effective, level)
    if np.ptp(means) < 1e-12 or np.all(k == 1):
        return low, high
    other_low, other_high = score_interval(means, k, sizes / len(x), level)
    return min(low, other_low), max(high, other_high)


def normal_quantile(level: float) -> float:
    """The z of a two-sided interval: 1.96 for a level of 0.95."""
    return float(stats.norm.ppf((1 + level) / 2))


def _labels(groups: Sequence[Hashable], n: int) -> np.ndarray:
    if len(groups) != n:
        raise ValueError(f"{len(groups)} group names for {n} problems")
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups])

"""A score interval for a mean rate that does not trust the spread it happened to see.

Near 0 and 1 the few problems that differ are all that is known of the spread. A sample without a
problem that the model solves often has a mean too low and a standard error too low, both at once,
and an interval of so many standard errors misses the truth. Here the spread is unknown: rates of
problems are beta distributed, the correct attempts beta-binomial (Skellam 1948, JRSS B 10:257), and
the correlation of two attempts at a problem is averaged over its posterior distribution.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import ndtr

CORRELATIONS = np.sin(np.pi / 2 * (np.arange(96) + 0.5) / 96) ** 2
"""Quantiles of Beta(1/2, 1/2), the prior of the correlation: dense near 0 and 1."""


def score_interval(
    rates: ArrayLike, attempts: ArrayLike, weights: ArrayLike, level: float = 0.95
) -> tuple[float, float]:
    """The mean rates that the weighted mean of ``rates`` is not too far from: all mu for which
    ``Sample.chance_below`` is between (1 - level) / 2 and (1 + level) / 2.

    Only the spread is taken from the beta-binomial; the centre is the mean of the rates, whatever
    they are distributed like.

    Args:
        rates: (n,) share of correct attempts of each unit (a problem, or a cluster of them).
        attempts: int (n,), k of each unit.
        weights: (n,), of each unit in the mean; they add up to 1.
        level: coverage.
    """
    x, w = np.asarray(rates, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    k = np.asarray(attempts).astype(np.int64)
    correct = np.clip(np.rint(x * k), 0, k).astype(np.int64)
    spread = np.sum(w**2 / k) + CORRELATIONS * np.sum(w**2 * (k - 1) / k)
    mean, counts = np.clip(w @ x, 0.0, 1.0), (_exceeding(correct), _exceeding(k - correct))
    low = _lower_end(Sample(mean, *counts, _exceeding(k), spread), level)
    return low, 1.0 - _lower_end(Sample(1.0 - mean, *counts[::-1], _exceeding(k), spread), level)


@dataclass(frozen=True, slots=True)
class Sample:
    """What is known of one sample of units, or of R at once.

    Attributes:
        mean: () or (R,), weighted mean of the units' rates.
        solved: (K,) or (K, R), how many units have more than 0, 1, ... K - 1 correct attempts.
        failed: the same for attempts that are not correct; K may be another one.
        made: (k,), the same for all attempts.
        spread: (G,), variance of the mean over mu (1 - mu), for each of ``CORRELATIONS``.
    """

    mean: np.ndarray
    solved: np.ndarray
    failed: np.ndarray
    made: np.ndarray
    spread: np.ndarray

    def chance_below(self, mu: float) -> np.ndarray:
        """P(X <= mean | mu), shaped like ``mean``.

        Were mu the true mean and rho the correlation, the mean X would have the variance
        mu (1 - mu) sum w^2 (1 + (k - 1) rho) / k. The chance is that of the normal distribution,
        as in Wilson's interval (1927), averaged over the posterior distribution of rho given mu:
        a posterior predictive p-value (Rubin 1984, Annals of Statistics 12:1151), with mu fixed.
        """
        concentration = (1 - CORRELATIONS) / CORRELATIONS
        likelihood = (
            _log_rising(mu * concentration, self.solved)
            + _log_rising((1 - mu) * concentration, self.failed)
            - np.add.outer(_log_rising(concentration, self.made), np.zeros(self.mean.shape))
        )
        posterior = np.exp(likelihood - likelihood.max(axis=0))
        errors = np.sqrt(mu * (1 - mu) * self.spread)
        below = ndtr(np.multiply.outer(1 / errors, self.mean - mu))
        chance: np.ndarray = (posterior * below).sum(axis=0) / posterior.sum(axis=0)
        return chance


def _lower_end(sample: Sample, level: float) -> float:
    mean = float(sample.mean)
    if mean < 1e-12:  # nothing solved, up to rounding
        return 0.0
    # At 1e-9 of the mean the chance is 1 to all digits, at the mean it is 1/2.
    return float(
        brentq(
            lambda mu: float(sample.chance_below(mu)) - (1 + level) / 2,
            1e-9 * mean,
            min(mean, 1 - 1e-12),  # at 1 there is no spread
            xtol=1e-12,
            rtol=1e-9,
        )
    )


def _exceeding(counts: np.ndarray) -> np.ndarray:
    """How many of the counts exceed 0, 1, 2, ..."""
    return len(counts) - np.cumsum(np.bincount(counts))[:-1]


def _log_rising(start: np.ndarray, exceeding: np.ndarray) -> np.ndarray:
    """The sum over counts c of log start (start + 1) ... (start + c - 1), for each start: (G,) or
    (G, R)."""
    logs: np.ndarray = np.log(start[:, None] + np.arange(len(exceeding))) @ exceeding
    return logs

"""A score interval for a mean rate that does not trust the spread it happened to see.

Near 0 and 1 the few problems that differ are all that is known of the spread. A sample without a
problem that the model solves often has a mean too low and a standard error too low, both at once,
and an interval of so many standard errors misses the truth. Here the spread is unknown: rates of
problems are beta distributed, the correct attempts beta-binomial (Skellam 1948, JRSS B 10:257), and
the correlation of two attempts at a problem is averaged over its posterior distribution.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import ndtr

CORRELATIONS = np.sin(np.pi / 2 * (np.arange(96) + 0.5) / 96) ** 2
"""Quantiles of Beta(1/2, 1/2), the prior of the correlation: dense near 0 and 1."""


def score_interval(
    rates: ArrayLike, attempts: ArrayLike, weights: ArrayLike, level: float = 0.95
) -> tuple[float, float]:
    """The mean rates that the weighted mean of ``rates`` is not too far from.

    Were mu the true mean and rho the correlation, the weighted mean x would have the variance
    mu (1 - mu) sum w^2 (1 + (k - 1) rho) / k. The interval is Wilson's (1927), all mu with
    P(X <= x | mu) between (1 - level) / 2 and (1 + level) / 2 by the normal distribution, with
    this probability averaged over the posterior of rho given mu (a "partial" posterior
    predictive p-value: Bayarri and Berger 2000, JASA 95:1127). Only the spread is taken from the
    beta-binomial; the centre is the mean of the rates, whatever they are distributed like.

    Args:
        rates: (n,) share of correct attempts of each unit (a problem, or a cluster of them).
        attempts: int (n,), k of each unit.
        weights: (n,), of each unit in the mean; they add up to 1.
        level: coverage.
    """
    x, w = np.asarray(rates, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    k = np.asarray(attempts).astype(np.int64)
    correct = np.clip(np.rint(x * k), 0, k).astype(np.int64)
    spreads = float(np.sum(w**2 / k)), float(np.sum(w**2 * (k - 1) / k))
    mean = float(np.clip(w @ x, 0.0, 1.0))
    solved, failed, made = _exceeding(correct), _exceeding(k - correct), _exceeding(k)
    low = _lower_end(mean, solved, failed, made, spreads, level)
    return low, 1.0 - _lower_end(1.0 - mean, failed, solved, made, spreads, level)


def _lower_end(
    mean: float,
    solved: np.ndarray,
    failed: np.ndarray,
    made: np.ndarray,
    spreads: tuple[float, float],
    level: float,
) -> float:
    if mean <= 0.0:
        return 0.0
    concentration = (1 - CORRELATIONS) / CORRELATIONS
    spread = spreads[0] + spreads[1] * CORRELATIONS
    normaliser = _log_rising(concentration, made)

    def excess(mu: float) -> float:
        likelihood = (
            _log_rising(mu * concentration, solved)
            + _log_rising((1 - mu) * concentration, failed)
            - normaliser
        )
        posterior = np.exp(likelihood - likelihood.max())
        below = ndtr((mean - mu) / np.sqrt(mu * (1 - mu) * spread))
        return float(posterior @ below / posterior.sum()) - (1 + level) / 2

    # At 1e-9 of the mean the probability is 1 to all digits, at the mean it is 1/2.
    return float(brentq(excess, 1e-9 * mean, mean, xtol=1e-12, rtol=1e-9))


def _exceeding(counts: np.ndarray) -> np.ndarray:
    """How many of the counts exceed 0, 1, 2, ..."""
    return len(counts) - np.cumsum(np.bincount(counts))[:-1]


def _log_rising(start: np.ndarray, exceeding: np.ndarray) -> np.ndarray:
    """The sum over counts c of log start (start + 1) ... (start + c - 1), for each start."""
    logs: np.ndarray = np.log(start[:, None] + np.arange(len(exceeding))) @ exceeding
    return logs

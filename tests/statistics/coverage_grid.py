"""How often the default interval covers the true mean, in many simulated evaluations at once."""

from collections.abc import Iterator

import numpy as np
from scipy import stats
from scipy.special import expit

from butwait.statistics.beta_binomial import CORRELATIONS, Sample

PROBLEMS = (30, 60, 100, 250, 500)
ATTEMPTS = (1, 2, 4, 8, 16, 64)
MEANS = (0.02, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.98)
BETA = (0.5, 1.5, 5, 20)
Z = stats.norm.ppf(0.975)


def counts_chances(kind: str, value: float, mean: float, k: int) -> np.ndarray:
    """The chances of 0 to k correct attempts at a problem, with true rates spread as

    - ``beta``: with a + b = value;
    - ``logit-normal``: with a standard deviation of ``value`` logits;
    - ``two points``: all rates are value * mean or 1 - value * (1 - mean).
    """
    counts = np.arange(k + 1)
    if kind == "beta":
        return stats.betabinom.pmf(counts, k, mean * value, (1 - mean) * value)
    if kind == "two points":
        points = np.array([value * mean, 1 - value * (1 - mean)])
        shares = np.array([1 - mean, mean])
    else:
        normal = np.linspace(-8, 8, 801)
        shares = stats.norm.pdf(normal) / stats.norm.pdf(normal).sum()
        low, high = -40.0, 40.0
        for _ in range(80):
            middle = (low + high) / 2
            above = shares @ expit(middle + value * normal) > mean
            low, high = (low, middle) if above else (middle, high)
        points = expit(low + value * normal)
    return shares @ stats.binom.pmf(counts, k, points[:, None])


def covered(
    chances: np.ndarray, mean: float, n: int, runs: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """bool (runs,): whether Wilson's interval on the effective number of answers covers the mean,
    and whether the default one does."""
    k = len(chances) - 1
    counts = np.random.default_rng(seed).multinomial(n, chances / chances.sum(), size=runs)
    rates = np.arange(k + 1) / k
    means = counts @ rates / n
    squares = np.maximum((counts @ rates**2 / n - means**2) * n / (n - 1), 0)
    flat = counts.max(axis=1) == n
    answers = np.full(runs, float(n))
    if k > 1:
        shrink = Z / stats.t.ppf(0.975, n - 1)
        some = means * (1 - means) * n / np.where(flat, 1, squares) * shrink**2
        answers = np.where(flat, n, np.minimum(some, n * k))
    wilson = np.abs(means - mean) <= Z * np.sqrt(mean * (1 - mean) / answers)
    if k == 1:
        return wilson, wilson
    beyond = n - np.cumsum(counts, axis=1).T[:-1]
    failed = n - np.cumsum(counts[:, ::-1], axis=1).T[:-1]
    spread = (1 + (k - 1) * CORRELATIONS) / (n * k)
    below = Sample(means, beyond, failed, np.full(k, n), spread).chance_below(mean)
    return wilson, wilson | (~flat & (np.abs(below - 0.5) <= 0.475))


def table(
    kind: str, value: float, runs: int, means: tuple[float, ...] = MEANS
) -> Iterator[tuple[int, int, float, float, float]]:
    """(n, k, mean, share covered by Wilson's, by the default) of every cell of the grid."""
    for k in ATTEMPTS:
        for mean in means:
            chances = counts_chances(kind, value, mean, k)
            for n in PROBLEMS:
                seed = n * 10**6 + k * 10**4 + round(100 * mean)
                wilson, default = covered(chances, mean, n, runs, seed)
                yield n, k, mean, float(wilson.mean()), float(default.mean())

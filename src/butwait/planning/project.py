"""What a sample of a problem set says of the whole set: totals and shares, each with an interval.

The set is finite and the problems of the pilot are a part of it: what they took is known, and only
the others are uncertain. A pilot of the whole set has no interval left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

LEVEL = 0.95
RATE_SPREAD = 0.10
"""Standard error of a machine's seconds a token, as a share of them: other programs run, and the
last paths of a stage run alone."""


@dataclass(frozen=True, slots=True)
class Projection:
    """Attributes:
    estimate: of the whole set.
    interval: that holds it with a probability of 95 %.
    """

    estimate: float
    interval: tuple[float, float]

    def row(self) -> dict[str, object]:
        """For JSON."""
        return {"estimate": self.estimate, "interval": list(self.interval)}


def project_total(samples: Sequence[Sequence[float]], sizes: Sequence[int]) -> Projection:
    """The sum over several problem sets, each of which a random part was seen of.

    The sum over the unseen problems of a set is their number times the mean of the seen ones, with
    the prediction error of Student's t: variance m^2 s^2 (1/n + 1/m) for m unseen and n seen.

    Args:
        samples: of each set, at least two numbers, one a problem.
        sizes: problems of each set.
    """
    from scipy.stats import t

    total = variance = 0.0
    seen, free = 0.0, 0
    for sample, size in zip(samples, sizes, strict=True):
        values = np.asarray(sample, np.float64)
        n, rest = len(values), max(0, size - len(values))
        seen += float(values.sum())
        total += float(values.sum()) + rest * float(values.mean())
        if rest:
            variance += rest**2 * float(values.var(ddof=1)) * (1 / n + 1 / rest)
            free += n - 1
    half = float(t.ppf((1 + LEVEL) / 2, free)) * sqrt(variance) if variance else 0.0
    return Projection(total, (max(seen, total - half), total + half))


def project_share(rates: Sequence[Sequence[float]], sizes: Sequence[int]) -> Projection:
    """The mean rate over several problem sets, by a Jeffreys prior: the unseen problems of a set
    that are solved are beta-binomial given the seen ones. A rate between 0 and 1 counts as part of
    a solved problem, which is wide rather than narrow.

    Args:
        rates: of each set, in [0, 1], one a problem.
        sizes: problems of each set.
    """
    from scipy.stats import betabinom

    mean = low = high = 0.0
    whole = sum(sizes)
    for sample, size in zip(rates, sizes, strict=True):
        n, solved = len(sample), float(sum(sample))
        rest = max(0, size - n)
        mean += (solved + rest * solved / n) / whole
        unseen = betabinom(rest, solved + 0.5, n - solved + 0.5)
        tail = (1 - LEVEL) / 2
        low += (solved + (float(unseen.ppf(tail)) if rest else 0.0)) / whole
        high += (solved + (float(unseen.ppf(1 - tail)) if rest else 0.0)) / whole
    return Projection(mean, (min(mean, low), max(mean, high)))


def project_seconds(tokens: Projection, seen: float, seconds: float, wider: float) -> Projection:
    """Seconds of the whole set, from its tokens and the seconds that some of them took.

    Args:
        tokens: of the whole set.
        seen: tokens of the pilot.
        seconds: of the pilot.
        wider: how many times as many paths the whole set has in flight as the pilot had; the
            passes of more paths are shared, so that the lower end is divided by it.
    """
    rate = seconds / max(1.0, seen)
    estimate = rate * tokens.estimate
    ends = [rate * end - estimate for end in tokens.interval]
    own = 1.96 * RATE_SPREAD * (estimate - seconds)
    low = estimate - sqrt(ends[0] ** 2 + own**2)
    high = estimate + sqrt(ends[1] ** 2 + own**2)
    return Projection(estimate, (max(0.0, low) / max(1.0, wider), high))

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


@dataclass(frozen=True, slots=True)
class Draws:
    """Paths that a pilot drew by one method on one set.

    Attributes:
        tokens: of all of them.
        problems: of the pilot.
        paths: of a problem.
        longest: tokens of the longest path.
    """

    tokens: float
    problems: int
    paths: int
    longest: float

    def passes(self, problems: int, concurrency: int, rows: int | None) -> float:
        """Passes of the policy over so many problems: rows are full until the last paths, and
        these end by themselves.

        Args:
            concurrency: problems at a time.
            rows: of the engine; None: no bound.
        """
        beside = min(problems, concurrency) * self.paths
        beside = max(1, beside if rows is None else min(beside, rows))
        drawn = max(1, self.problems * self.paths)
        tail = max(0.0, self.longest - self.tokens / drawn)
        return self.tokens * problems / max(1, self.problems) / beside + tail


def project_seconds(
    tokens: Projection, seen: float, seconds: float, passes: tuple[float, float]
) -> Projection:
    """Seconds of the whole set, from its tokens and the seconds that some of them took.

    The passes of a pilot are less full than those of the whole set: its last paths run alone, and
    it may have fewer in flight. Where a pass costs the same however full it is, seconds follow the
    passes; where each row costs, they follow the tokens. The truth is between: the estimate is
    the middle, and the interval reaches both, with the errors of tokens and rate.

    Args:
        tokens: of the whole set.
        seen: tokens of the pilot.
        seconds: of the pilot.
        passes: of the pilot and of the whole set.
    """
    rate = seconds / max(1.0, seen)
    by_tokens = rate * tokens.estimate
    by_passes = min(by_tokens, seconds * passes[1] / max(1e-9, passes[0]))
    below, above = (abs(rate * end - by_tokens) for end in tokens.interval)
    own = 1.96 * RATE_SPREAD * max(0.0, by_tokens - seconds)
    low = by_passes - sqrt((below * by_passes / max(1e-9, by_tokens)) ** 2 + own**2)
    high = by_tokens + sqrt(above**2 + own**2)
    return Projection((by_tokens + by_passes) / 2, (max(min(seconds, by_passes), low), high))

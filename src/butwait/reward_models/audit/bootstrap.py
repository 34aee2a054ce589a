"""Intervals of an audit's figures: percentile bootstrap over questions (Efron 1979)."""

from collections.abc import Sequence

import numpy as np

from butwait.records import Key

RESAMPLES = 500

Interval = list[float] | None
"""[low, high] at 95 %; None where no resample has a value."""


def resamples(n: int, key: Key) -> np.ndarray:
    """int (RESAMPLES, n): how often each of n questions was drawn, n draws with replacement."""
    return key.generator().multinomial(n, np.full(n, 1 / n), RESAMPLES)


def interval_of(values: Sequence[float] | np.ndarray) -> Interval:
    """The middle 95 % of a figure's values over resamples; NaN is no value."""
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    return [float(q) for q in np.quantile(known, [0.025, 0.975])] if len(known) else None


def ratio_interval(numerators: np.ndarray, denominators: np.ndarray, key: Key) -> Interval:
    """Of sum / sum, from what each question adds to both, float (n,)."""
    if not len(numerators):
        return None
    drawn = resamples(len(numerators), key)
    over = drawn @ denominators
    return interval_of((drawn @ numerators)[over > 0] / over[over > 0])

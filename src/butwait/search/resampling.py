"""Ways to draw ancestors. All are unbiased: slot i has N w_i children on average.

Surveyed by Douc, Cappé and Moulines (2005, "Comparison of resampling schemes for particle
filtering"); systematic resampling is due to Kitagawa (1996). A resampler takes normalised
weights (N,) and a generator, and returns int32 (N,): the ancestor of each new slot. A particle of
weight zero has no children under any of them.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from butwait.search.settings import Resampling

Resampler = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def inverse_cdf(weights: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """int32: for each position in [0, 1), the index whose stretch of the cumulated weights holds
    it.

    Weights need not sum to exactly 1: positions are scaled to what they do sum to, and one that
    rounding puts at the very end takes the last index with a weight.
    """
    cumulated = np.cumsum(weights)
    indices = np.searchsorted(cumulated, positions * cumulated[-1], side="right")
    last = np.searchsorted(cumulated, cumulated[-1], side="left")
    return np.minimum(indices, last).astype(np.int32)


def systematic(weights: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One uniform shifts a comb of N teeth. Slot i has floor(N w_i) or ceil(N w_i) children."""
    n = len(weights)
    return inverse_cdf(weights, (np.arange(n) + generator.random()) / n)


def stratified(weights: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One uniform in each of N equal strata."""
    n = len(weights)
    return inverse_cdf(weights, (np.arange(n) + generator.random(n)) / n)


def multinomial(weights: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """N independent draws."""
    return inverse_cdf(weights, generator.random(len(weights)))


def residual(weights: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """floor(N w_i) sure children each; the rest are independent draws from what is left over."""
    n = len(weights)
    expected = n * weights / np.sum(weights)
    sure = np.floor(expected)
    ancestors = np.repeat(np.arange(n, dtype=np.int32), sure.astype(np.int64))[:n]
    left = n - len(ancestors)
    if left == 0:
        return ancestors
    drawn = inverse_cdf((expected - sure) / left, generator.random(left))
    return np.concatenate([ancestors, drawn])


RESAMPLERS: dict[Resampling, Resampler] = {
    "systematic": systematic,
    "stratified": stratified,
    "multinomial": multinomial,
    "residual": residual,
}
"""The resamplers by the name that settings use."""

ConditionalResampling = Literal["multinomial", "systematic"]
ConditionalResampler = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
"""From normalised weights (N,), the ancestor of slot 0 and a generator to int32 (N,): the ancestors
of all slots, by the law that the unconditional scheme has given the first."""


def conditional_multinomial(
    weights: np.ndarray, first: int, generator: np.random.Generator
) -> np.ndarray:
    """The other slots are independent draws (Andrieu, Doucet and Holenstein 2010)."""
    others = inverse_cdf(weights, generator.random(len(weights) - 1))
    return np.concatenate([np.array([first], np.int32), others])


def conditional_systematic(
    weights: np.ndarray, first: int, generator: np.random.Generator
) -> np.ndarray:
    """Systematic resampling with slots in a random cyclic order, given the ancestor of slot 0.

    Chopin and Singh (2015, "On particle Gibbs sampling") draw the comb's shift by
    the number of teeth that ``first`` gets, and then an order in which slot 0 has one of them.
    The tooth of slot 0 is then uniform on the stretch of ``first``, and is drawn so here; the
    others follow at distances of 1/N, around the end to the beginning.
    """
    n = len(weights)
    cumulated = np.cumsum(weights)
    tooth = (cumulated[first] - weights[first] * generator.random()) / cumulated[-1]
    others = inverse_cdf(weights, (tooth + np.arange(1, n) / n) % 1.0)
    return np.concatenate([np.array([first], np.int32), others])


CONDITIONAL_RESAMPLERS: dict[ConditionalResampling, ConditionalResampler] = {
    "multinomial": conditional_multinomial,
    "systematic": conditional_systematic,
}
"""The conditional forms by the name of their scheme. ``docs/chains.md`` says why the others have
none."""

"""Resampling: every scheme is unbiased and keeps its promise on the counts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from butwait.search.resampling import RESAMPLERS, inverse_cdf

SCHEMES = sorted(RESAMPLERS)

weight_vectors = hnp.arrays(
    np.float64,
    st.integers(1, 40),
    elements=st.one_of(st.just(0.0), st.floats(1e-9, 1.0)),
).filter(lambda w: w.sum() > 0)


def counts(name: str, weights: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    ancestors = RESAMPLERS[name](weights, generator)
    assert ancestors.dtype == np.int32
    return np.bincount(ancestors, minlength=len(weights))


@pytest.mark.parametrize("name", SCHEMES)
def test_the_mean_number_of_children_is_n_times_the_weight(name: str) -> None:
    weights = np.array([0.05, 0.4, 0.0, 0.25, 0.1, 0.2])
    generator = np.random.default_rng(1)
    draws = np.array([counts(name, weights, generator) for _ in range(20_000)])
    error = draws.std(axis=0) / np.sqrt(len(draws)) + 1e-12
    assert np.abs((draws.mean(axis=0) - 6 * weights) / error).max() < 4.5


@pytest.mark.parametrize("name", SCHEMES)
@given(weights=weight_vectors, seed=st.integers(0, 2**32))
def test_n_children_and_none_of_weight_zero(name: str, weights: np.ndarray, seed: int) -> None:
    weights = weights / weights.sum()
    children = counts(name, weights, np.random.default_rng(seed))
    assert children.sum() == len(weights)
    assert np.all(children[weights == 0] == 0)


@given(weights=weight_vectors, seed=st.integers(0, 2**32))
def test_systematic_counts_are_the_floor_or_the_ceiling(weights: np.ndarray, seed: int) -> None:
    weights = weights / weights.sum()
    children = counts("systematic", weights, np.random.default_rng(seed))
    expected = len(weights) * weights
    assert np.all(children >= np.floor(expected - 1e-9))
    assert np.all(children <= np.ceil(expected + 1e-9))


@given(weights=weight_vectors, seed=st.integers(0, 2**32))
def test_residual_counts_are_at_least_the_floor(weights: np.ndarray, seed: int) -> None:
    weights = weights / weights.sum()
    children = counts("residual", weights, np.random.default_rng(seed))
    assert np.all(children >= np.floor(len(weights) * weights - 1e-9))


@pytest.mark.parametrize("name", SCHEMES)
def test_weights_whose_sum_rounding_made_too_small(name: str) -> None:
    class AlmostOne:
        """A generator of the largest number under 1."""

        def random(self, n: int | None = None) -> float | np.ndarray:
            top = np.nextafter(1.0, 0.0)
            return top if n is None else np.full(n, top)

    weights = np.array([0.5, 0.5 - 1e-9, 0.0])
    ancestors = RESAMPLERS[name](weights, AlmostOne())
    assert set(ancestors.tolist()) <= {0, 1}


def test_inverse_cdf_by_hand() -> None:
    positions = np.array([0.0, 0.19, 0.2, 0.999999])
    assert inverse_cdf(np.array([0.2, 0.0, 0.8]), positions).tolist() == [0, 0, 2, 2]

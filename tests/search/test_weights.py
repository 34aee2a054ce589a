"""Weights in log space."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from butwait.search.weights import (
    effective_sample_size,
    log_mean_exp,
    log_sum_exp,
    normalise,
    reweight,
    tempered,
)

INF = np.inf

log_weights = hnp.arrays(
    np.float64,
    st.integers(1, 30),
    elements=st.one_of(st.floats(-700, 700), st.just(-INF)),
)


def test_values_worked_by_hand() -> None:
    weights = np.log([1.0, 3.0])
    assert log_sum_exp(weights) == pytest.approx(np.log(4))
    assert log_mean_exp(weights) == pytest.approx(np.log(2))
    assert np.exp(normalise(weights)) == pytest.approx([0.25, 0.75])
    assert effective_sample_size(weights) == pytest.approx(16 / 10)


def test_large_exponents_do_not_overflow() -> None:
    assert log_sum_exp(np.array([1000.0, 1000.0])) == pytest.approx(1000 + np.log(2))
    assert effective_sample_size(np.array([-2000.0, -2000.0])) == pytest.approx(2)


def test_all_weights_zero() -> None:
    zero = np.array([-INF, -INF])
    assert log_sum_exp(zero) == -INF
    assert log_mean_exp(zero) == -INF
    assert normalise(zero).tolist() == [-INF, -INF]
    assert effective_sample_size(zero) == 0


@given(log_weights)
def test_normalised_weights_sum_to_one_and_ess_is_between_one_and_n(w: np.ndarray) -> None:
    if log_sum_exp(w) == -INF:
        assert np.all(normalise(w) == -INF)
        return
    assert np.exp(normalise(w)).sum() == pytest.approx(1)
    assert 1 - 1e-9 <= effective_sample_size(w) <= len(w) * (1 + 1e-9)


@given(log_weights, st.floats(-500, 500))
def test_a_common_factor_changes_only_the_sum(w: np.ndarray, shift: float) -> None:
    if log_sum_exp(w) == -INF:
        return
    assert log_sum_exp(w + shift) == pytest.approx(log_sum_exp(w) + shift, abs=1e-9)
    assert normalise(w + shift) == pytest.approx(normalise(w), abs=1e-9)
    assert effective_sample_size(w + shift) == pytest.approx(effective_sample_size(w))


def test_odds_to_the_power_of_zero_are_one_even_at_zero_odds() -> None:
    assert tempered(0.0, np.array([-INF, 3.0])).tolist() == [0.0, 0.0]
    assert tempered(0.5, np.array([-INF, 3.0])).tolist() == [-INF, 1.5]


def test_a_weight_of_zero_stays_zero() -> None:
    before = np.array([-INF, 0.0, 1.0, -INF])
    after = np.array([-INF, -INF, 3.0, 5.0])
    weights = np.array([-INF, 0.5, 0.5, -INF])
    assert reweight(weights, before, after).tolist() == [-INF, -INF, 2.5, -INF]

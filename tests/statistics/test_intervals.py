"""Intervals for one rate."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from butwait.statistics.intervals import (
    estimate_rate,
    standard_error,
    standard_error_fixed,
    wilson,
)


def test_wilson_matches_the_oracle(oracles):
    for row in oracles["wilson"]:
        assert wilson(row["c"] / row["n"], row["n"]) == pytest.approx(row["interval"], abs=1e-6)


@given(st.integers(1, 500), st.data(), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_matches_scipy(n, data, level):
    c = data.draw(st.integers(0, n))
    expected = stats.binomtest(c, n).proportion_ci(level, method="wilson")
    assert wilson(c / n, n, level) == pytest.approx(tuple(expected), abs=1e-12)


def test_nothing_solved_still_has_a_width():
    low, high = wilson(0.0, 30)
    assert low == 0.0
    assert high == pytest.approx(0.113513, abs=1e-6)
    assert wilson(1.0, 30) == pytest.approx((1 - high, 1.0), abs=1e-12)


@pytest.mark.parametrize(("rate", "n"), [(0.5, 0), (1.1, 10), (-0.1, 10), (math.nan, 10)])
def test_wilson_refuses_what_is_no_rate(rate, n):
    with pytest.raises(ValueError, match="Wilson"):
        wilson(rate, n)


def test_estimate_with_eight_attempts_matches_the_oracle(oracles):
    row = oracles["single_k8"]
    found = estimate_rate(np.array(row["counts"]) / row["k"], row["k"])
    assert found.rate == pytest.approx(row["avg"], abs=1e-12)
    assert found.se == pytest.approx(row["se_super"], abs=1e-6)
    assert found.se_fixed == pytest.approx(row["se_fixed"], abs=1e-6)
    assert found.interval == pytest.approx(row["wilson_neff"], abs=1e-6)


def test_attempts_are_not_counted_as_problems(oracles):
    """Wilson on n * k answers is the error of the field; ours is more than twice as wide here."""
    row = oracles["single_k8"]
    low, high = estimate_rate(np.array(row["counts"]) / row["k"], row["k"]).interval
    wrong = wilson(row["avg"], len(row["counts"]) * row["k"])
    assert wrong == pytest.approx(row["pseudo_wilson_nk"], abs=1e-6)
    assert high - low > 2 * (wrong[1] - wrong[0])


def test_one_attempt_a_problem_is_plain_wilson():
    found = estimate_rate([1] * 9 + [0] * 21, 1)
    assert found.interval == wilson(0.3, 30)
    assert found.n_effective == 30
    assert found.se_fixed is None


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_equal_problems_count_once_each(rate):
    found = estimate_rate([rate] * 30, 8)
    assert found.se == 0
    assert found.n_effective == 30
    assert found.interval == wilson(rate, 30)


def test_no_more_answers_are_counted_than_were_given():
    found = estimate_rate([0.5, 0.5, 0.5, 0.5, 0.5, 0.52], 10)
    assert found.n_effective == 60


def test_a_single_problem_has_an_interval_and_no_standard_error():
    found = estimate_rate([0.75], 4)
    assert found.se is None
    assert found.interval == wilson(0.75, 1)


def test_no_problem_is_refused():
    with pytest.raises(ValueError, match="at least one problem"):
        estimate_rate([], 1)


def test_standard_errors_by_hand():
    # mean 1/2, squares 1/4 + 0 + 1/4, variance 1/4, se = sqrt(1/4 / 3)
    assert standard_error([0.0, 0.5, 1.0]) == pytest.approx(math.sqrt(1 / 12))
    # Only the middle problem has noise: 1/2 * 1/2 over k - 1 = 1.
    assert standard_error_fixed([0.0, 0.5, 1.0], 2) == pytest.approx(0.5 / 3)
    assert standard_error_fixed([0.0, 0.5, 1.0], [2, 1, 2]) is None


def test_clustered_error_by_hand():
    # Group sums of deviations from 1/2: a: +1, b: -1; sqrt(2 / 1 * 2) / 4
    assert standard_error([1, 1, 0, 0], ["a", "a", "b", "b"]) == pytest.approx(0.5)
    # Groups that cancel: a: 0, b: 0
    assert standard_error([1, 0, 1, 0], ["a", "a", "b", "b"]) == 0


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40))
def test_groups_of_one_problem_change_nothing(rates):
    plain = standard_error(rates)
    assert standard_error(rates, range(len(rates))) == pytest.approx(plain, abs=1e-12)
    assert plain == pytest.approx(np.std(rates, ddof=1) / math.sqrt(len(rates)), abs=1e-12)


def test_related_problems_widen_the_interval():
    """Ten templates with three equal variants each say what ten problems say."""
    rates = np.repeat([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], 3)
    clustered = estimate_rate(rates, 1, np.repeat(np.arange(10), 3).tolist())
    assert clustered.se == pytest.approx(standard_error(rates[::3]), rel=1e-12)
    assert clustered.n_effective < 10 < estimate_rate(rates, 1).n_effective


def test_group_names_must_fit_the_problems():
    with pytest.raises(ValueError, match="2 group names for 3 problems"):
        standard_error([0, 1, 1], ["a", "b"])


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 8, 64])
@pytest.mark.parametrize("n", [30, 100])
@pytest.mark.parametrize("mean", [0.1, 0.5])
def test_coverage(n, k, mean):
    """A nominal 95 % interval covers in 92 to 99 % of 4,000 runs (two standard errors of the
    count: 0.7 %), with true rates spread as Beta(1.5 * mean, 1.5 * (1 - mean))."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(4000):
        true = rng.beta(1.5 * mean, 1.5 * (1 - mean), n)
        low, high = estimate_rate(rng.binomial(k, true) / k, k).interval
        covered += low <= mean <= high
    assert 0.92 <= covered / 4000 <= 0.99

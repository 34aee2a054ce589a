"""Intervals for one rate."""

import math

import numpy as np
import pytest
from coverage_grid import BETA, MEANS, counts_chances, covered, table
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from butwait.statistics.beta_binomial import CORRELATIONS, score_interval
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
    assert wilson(found.rate, found.n_effective) == pytest.approx(row["wilson_neff"], abs=1e-6)
    # Here the beta-binomial's is inside Wilson's.
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


def test_rates_that_are_equal_but_for_rounding_count_as_equal():
    """30 questions at 1/3: their mean is not exactly 1/3."""
    for rates in ([1 / 3] * 30, [1 / 3, 1 - 2 / 3] * 15):
        found = estimate_rate(rates, 3)
        assert found.se == 0
        assert found.n_effective == 30
        assert found.interval == wilson(found.rate, 30)
    assert standard_error([0.1, 0.2, 0.3, 0.0], list("aabb")) == 0
    assert standard_error([0.1, 0.2, 0.3, 0.0], list("abba")) > 0


def test_a_few_rare_problems_do_not_narrow_the_interval():
    """One problem of 30 solved 3 times of 64: the spread that was seen says little."""
    rates = np.array([3] + [0] * 29) / 64
    found = estimate_rate(rates, 64)
    assert wilson(found.rate, found.n_effective)[1] < 0.01
    assert found.interval[1] > 0.03
    low, high = estimate_rate(1 - rates, 64).interval
    assert (1 - high, 1 - low) == pytest.approx(found.interval, abs=1e-9)


def chance_below(rates, attempts, weights, mu):
    """By scipy's beta-binomial, one correlation at a time."""
    likelihood, below = [], []
    for rho in CORRELATIONS:
        a, b = mu * (1 - rho) / rho, (1 - mu) * (1 - rho) / rho
        likelihood.append(stats.betabinom.logpmf(np.rint(rates * attempts), attempts, a, b).sum())
        variance = mu * (1 - mu) * np.sum(weights**2 * (1 + (attempts - 1) * rho) / attempts)
        below.append(stats.norm.cdf((weights @ rates - mu) / math.sqrt(variance)))
    return np.average(below, weights=np.exp(np.array(likelihood) - max(likelihood)))


@settings(max_examples=8)
@given(st.integers(2, 30), st.integers(0, 10**6))
def test_the_score_interval_holds_the_means_that_are_not_too_far(n, seed):
    rng = np.random.default_rng(seed)
    attempts = rng.integers(1, 9, n)
    rates = rng.binomial(attempts, rng.beta(0.2, 0.8, n)) / attempts
    weights = rng.dirichlet(np.full(n, 20.0))
    low, high = score_interval(rates, attempts, weights)
    if low > 0:
        assert chance_below(rates, attempts, weights, low) == pytest.approx(0.975, abs=1e-6)
    if high < 1:
        assert chance_below(rates, attempts, weights, high) == pytest.approx(0.025, abs=1e-6)
    for mu in (0.02, 0.1, 0.3, 0.5, 0.9):
        inside = abs(chance_below(rates, attempts, weights, mu) - 0.5) <= 0.475
        assert inside == (low <= mu <= high)


def test_clusters_are_the_units_of_the_score_interval():
    """Ten templates of three variants each: one solved at every try, as one problem of ten."""
    rates = np.repeat([1.0] + [0.0] * 9, 3)
    clustered = estimate_rate(rates, 8, np.repeat(np.arange(10), 3).tolist())
    assert clustered.interval[1] >= score_interval(rates[::3], np.full(10, 24), np.full(10, 0.1))[1]
    assert clustered.interval[1] > estimate_rate(rates, 8).interval[1]


def test_many_samples_at_once_are_those_one_by_one():
    rng = np.random.default_rng(5)
    chances = counts_chances("beta", 0.5, 0.05, 8)
    seed = int(rng.integers(10**6))
    _, inside = covered(chances, 0.05, 30, 200, seed)
    table = np.random.default_rng(seed).multinomial(30, chances / chances.sum(), size=200)
    for row, expected in zip(table, inside, strict=True):
        low, high = estimate_rate(np.repeat(np.arange(9), row) / 8, 8).interval
        assert (low <= 0.05 <= high) == expected


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("kind", "value"),
    [*(("beta", value) for value in BETA), ("logit-normal", 1), ("logit-normal", 3)],
)
def test_coverage(kind, value):
    """A nominal 95 % interval covers in 92 to 98 % of 10,000 runs in every cell of the grid, within
    two standard errors of that share (0.3 %). Means above 1/2 mirror those below."""
    found = {
        cell[:3]: cell[4]
        for cell in table(kind, value, runs=10_000, means=MEANS[: len(MEANS) // 2 + 1])
    }
    assert min(found.values()) >= 0.92, min(found, key=found.get)
    assert max(found.values()) <= 0.983, max(found, key=found.get)


@pytest.mark.slow
def test_coverage_where_a_mean_hangs_on_problems_not_seen():
    """Two kinds of problems, at 1 and 51 %, the second 2 % of all: with 60 problems, none of the
    second is seen in 30 % of the runs, and no interval can know of them. With 500 it covers."""
    chances = counts_chances("two points", 0.5, 0.02, 64)
    assert 0.60 < covered(chances, 0.02, 60, 4000, 1)[1].mean() < 0.75
    assert 0.92 < covered(chances, 0.02, 500, 4000, 1)[1].mean() < 0.98

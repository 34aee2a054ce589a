"""What a comparison could have seen, and what chance shows."""

import math

import numpy as np
import pytest
from scipy import stats

from butwait.statistics.paired import sign_flip
from butwait.statistics.power import (
    attempts_to_detect,
    chance_of_lead,
    fewest_significant_wins,
    gain_spread,
    luck_of_the_best,
    minimum_detectable_effect,
    power_of_no_loss,
    power_to_detect,
    questions_to_detect,
    sampling_variance,
)


def test_minimum_detectable_effect_matches_the_oracle(oracles):
    for row in oracles["minimum_detectable_points"]:
        found = minimum_detectable_effect(row["n"], row["k"], row["variance"], row["spread"])
        assert 100 * found == pytest.approx(row["points"], abs=0.051)


def test_no_number_of_attempts_sees_below_the_spread():
    limit = minimum_detectable_effect(30, math.inf, 0.12, 0.10)
    assert 100 * limit == pytest.approx(5.1, abs=0.05)
    assert attempts_to_detect(1 / 30, 30, 0.12, 0.10) is None
    assert attempts_to_detect(limit * 1.01, 30, 0.12, 0.10) is not None


def test_attempts_to_detect_inverts_the_effect():
    # 2 * 0.12 * 2.8016^2 / (30 / 900) = 56.5
    assert attempts_to_detect(1 / 30, 30, 0.12) == 57
    assert minimum_detectable_effect(30, 57, 0.12) <= 1 / 30
    assert minimum_detectable_effect(30, 56, 0.12) > 1 / 30
    assert attempts_to_detect(0.9, 30, 0.12) == 1


def test_chance_of_lead_matches_the_oracle(oracles):
    for row in oracles["identical_models_n30"]:
        for lead, chance in enumerate(row["chances"], start=1):
            assert chance_of_lead(30, 1, row["variance"], lead) == pytest.approx(chance, abs=0.006)


def test_chance_of_lead_by_hand():
    """Two problems, each won or lost with probability 1/4: 4 of 16 + 1 of 16 lead by 1 or 2."""
    assert chance_of_lead(2, 1, 0.25, 2) == pytest.approx(1 / 16)
    assert chance_of_lead(2, 1, 0.25, 1) == pytest.approx(5 / 16)
    assert chance_of_lead(2, 1, 0.0, 1) == 0.0


def test_chance_of_lead_agrees_with_simulation_at_several_attempts():
    rng = np.random.default_rng(5)
    true = rng.beta(0.4, 0.93, 30)
    a, b = rng.binomial(8, true, (20_000, 30)), rng.binomial(8, true, (20_000, 30))
    simulated = np.mean((b - a).sum(axis=1) >= 6)
    variance = float(np.mean(true * (1 - true)))
    # 3 standard errors of 20,000 runs are 0.9 %.
    assert chance_of_lead(30, 8, variance, 6) == pytest.approx(simulated, abs=0.012)


def test_fewest_significant_wins_matches_the_oracle(oracles):
    expected = oracles["fewest_significant_wins"]
    assert [fewest_significant_wins(losses) for losses in range(len(expected))] == expected


def test_sampling_variance_by_hand():
    # 0, (1 * 1) / (2 * 1) = 1/2, 0
    assert sampling_variance([0, 1, 2], 2) == pytest.approx(1 / 6)
    # One attempt: at most 1/3 * 2/3
    assert sampling_variance([0, 0, 1], 1) == pytest.approx(2 / 9)
    # Problems with one attempt say nothing beside others
    assert sampling_variance([1, 1], [1, 2]) == pytest.approx(0.5)


def test_sampling_variance_is_unbiased():
    rng = np.random.default_rng(6)
    true = rng.beta(0.4, 0.93, 40_000)
    found = sampling_variance(rng.binomial(3, true), 3)
    assert found == pytest.approx(np.mean(true * (1 - true)), abs=0.003)


def test_gain_spread():
    assert gain_spread([0.1, 0.3], 0.0) == pytest.approx(math.sqrt(0.02))
    assert gain_spread([0.1, 0.3], 0.0075) == pytest.approx(math.sqrt(0.0125))
    assert gain_spread([0.1, 0.3], 0.5) == 0.0
    assert gain_spread([0.1], 0.0) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("k", [8, 32])
def test_predicted_power_is_true(k):
    """A gain of the size that 80 % power promises is found in 77 to 83 % of runs (n = 100)."""
    rng = np.random.default_rng(7)
    true = rng.uniform(0.2, 0.5, 100)
    # The variance is the mean of both models'; the better one's depends on the gain a little.
    after = true + minimum_detectable_effect(100, k, 0.22)
    variance = float(np.mean([true * (1 - true), after * (1 - after)]))
    gain = minimum_detectable_effect(100, k, variance)
    found = 0
    for _ in range(2000):
        d = rng.binomial(k, true + gain) - rng.binomial(k, true)
        found += sign_flip(d) < 0.05
    assert found / 2000 == pytest.approx(0.8, abs=0.03)


def test_power_of_one_attempt_is_mcnemars_by_enumeration():
    """Five problems: only 5 of 5 could be significant, at 6.25 %, so never at 5 %; six need 6-0."""
    assert power_to_detect(0.5, 5, 1, 0.25) == 0.0
    win, tie = 0.25 + 0.25, 0.5  # no losses
    assert power_to_detect(0.5, 6, 1, 0.25) == pytest.approx(win**6)
    assert power_to_detect(0.5, 7, 1, 0.25) == pytest.approx(win**7 + 7 * win**6 * tie)


def test_power_of_several_attempts_is_that_of_students_test():
    # statsmodels 0.15: TTestPower().power(0.6, 20, 0.05), of which the other tail has 3e-6.
    other = stats.nct.cdf(-stats.t.ppf(0.975, 19), 19, 0.6 * 20**0.5)
    expected = pytest.approx(0.721005099, abs=1e-8)
    assert power_to_detect(0.06, 20, 10, 0.05) + other == expected
    assert power_to_detect(0.5, 30, 512, 0.001) == pytest.approx(1.0)
    for k in (2, 8, 64, 512):
        for n in (2, 30, 500, 5000):
            assert 0 <= power_to_detect(0.03, n, k, 0.12, 0.1) <= 1


def test_questions_to_detect_is_the_fewest():
    for k, spread in ((1, 0.0), (8, 0.1), (64, 0.1)):
        n = questions_to_detect(0.05, k, 0.12, spread)
        assert power_to_detect(0.05, n, k, 0.12, spread) >= 0.8
        assert power_to_detect(0.05, n - 1, k, 0.12, spread) < 0.8


def test_the_best_of_identical_runs(oracles):
    """Ten identical runs at 10 %: the best is expected to solve 5.705 of 30 (research oracle)."""
    for runs, best in ((2, 3.909), (5, 4.983), (10, 5.705), (20, 6.363)):
        assert 3 + 30 * luck_of_the_best(30, 1, 0.09, runs) == pytest.approx(best, abs=1e-3)
    assert luck_of_the_best(30, 8, 0.09, 1) == 0
    # Of 80 million attempts, in which the normal distribution is exact: the greatest of two.
    error = math.sqrt(0.126 / 8e7)
    assert luck_of_the_best(1_000_000, 80, 0.126, 2) == pytest.approx(
        error / math.sqrt(math.pi), rel=1e-3
    )


def test_power_of_no_loss():
    # (0.05 / 0.01581 = 3.162 standard errors) against 1.645 of them.
    assert power_of_no_loss(0.05, 1000, 1, 0.125) == pytest.approx(0.9353, abs=1e-3)
    assert power_of_no_loss(0.001, 1000, 1, 0.125) == pytest.approx(0.05, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "k", "delta"), [(30, 8, 0.09), (30, 64, 0.06), (120, 1, 0.12)])
def test_predicted_power_is_that_of_simulated_runs(n, k, delta):
    """Within 3 points: rates as AIME's, true gains that vary by 5 points."""
    rng, found, runs = np.random.default_rng(7), 0, 1200
    variance, spread = [], []
    for _ in range(runs):
        a = rng.beta(0.45, 1.05, n)
        b = np.clip(a + rng.normal(delta, 0.05, n), 0, 1)
        variance.append(np.mean(a * (1 - a) + b * (1 - b)) / 2)
        spread.append((b - a).std())
        gains = rng.binomial(k, b) - rng.binomial(k, a)
        found += sign_flip(gains, k) < 0.05 and gains.sum() > 0
    # What clipping leaves of the gain is what there is to find.
    x = rng.beta(0.45, 1.05, 200_000)
    real = float(np.mean(np.clip(x + rng.normal(delta, 0.05, len(x)), 0, 1) - x))
    expected = power_to_detect(real, n, k, float(np.mean(variance)), float(np.mean(spread)))
    assert found / runs == pytest.approx(expected, abs=0.03 + 2 * 0.0144)

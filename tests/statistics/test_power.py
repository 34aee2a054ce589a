"""What a comparison could have seen, and what chance shows."""

import math

import numpy as np
import pytest

from butwait.statistics.paired import sign_flip
from butwait.statistics.power import (
    attempts_to_detect,
    chance_of_lead,
    fewest_significant_wins,
    gain_spread,
    minimum_detectable_effect,
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

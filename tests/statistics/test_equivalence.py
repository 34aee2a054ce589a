"""Claims of no loss."""

import numpy as np
import pytest
from scipy import stats

from butwait.statistics.equivalence import no_loss
from butwait.statistics.intervals import normal_quantile
from butwait.statistics.paired import bonett_price


def test_several_attempts_are_students_one_sided_tests():
    """scipy's t test against -margin and margin, and statsmodels 0.15's ``ttost_paired``."""
    d = np.array([0, 0.125, -0.25, 0.5, 0, 0, 0.125, -0.125, 0, 0.25])
    found = no_loss(d, 0.1)
    low = stats.ttest_1samp(d, -0.1, alternative="greater").pvalue
    high = stats.ttest_1samp(d, 0.1, alternative="less").pvalue
    assert found["p_no_loss"] == pytest.approx(low, abs=1e-12)
    assert found["p_equivalent"] == pytest.approx(max(low, high), abs=1e-12)
    expected = [0.1, 0.017165356655, 0.289693440935]
    assert list(found.values()) == pytest.approx(expected, abs=1e-9)


def test_one_attempt_has_the_centre_and_error_of_its_interval():
    d = np.array([1] * 3 + [-1] * 2 + [0] * 95)
    low, high = bonett_price(3, 2, 100)
    centre, error = (low + high) / 2, (high - low) / 2 / normal_quantile(0.95)
    expected = stats.norm.sf((centre + 0.05) / error)
    assert no_loss(d, 0.05, 1)["p_no_loss"] == pytest.approx(expected, abs=1e-12)


def test_the_interval_and_the_test_agree():
    """A 90 % interval within the margin is TOST at 5 %."""
    rng = np.random.default_rng(3)
    for _ in range(50):
        d = rng.normal(0.02, 0.1, 20)
        half = stats.t.ppf(0.95, 19) * d.std(ddof=1) / 20**0.5
        within = abs(d.mean()) + half < 0.06
        assert within == (no_loss(d, 0.06)["p_equivalent"] < 0.05)


def test_equal_models_show_no_loss_only_with_enough_questions():
    assert no_loss(np.zeros(30), 0.02)["p_no_loss"] > 0.05
    assert no_loss(np.zeros(3000), 0.02)["p_no_loss"] < 0.05
    with pytest.raises(ValueError, match="above 0"):
        no_loss(np.zeros(3), 0)

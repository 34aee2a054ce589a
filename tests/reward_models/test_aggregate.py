"""Aggregations against exact arithmetic."""

from decimal import Decimal, getcontext

import numpy as np
import pytest

from butwait.reward_models.aggregate import aggregate, probability


def exact_product(logits: list[float]) -> float:
    getcontext().prec = 60
    p = Decimal(1)
    for value in logits:
        p /= 1 + (-Decimal(value)).exp()
    return float((p / (1 - p)).ln())


@pytest.mark.parametrize(
    "logits",
    [[0.0, 0.0], [2.0, -1.0, 3.5], [30.0, 31.0], [-40.0, -50.0], [1e-9, 0.1], [36.0], [-11.0]],
)
def test_prod_is_the_exact_logit_of_the_product(logits: list[float]):
    assert aggregate(np.array(logits), "prod") == pytest.approx(exact_product(logits), rel=1e-12)


def test_prod_of_halves():
    # 1/2 * 1/2 = 1/4, odds 1/3.
    assert aggregate(np.zeros(2), "prod") == pytest.approx(-np.log(3))


def test_prod_of_certainties_is_certain():
    assert aggregate(np.array([800.0, 900.0]), "prod") == np.inf


def test_min_and_last():
    logits = np.array([1.5, -2.0, 0.25])
    assert aggregate(logits, "min") == -2.0
    assert aggregate(logits, "last") == 0.25
    assert aggregate(logits[-1:], "model") == 0.25


def test_probabilities_of_log_odds_beyond_what_exp_holds():
    logits = np.array([-np.inf, -1e300, -1000.0, 0.0, 1000.0, np.inf])
    assert probability(logits).tolist() == [0, 0, 0, 0.5, 1, 1]
    assert [float(probability(logit)) for logit in logits.tolist()] == [0, 0, 0, 0.5, 1, 1]
    assert np.isnan(probability(float("nan")))
    assert probability(np.log(3)) == pytest.approx(0.75)

"""Questions crossed with seeds."""

import numpy as np
import pytest
from scipy import stats

from butwait.statistics.crossed import crossed_difference, crossed_mean
from butwait.statistics.paired import paired_t

TABLE = np.array([[0, 1, 0.5, 0, 1], [0.5, 1, 1, 0, 1], [0, 0.5, 0.5, 0, 1]])


def mean_squares(table: np.ndarray) -> tuple[float, float, float]:
    """Of seeds, questions and their interaction, by the textbook's sums of squares."""
    seeds, n = table.shape
    correction = table.sum() ** 2 / table.size
    of_seeds = (table.sum(axis=1) ** 2).sum() / n - correction
    of_questions = (table.sum(axis=0) ** 2).sum() / seeds - correction
    rest = (table**2).sum() - correction - of_seeds - of_questions
    return of_seeds / (seeds - 1), of_questions / (n - 1), rest / ((seeds - 1) * (n - 1))


def test_the_error_of_a_mean_is_that_of_the_analysis_of_variance() -> None:
    of_seeds, of_questions, rest = mean_squares(TABLE)
    assert of_seeds > rest
    found = crossed_mean(TABLE)
    assert found.mean == pytest.approx(8 / 15)
    assert found.se**2 == pytest.approx((of_seeds + of_questions - rest) / 15)
    expected = (of_seeds + of_questions - rest) ** 2 / (of_seeds**2 / 2 + of_questions**2 / 4)
    assert found.degrees == pytest.approx(expected)


def test_an_arm_without_seeds_has_the_error_over_questions() -> None:
    found = crossed_mean(TABLE[:1])
    assert found.se == pytest.approx(TABLE[0].std(ddof=1) / 5**0.5)
    assert found.degrees == 4


def test_a_difference_of_models_without_seeds_is_the_paired_t_test() -> None:
    found = crossed_difference(TABLE[:1], TABLE[1:2])
    d = TABLE[1] - TABLE[0]
    assert found.interval() == pytest.approx(paired_t(d))
    assert found.p == pytest.approx(stats.ttest_1samp(d, 0).pvalue)


def test_the_error_of_a_difference_has_the_seeds_of_both_arms_in_it() -> None:
    other = np.array([[1, 1, 1, 0, 0.5], [1, 1, 0, 1, 1]])
    found = crossed_difference(TABLE, other)
    d = other.mean(axis=0) - TABLE.mean(axis=0)
    over_questions = d.var(ddof=1) / 5
    (seeds_a, _, rest_a), (seeds_b, _, rest_b) = mean_squares(TABLE), mean_squares(other)
    assert seeds_b < rest_b  # such seeds add nothing
    assert found.mean == pytest.approx(d.mean())
    assert found.se**2 == pytest.approx(over_questions + (seeds_a - rest_a) / 15)
    back = crossed_difference(other, TABLE)
    assert (back.mean, back.se, back.p) == pytest.approx((-found.mean, found.se, found.p))


def test_a_single_training_has_the_spread_of_the_other_arms() -> None:
    """s^2 (1/3 + 1) of the seeds, with their two degrees of freedom, less the interaction."""
    other = np.array([[1, 1, 1, 0, 0.5]])
    found = crossed_difference(TABLE, other, trained_once=True)
    over_questions = (other[0] - TABLE.mean(axis=0)).var(ddof=1) / 5
    of_seeds, _, rest = mean_squares(TABLE)
    between, interaction = of_seeds / 5 * (4 / 3), rest / 5 * (4 / 3)
    assert found.se**2 == pytest.approx(over_questions + between - interaction)
    expected = found.se**4 / (over_questions**2 / 4 + between**2 / 2)
    assert found.degrees == pytest.approx(expected)
    assert found.p > crossed_difference(TABLE, other).p
    back = crossed_difference(other, TABLE, trained_once=True)
    assert (back.mean, back.se, back.p) == pytest.approx((-found.mean, found.se, found.p))
    # Two single trainings show no spread at all, and two arms have their own.
    for a, b in ((TABLE[:1], other), (TABLE, TABLE[1:])):
        assert crossed_difference(a, b, trained_once=True) == crossed_difference(a, b)


def test_the_luck_of_a_single_training_is_not_taken_for_an_effect() -> None:
    rng = np.random.default_rng(1)
    counted = ignored = 0
    for _ in range(300):
        easy = rng.normal(size=(1, 200))
        arms = [
            rng.binomial(2, 1 / (1 + np.exp(-(easy + 0.4 * rng.normal(size=(seeds, 1)))))) / 2
            for seeds in (3, 1)
        ]
        counted += crossed_difference(*arms, trained_once=True).p < 0.05
        ignored += crossed_difference(*arms).p < 0.05
    assert counted / 300 <= 0.08
    assert ignored / 300 > 0.2


def test_where_no_two_questions_differ_the_spread_is_not_taken_for_nothing() -> None:
    """As the paired interval's: 2 of 32 would-be differences, Bonett and Price's."""
    found = crossed_difference(np.zeros((2, 30)), np.ones((2, 30)))
    assert found.mean == 1
    assert found.se == pytest.approx((2 / 32 / 32) ** 0.5)
    assert crossed_difference(np.zeros((1, 30)), np.zeros((1, 30))).p == 1


def _rejected(luck: float, runs: int = 400) -> tuple[float, float]:
    """Shares of runs in which two arms without a true difference are told apart: by questions
    and seeds, and by questions alone. ``luck``: standard deviation of a training, in logits."""
    rng = np.random.default_rng(0)
    both = alone = 0
    for _ in range(runs):
        easy = rng.normal(size=(1, 200))
        arms = []
        for _arm in range(2):
            logits = easy + luck * rng.normal(size=(5, 1)) + 0.5 * rng.normal(size=(5, 200))
            arms.append(rng.binomial(2, 1 / (1 + np.exp(-logits))) / 2)
        both += crossed_difference(*arms).p < 0.05
        alone += crossed_difference(*(arm.mean(axis=0, keepdims=True) for arm in arms)).p < 0.05
    return both / runs, alone / runs


def test_luck_of_seeds_is_not_taken_for_an_effect() -> None:
    both, alone = _rejected(luck=0.3)
    assert 0.02 <= both <= 0.07
    assert alone > 0.35


def test_without_luck_the_test_still_holds_its_level() -> None:
    both, alone = _rejected(luck=0.0)
    assert both <= 0.06
    assert 0.02 <= alone <= 0.08

"""Several seeds of one training, pooled and compared."""

import json

import numpy as np
import pytest

from butwait.evaluation.arms import arm_figures, compare_arms
from butwait.evaluation.compare import compare
from butwait.evaluation.metrics import attempt_figures
from butwait.records import UserError
from butwait.statistics.crossed import crossed_difference, crossed_mean

SEEDS = [[2, 1, 0, 0, 2, 1], [2, 2, 0, 1, 2, 1], [1, 1, 0, 0, 2, 0]]
OTHERS = [[2, 2, 1, 0, 2, 2], [2, 2, 2, 1, 2, 2]]


def test_an_arm_is_the_mean_of_its_seeds(from_counts):
    found = arm_figures([from_counts(counts, 2) for counts in SEEDS])
    estimate = crossed_mean(np.array(SEEDS) / 2)
    assert (found["n"], found["k"], found["seeds"]) == (6, 2, 3)
    assert found["pass_at_1"] == pytest.approx(18 / 36)
    assert found["seed_rates"] == pytest.approx([6 / 12, 8 / 12, 4 / 12])
    assert found["seed_sd"] == pytest.approx(1 / 6)
    assert found["se"] == pytest.approx(estimate.se)
    assert found["pass_at_k"] == {"2": pytest.approx((4 + 5 + 3) / 18)}
    assert found["status"]["correct"] == 18
    assert sum(found["status"].values()) == 36
    low, high = found["interval"]
    assert 0 < low < 0.5 < high < 1
    assert found["estimand"] == "problems and trainings like these"
    assert set(attempt_figures(from_counts(SEEDS[0], 2))) < set(found)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_seeds_that_differ_widen_the_interval(from_counts):
    apart = arm_figures([from_counts([2] * c + [0] * (40 - c), 2) for c in (10, 20, 30)])
    alike = arm_figures([from_counts([2] * 20 + [0] * 20, 2)] * 3)
    assert apart["pass_at_1"] == alike["pass_at_1"] == 0.5
    assert np.diff(apart["interval"]) > 1.5 * np.diff(alike["interval"])


def test_an_arm_that_solves_nothing_has_an_interval(from_counts):
    found = arm_figures([from_counts([0] * 30, 2)] * 5)
    assert (found["pass_at_1"], found["interval"][0]) == (0, 0)
    assert found["interval"][1] == pytest.approx(0.1135, abs=1e-4)  # Wilson on 30


def test_an_arm_that_solves_one_question_at_times_has_a_wide_interval(from_counts):
    """Two seeds of 32 attempts as one model of 64."""
    arm = arm_figures([from_counts([c] + [0] * 29, 32) for c in (1, 2)])
    assert arm["interval"][1] > 0.03
    assert arm["interval"][1] == pytest.approx(
        attempt_figures(from_counts([3] + [0] * 29, 64))["interval"][1]
    )


def test_two_arms_are_compared_over_questions_and_seeds(from_counts):
    a = [from_counts(counts, 2) for counts in SEEDS]
    b = [from_counts(counts, 2) for counts in OTHERS]
    found = compare_arms("x/t/m", a, "y/t/m", b)
    expected = crossed_difference(np.array(SEEDS) / 2, np.array(OTHERS) / 2)
    assert (found["a"], found["b"], found["n"], found["k"]) == ("x/t/m", "y/t/m", 6, 2)
    assert (found["seeds_a"], found["seeds_b"]) == (3, 2)
    assert found["delta"] == pytest.approx(20 / 24 - 18 / 36)
    assert found["p"] == pytest.approx(expected.p)
    assert found["interval"] == pytest.approx(expected.interval())
    # By question: 1 - 5/6, 1 - 4/6, 3/4 - 0, 1/4 - 1/6, 1 - 1, 1 - 2/6.
    assert (found["wins"], found["losses"], found["ties"]) == (5, 0, 1)
    assert found["p_these_trainings"] < found["p"]
    assert found["evidence"] is (found["p"] < 0.05)
    assert found["sentence"].startswith(
        "y/t/m 83.3% (6 x 2, 2 seeds) against x/t/m 50.0% (6 x 2, 3 seeds): +33.3 points, 95% CI ["
    )
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_model_without_seeds_is_a_fixed_one(from_counts):
    base, arm = [1, 0, 0, 0, 1, 0] * 10, [[2, 1, 1, 0, 2, 1] * 10, [2, 2, 1, 0, 2, 1] * 10]
    found = compare_arms(
        "base", [from_counts(base, 2)], "arm", [from_counts(counts, 2) for counts in arm]
    )
    assert (found["seeds_a"], found["seeds_b"]) == (1, 2)
    assert found["evidence"] is True
    assert found["sentence"].endswith("arm is better.")
    assert "base 16.7% (60 x 2): " in found["sentence"]


def test_the_same_keys_as_a_comparison_of_two_evaluations(from_counts):
    single = compare("a", from_counts([1, 0, 2], 2), "b", from_counts([2, 0, 2], 2))
    arms = compare_arms("a", [from_counts([1, 0, 2], 2)], "b", [from_counts([2, 0, 2], 2)] * 2)
    assert set(single) - set(arms) == {"p_these_problems", "test_these_problems"}
    assert set(arms) - set(single) == {
        "p_these_trainings", "test_these_trainings", "seeds_a", "seeds_b", "trained_once",
    }  # fmt: skip


def test_a_training_of_one_seed_is_told_from_a_model_that_no_seed_made(from_counts):
    one, other = from_counts([1, 0, 2], 2), from_counts([2, 0, 2], 2)

    def once(seeds_a, seeds_b, *trained):
        return compare_arms("a", [one] * seeds_a, "b", [other] * seeds_b, trained)["trained_once"]

    assert once(1, 2, "a", "b") == "a"
    assert once(2, 1, "b") == "b"
    assert once(1, 2, "b") is None  # the base
    assert once(2, 2, "a", "b") is None
    assert once(1, 1, "a", "b") is None  # no arm is beside it


def test_no_evidence_says_what_would_have_been_found(from_counts):
    a, b = from_counts([1, 0] * 20, 1), from_counts([1, 0] * 19 + [1, 1], 1)
    found = compare_arms("a", [a, b], "b", [b, a])
    assert (found["delta"], found["p"]) == (0, 1)
    gain = 2.8016 * crossed_difference(*([[1, 0] * 19 + [1, 0.5]],) * 2).se
    assert found["minimum_detectable_effect"] == pytest.approx(gain, rel=1e-3)
    assert found["sentence"].endswith(
        "NOT EVIDENCE of a difference. So many seeds and problems find a gain of "
        f"{100 * gain:.1f} points in 80% of runs."
    )


def test_so_few_seeds_that_nothing_is_known_are_told_so(from_counts):
    """An interval ends at 100 points, and no gain is above them."""
    a = [from_counts([0, 0, 0, 1], 1), from_counts([1, 1, 1, 0], 1)]
    b = [from_counts([1, 1, 1, 1], 1), from_counts([0, 0, 0, 1], 1)]
    found = compare_arms("a", a, "b", b)
    assert found["interval"] == [-1.0, 1.0]
    assert "95% CI [-100.0, +100.0]" in found["sentence"]
    assert found["minimum_detectable_effect"] is None
    told = "So few seeds and problems find no gain, however large, in 80% of runs."
    assert found["sentence"].endswith(told)


def test_an_arm_on_the_floor_is_flagged(from_counts):
    nothing = from_counts([0] * 30, 1)
    found = compare_arms("a", [nothing, nothing], "b", [nothing, nothing])
    assert found["extreme"] == "floor"


def test_ungradable_attempts_and_problems_are_left_out_of_every_seed(from_marks):
    whole, broken = from_marks("00", "01", "11"), from_marks("u0", "uu", "11")
    found = arm_figures([whole, broken])
    assert (found["n"], found["excluded"]["problems"]) == (2, ["p1"])
    # One attempt of the first problem is left on both sides, both correct; none of the third.
    assert found["pass_at_1"] == pytest.approx(0.5)


def test_seeds_on_different_problems_are_refused(from_counts):
    with pytest.raises(UserError, match="1 stand in some of them only, such as 'p2'"):
        arm_figures([from_counts([1, 0], 1), from_counts([1, 0, 1], 1)])


def test_arms_without_a_problem_in_common_that_can_be_scored_are_refused(from_marks):
    with pytest.raises(UserError, match="a and b have no problem that all could score"):
        compare_arms("a", [from_marks("uu", "00")], "b", [from_marks("00", "uu")] * 2)

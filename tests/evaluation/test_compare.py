"""Two evaluations on the same problems."""

import json
from fractions import Fraction

import numpy as np
import pytest

from butwait.evaluation.compare import compare, with_holm
from butwait.records import UserError
from butwait.statistics.paired import sign_flip

COUNTS_A = [0] * 12 + [1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 8]
COUNTS_B = [0] * 8 + [1, 0, 0, 1, 2, 1, 3, 3, 2, 4, 3, 6, 5, 6, 5, 7, 8, 7, 8, 8, 8, 8]


def test_worked_example(from_counts):
    found = compare("base", from_counts(COUNTS_A, 8), "sft", from_counts(COUNTS_B, 8))
    assert (found["a"], found["b"], found["n"], found["k"]) == ("base", "sft", 30, 8)
    assert found["delta"] == pytest.approx(0.0625, abs=1e-12)
    assert found["interval"] == pytest.approx([0.030654, 0.094346], abs=1e-6)
    assert found["p"] == pytest.approx(0.000488281, abs=1e-9)
    assert found["p_these_problems"] == pytest.approx(0.042245615, abs=1e-9)
    assert (found["wins"], found["losses"], found["ties"]) == (12, 0, 18)
    assert (found["test"], found["estimand"]) == ("exact sign-flip", "problems like these")
    assert found["evidence"] is True
    assert found["sentence"] == (
        "sft 40.0% of 30 x 8 against base 33.8% of 30 x 8, 12 wins and 0 losses: +6.2 points, "
        "95% CI [+3.1, +9.4], exact p = 0.00049. sft is better."
    )
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_plus_one_of_thirty_is_not_evidence(from_counts):
    found = compare(
        "base", from_counts([1] * 9 + [0] * 21, 1), "sft", from_counts([1] * 10 + [0] * 20, 1)
    )
    assert found["p"] == 1.0
    assert found["evidence"] is False
    assert found["interval"] == pytest.approx([-0.074282, 0.136782], abs=1e-6)
    # 2.8016 standard errors, with sigma^2 of the pooled rate, 19/60 * 41/60.
    assert found["minimum_detectable_effect"] == pytest.approx(0.33649, abs=1e-5)
    assert found["sentence"] == (
        "sft 10/30 against base 9/30, 1 win and 0 losses: +3.3 points, 95% CI [-7.4, +13.7], "
        "exact p = 1.00. NOT EVIDENCE of a difference. Of two identical models, a given one leads "
        "by at least as much in up to 44% of runs. Smallest significant splits of wins and "
        "losses: 6-0, 8-1, 10-2. To detect 3.3 points: about k = 102 for a claim about these 30; "
        "for problems like them, if gains vary by 10 points, even k = infinity on 30 stops at "
        "5.1 points: add problems."
    )


def test_a_loss_is_called_worse(from_counts):
    found = compare("base", from_counts(COUNTS_B, 8), "sft", from_counts(COUNTS_A, 8))
    assert found["delta"] == pytest.approx(-0.0625)
    assert found["p"] == pytest.approx(0.000488281, abs=1e-9)
    assert found["sentence"].endswith("sft is worse.")


def test_six_wins_without_a_loss_are_evidence(from_counts):
    found = compare("a", from_counts([0] * 30, 1), "b", from_counts([1] * 6 + [0] * 24, 1))
    assert found["p"] == pytest.approx(0.03125)
    assert found["evidence"] is True
    assert found["extreme"] is None


def test_a_baseline_on_the_floor_is_flagged(from_counts):
    found = compare(
        "base", from_counts([1] + [0] * 29, 1), "sft", from_counts([1, 1] + [0] * 28, 1)
    )
    assert found["extreme"] == "floor"
    assert found["sentence"].endswith("base solves 1/30: this set cannot show a difference.")


def test_a_baseline_at_the_ceiling_is_flagged(from_counts):
    found = compare("base", from_counts([1] * 29 + [0], 1), "sft", from_counts([1] * 30, 1))
    assert found["extreme"] == "ceiling"
    assert found["sentence"].endswith("this set has no room to show a gain.")


def test_equal_results(from_counts):
    attempts = from_counts([1] * 9 + [0] * 21, 1)
    found = compare("a", attempts, "b", attempts)
    assert (found["delta"], found["p"], found["p_these_problems"]) == (0.0, 1.0, 1.0)
    assert found["interval"][0] == -found["interval"][1] < 0
    assert found["sentence"].endswith("NOT EVIDENCE of a difference.")


def test_nothing_is_promised_where_no_attempt_differed(from_counts):
    """All alike says nothing of noise: no gain of 0.0 points is found, and nothing in 0 % of
    runs."""
    for right, k in ((0, 1), (1, 1), (0, 4), (4, 4)):
        alike = from_counts([right] * 30, k)
        assert compare("a", alike, "b", alike)["minimum_detectable_effect"] is None
    apart = [compare("a", from_counts([0] * 4, k), "b", from_counts([k] * 4, k)) for k in (1, 8)]
    # At k = 1 of the pooled rate: identical models of 1/2 win four of four in 1 of 256 runs.
    assert "at least as much in up to 0.4% of runs" in apart[0]["advice"]
    assert apart[0]["minimum_detectable_effect"] == pytest.approx(2.8016 * (0.5 / 4) ** 0.5, 1e-4)
    assert apart[1]["minimum_detectable_effect"] is None
    assert (apart[1]["p"], apart[1]["advice"]) == (
        0.125, "a solves 0.0% of 4 x 8: this set cannot show a difference.",
    )  # fmt: skip


def test_one_question_is_no_evidence_of_others(from_counts):
    found = compare("a", from_counts([8], 8), "b", from_counts([0], 8))
    assert (found["delta"], found["p"], found["interval"]) == (-1.0, 1.0, [-1.0, 1.0])
    found = compare("a", from_counts([3], 8), "b", from_counts([4], 8))
    assert found["interval"] == [-1.0, 1.0]
    # More than 100 points are gained by nothing.
    found = compare("a", from_counts([0, 1], 1), "b", from_counts([1, 0], 1))
    assert found["minimum_detectable_effect"] is None


def test_advice_names_a_number_of_attempts_where_one_is_enough(from_counts):
    """500 problems, 120 won and 100 lost by one attempt of two: 2 points."""
    b = [2] * 120 + [0] * 100 + [1] * 280
    found = compare("a", from_counts([1] * 500, 2), "b", from_counts(b, 2))
    assert found["delta"] == pytest.approx(0.02)
    assert found["evidence"] is False
    # sigma^2 is the mean of 0.5 and 0.28; twice it over 500 (0.02 / 2.8016)^2 = 0.02548, and
    # over 0.02548 - 0.1^2.
    assert found["sentence"].endswith(
        "To detect 2.0 points: about k = 31 for a claim about these 500; for problems like them, "
        "if gains vary by 10 points, about k = 51."
    )


def test_unequal_numbers_of_attempts_are_compared_on_the_first_ones(from_marks):
    a = from_marks("0111", "0011", "1111")
    b = from_marks("00", "10", "11")
    found = compare("a", a, "b", b)
    # First two of a: 1, 2, 0 correct; of b: 2, 1, 0.
    assert found["k"] == 2
    assert (found["rate_a"], found["rate_b"]) == (pytest.approx(0.5), pytest.approx(0.5))
    assert (found["wins"], found["losses"], found["ties"]) == (1, 1, 1)
    assert found["sentence"].startswith(
        "b 50.0% of 3 x 2 against a 50.0% of 3 x 2 (on the first 2 of 4 attempts), 1 win"
    )


def test_ungradable_attempts_are_left_out_on_both_sides(from_marks):
    found = compare("a", from_marks("u01", "111"), "b", from_marks("000", "011"))
    # The first problem compares two attempts of each: 1 of 2 and 2 of 2.
    assert found["delta"] == pytest.approx((0.5 + 1 / 3) / 2)
    assert found["k"] == 3


def test_the_test_has_the_sign_of_the_effect(from_marks):
    """B solves the one attempt that could be graded of nine problems, A all eight of another: nine
    wins to one, though A has more of the correct attempts than B's lead in counts says."""
    a = from_marks(*["1" * 8] * 9, "0" * 8)
    b = from_marks(*["0" + "u" * 7] * 9, "1" * 8)
    found = compare("a", a, "b", b)
    assert found["delta"] == pytest.approx(0.8)
    assert found["p"] == pytest.approx(2 * (1 + 10) / 2**10)
    assert found["sentence"].endswith("b is better.")
    turned = compare("b", b, "a", a)
    assert (turned["delta"], turned["p"]) == (pytest.approx(-0.8), found["p"])
    assert turned["sentence"].endswith("a is worse.")


def test_equal_rates_are_no_lead_whatever_the_counts(from_marks):
    """1 of 1 and 0 of 4 against 0 of 1 and 4 of 4."""
    found = compare("a", from_marks("1uuu", "0000"), "b", from_marks("0uuu", "1111"))
    assert (found["delta"], found["p"], found["p_these_problems"]) == (0, 1, 1)
    assert found["sentence"].endswith("NOT EVIDENCE of a difference.")


def test_p_of_a_clean_sweep_is_above_0(from_counts):
    found = compare("a", from_counts([0] * 1200, 1), "b", from_counts([1] * 1200, 1))
    assert 0 < json.loads(json.dumps(found["p"])) < 1e-299
    assert 0 < found["p_these_problems"] < 1e-299
    assert "p < 0.0001" in found["sentence"]


def test_unscored_problems_are_left_out_and_counted(from_marks):
    found = compare("a", from_marks("00", "uu", "11"), "b", from_marks("00", "01", "00"))
    assert (found["n"], found["excluded"]) == (2, 1)
    assert found["delta"] == 0.5
    with pytest.raises(UserError, match="no problem that both could score"):
        compare("a", from_marks("uu"), "b", from_marks("00"))


def test_different_problems_are_refused(from_counts):
    with pytest.raises(UserError, match="1 stand in one of them only, such as 'p2'"):
        compare("a", from_counts([1, 0], 1), "b", from_counts([1, 0, 1], 1))


def test_incomplete_sets_are_refused(from_counts):
    whole = from_counts([1, 0], 2)
    with pytest.raises(UserError, match="incomplete"):
        compare("a", whole, "b", whole[:-1])


def test_holm_over_several_comparisons(from_counts):
    base = from_counts([0] * 30, 1)
    made = [
        compare("base", base, name, from_counts([1] * wins + [0] * (30 - wins), 1))
        for name, wins in (("x", 6), ("y", 9), ("z", 1))
    ]
    adjusted = with_holm(made)
    assert [c["p"] for c in adjusted] == pytest.approx([2 / 64, 2 / 512, 1.0])
    assert [c["p_holm"] for c in adjusted] == pytest.approx([4 / 64, 6 / 512, 1.0])
    assert adjusted[0]["sentence"] == made[0]["sentence"]


def test_first_attempts_keep_the_test_exact_where_all_attempts_would_not():
    """Why both sides get the same number of attempts: 30 problems of rate 5 %, 64 attempts
    against 1. Rates of unequal precision look like a loss on nearly every problem."""
    rng = np.random.default_rng(0)
    unequal = equal = 0
    for _ in range(300):
        a = rng.random((30, 64)) < 0.05
        b = rng.random(30) < 0.05
        unequal += sign_flip(64 * b - a.sum(axis=1)) < 0.05
        equal += sign_flip(b.astype(int) - a[:, 0]) < 0.05
    assert unequal / 300 > 0.15
    assert equal / 300 <= 0.05


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_identical_pairs_are_told_apart_in_at_most_five_percent(from_marks):
    """10,000 pairs of identical models on 20 problems, with 4 attempts against 6, a tenth of them
    ungradable (wrong ones twice as often): never is the verdict against the sign of the effect."""
    rng = np.random.default_rng(7)
    found = {"better": 0, "worse": 0}
    for _ in range(10_000):
        true = rng.beta(0.5, 1, (20, 1))
        sides = []
        for k in (4, 6):
            right = rng.random((20, k)) < true
            broken = rng.random((20, k)) < np.where(right, 0.07, 0.14)
            marks = np.where(broken, "u", np.where(right, "0", "1"))
            sides.append(["".join(row) for row in marks])
        compared = compare("a", from_marks(*sides[0]), "b", from_marks(*sides[1]))
        if compared["evidence"]:
            graded = [[row.replace("u", "") for row in side] for side in sides]
            effect = sum(
                Fraction(y[:m].count("0") - x[:m].count("0"), m)
                for x, y in zip(*graded, strict=True)
                if (m := min(len(x), len(y)))
            )
            word = compared["sentence"].rsplit(" ", 1)[1].rstrip(".")
            assert word == ("better" if effect > 0 else "worse")
            assert compared["delta"] == pytest.approx(float(effect) / compared["n"])
            found[word] += 1
    assert sum(found.values()) / 10_000 <= 0.05
    assert min(found.values()) > 0

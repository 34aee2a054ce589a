"""The audit's figures against numbers worked out by hand."""

import numpy as np
import pytest

from butwait.records import Key, UserError
from butwait.reward_models.audit.prefixes import (
    ScoredPrefixes,
    auc_by_depth,
    audit,
    overall_auc,
    reliability,
    within_question_auc,
)

KEY = Key.of(0, "audit")


def prefixes(*rows: tuple[int, int, float, int, int]) -> ScoredPrefixes:
    """Rows of (question, depth, logit, verified, completions)."""
    question, depth, logit, verified, completions = map(np.array, zip(*rows, strict=True))
    return ScoredPrefixes(question, depth, logit.astype(float), verified, completions)


def test_auc_weighs_every_completion_and_halves_ties():
    # Labels by logit: -1: 1 of 2; 0: 3 of 3; 2: 1 of 4. Positives 1, 3, 1; negatives 1, 0, 3.
    # Wins: 1 * 0.5 + 3 * 1 + 1 * (1 + 1.5) = 6 of 5 * 4 pairs.
    data = prefixes((0, 1, -1.0, 1, 2), (0, 1, 0.0, 3, 3), (0, 1, 2.0, 1, 4))
    assert overall_auc(data) == pytest.approx(6 / 20)
    assert within_question_auc(data) == pytest.approx(6 / 20)


def test_knowing_easy_questions_is_no_within_question_skill():
    # Question 0 is easy and has high logits, question 1 is hard; within each the order is wrong.
    data = prefixes((0, 1, 5.0, 0, 1), (0, 1, 4.0, 3, 3), (1, 1, -4.0, 0, 3), (1, 1, -5.0, 1, 1))
    assert within_question_auc(data) == 0.0
    # Positives at 4 (3) and -5 (1), negatives at 5 (1) and -4 (3): 3 * 3 wins of 16.
    assert overall_auc(data) == pytest.approx(9 / 16)


def test_pairs_are_pooled_over_questions():
    # Question 0: 1 pair, won. Question 1: 4 pairs, one won. Question 2: no pair.
    data = prefixes(
        (0, 1, 1.0, 1, 1),
        (0, 1, 0.0, 0, 1),
        (1, 1, 3.0, 0, 1),
        (1, 1, 2.0, 1, 1),
        (1, 1, 1.0, 0, 1),
        (1, 1, 0.0, 1, 1),
        (2, 1, 0.0, 4, 4),
    )
    assert within_question_auc(data) == pytest.approx((1 + 1) / (1 + 4))


def test_auc_by_depth_compares_equal_depths_only():
    data = prefixes(
        (0, 1, 9.0, 0, 1), (0, 1, 1.0, 1, 1), (0, 2, 2.0, 1, 1), (0, 2, 0.0, 0, 1), (0, 3, 0, 1, 1)
    )
    rows = auc_by_depth(data, Key.of(0))
    assert [(row["depth"], row["auc"]) for row in rows] == [(1, 0.0), (2, 1.0), (3, None)]
    assert rows[0]["base_rate"] == 0.5


def test_the_last_depth_row_still_compares_equal_depths():
    data = prefixes((0, 10, 1.0, 1, 1), (0, 10, 0.0, 0, 1), (0, 12, 2.0, 0, 1), (0, 12, 3.0, 1, 1))
    (row,) = auc_by_depth(data, Key.of(0))
    # Across depths the failed one at 2.0 would beat the verified one at 1.0.
    assert (row["depth"], row["or_deeper"], row["auc"], row["prefixes"]) == (10, True, 1.0, 4)


def test_calibration_by_hand():
    # p = 0.25 with 1 of 4 verified; p = 0.75 with 1 of 2 verified.
    data = prefixes((0, 1, -np.log(3), 1, 4), (1, 1, np.log(3), 1, 2))
    bins = reliability(data)
    assert [(b["lo"], b["hi"], b["n"]) for b in bins] == [(0.2, 0.3, 4), (0.7, 0.8, 2)]
    assert [b["mean_predicted"] for b in bins] == pytest.approx([0.25, 0.75])
    assert [b["mean_observed"] for b in bins] == pytest.approx([0.25, 0.5])
    assert audit(data, KEY)["ece"] == pytest.approx(2 / 6 * 0.25)


def test_a_certain_model_falls_into_the_last_bin():
    (row,) = reliability(prefixes((0, 1, 800.0, 1, 1)))
    assert (row["lo"], row["hi"], row["mean_predicted"]) == (0.9, 1.0, 1.0)


def noisy(auc_noise: float, questions: int = 80) -> ScoredPrefixes:
    rng = np.random.default_rng(1)
    verified = rng.integers(0, 2, questions * 8)
    logit = verified + auc_noise * rng.standard_normal(questions * 8)
    question = np.repeat(np.arange(questions), 8)
    ones = np.ones_like(verified)
    return ScoredPrefixes(question, ones, logit, verified, ones)


@pytest.mark.parametrize(
    ("noise", "word", "particles"),
    [(0.1, "strong", None), (0.65, "fair", 64), (1.5, "weak", 16), (1e6, "useless", 1)],
)
def test_verdict(noise: float, word: str, particles: int | None):
    findings = audit(noisy(noise), KEY)
    assert findings["verdict"].startswith(word)
    assert findings["particles"] == particles


def test_the_interval_holds_the_estimate_and_narrows_with_questions():
    few, many = audit(noisy(1.5, 80), KEY), audit(noisy(1.5, 1280), KEY)
    for findings in (few, many):
        lo, hi = findings["within_question_auc_interval"]
        assert lo < findings["within_question_auc"] < hi
    few_width = np.diff(few["within_question_auc_interval"])
    many_width = np.diff(many["within_question_auc_interval"])
    # The width falls with the square root: by 4.
    assert 3.2 < few_width[0] / many_width[0] < 4.8


def test_the_bootstrap_resamples_questions():
    # One question with AUC 1 and one with AUC 0: a resample has 0, 1/2 or 1.
    data = prefixes((0, 1, 1.0, 1, 1), (0, 1, 0.0, 0, 1), (1, 1, 1.0, 0, 1), (1, 1, 0.0, 1, 1))
    assert audit(data, KEY)["within_question_auc_interval"] == [0.0, 1.0]


def test_one_outcome_only_has_no_auc():
    findings = audit(prefixes((0, 1, 0.5, 2, 2), (1, 1, 0.1, 1, 1)), KEY)
    assert findings["auc"] is None
    assert findings["within_question_auc_interval"] is None
    assert findings["verdict"].startswith("unknown")
    assert findings["base_rate"] == 1.0


def test_nothing_to_audit_is_a_user_error():
    empty = ScoredPrefixes(*(np.zeros(0, int),) * 5)
    with pytest.raises(UserError, match="cannot be audited"):
        audit(empty, KEY)

"""pass@k, maj@k and the weighted vote."""

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from butwait.statistics.passk import majority_at_k, pass_at_k


def test_pass_at_k_matches_the_oracle(oracles):
    for row in oracles["pass_at_k"]:
        found = pass_at_k(row["attempts"], row["correct"], row["k"])
        assert found == pytest.approx(row["value"], abs=1e-9)


@pytest.mark.parametrize("k", [0, 9])
def test_pass_at_k_refuses_more_than_was_attempted(k):
    with pytest.raises(ValueError, match="needs at least"):
        pass_at_k(8, 4, k)


def test_pass_at_k_refuses_impossible_counts():
    with pytest.raises(ValueError, match="9 correct of 8"):
        pass_at_k(8, 9, 1)


def majority_by_enumeration(correct, others, blank, k):
    answers = ["gold"] * correct + [None] * blank
    answers += [f"wrong {i}" for i, size in enumerate(others) for _ in range(size)]
    credit = []
    for drawn in combinations(answers, k):
        votes = Counter(answer for answer in drawn if answer is not None)
        best = max(votes.values(), default=0)
        winners = [answer for answer, count in votes.items() if count == best]
        credit.append(1 / len(winners) if "gold" in winners else 0)
    return sum(credit) / len(credit)


def test_majority_by_hand():
    """Answers 7 7 7 3 3 5 (none) 3 with gold 7, four at a time: 67/140."""
    assert majority_at_k(3, [3, 1], 1, 4) == pytest.approx(67 / 140, abs=1e-12)


@settings(max_examples=150)
@given(st.integers(0, 4), st.lists(st.integers(1, 3), max_size=4), st.integers(0, 2), st.data())
def test_majority_equals_enumeration(correct, others, blank, data):
    attempts = correct + sum(others) + blank
    if attempts == 0:
        return
    k = data.draw(st.integers(1, min(attempts, 8)))
    expected = majority_by_enumeration(correct, others, blank, k)
    assert majority_at_k(correct, others, blank, k) == pytest.approx(expected, abs=1e-12)


def test_majority_of_one_is_the_share_of_correct_attempts():
    assert majority_at_k(3, [4, 2], 1, 1) == pytest.approx(0.3, abs=1e-12)


def test_majority_of_all_is_one_vote():
    assert majority_at_k(3, [2, 2], 5, 12) == 1.0
    assert majority_at_k(3, [3, 3], 0, 9) == pytest.approx(1 / 3)
    assert majority_at_k(3, [4], 0, 7) == 0.0


def test_majority_without_any_answer_earns_nothing():
    assert majority_at_k(0, [], 4, 2) == 0.0
    assert majority_at_k(1, [], 3, 2) == pytest.approx(0.5)


def test_majority_of_many_attempts_stays_finite():
    assert majority_at_k(600, [400], 0, 500) == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(ValueError, match="1,000"):
        majority_at_k(1001, [], 0, 2)


def test_majority_refuses_more_than_was_attempted():
    with pytest.raises(ValueError, match="needs at least 5 attempts"):
        majority_at_k(2, [1], 1, 5)

"""Ratios, exactly, and their bootstrap."""

import numpy as np
import pytest

from butwait.profile.figures import Measured, diversity, duplicate_share, measure, spread_of
from butwait.profile.patterns import shipped_patterns
from butwait.profile.ratios import ratios, shared_questions
from butwait.profile.sources import Source, SourceSolution
from butwait.records import Key

KEY = Key.of(0, "test")


def measured(name: str, lengths: list[float], questions: str) -> Measured:
    source = Source(name, [SourceSolution(question, "x") for question in questions])
    return Measured(source, {"length": np.array(lengths)}, {}, "words")


def test_a_question_in_both_is_drawn_for_both() -> None:
    a, b = measured("a", [2, 40, 600], "pqr"), measured("b", [1, 20, 300], "pqr")
    (row,) = ratios(a, b, KEY).values()
    assert row.ratio == 2
    assert row.interval == pytest.approx((2, 2))  # each question is exactly twice as long
    assert shared_questions(a, b) == 3


def test_unshared_questions_are_drawn_apart() -> None:
    (row,) = ratios(measured("a", [2, 4], "pq"), measured("b", [1, 1], "rs"), KEY).values()
    assert row.ratio == 3
    assert row.interval == (2, 4)  # a sample's mean is 2, 3 or 4, the outer two with 1/4 each


def test_all_solutions_of_a_question_are_drawn_together() -> None:
    a, b = measured("a", [1, 3, 5, 7], "ppqq"), measured("b", [1, 1], "rs")
    (row,) = ratios(a, b, KEY).values()
    assert (row.ratio, row.interval) == (4, (2, 6))


def test_the_key_alone_decides() -> None:
    a, b = measured("a", list(range(1, 21)), "abcdefghijklmnopqrst"), measured("b", [1, 2], "uv")
    assert ratios(a, b, KEY) == ratios(a, b, KEY)
    assert ratios(a, b, KEY) != ratios(a, b, Key.of(1, "test"))


def test_no_interval_where_the_data_tell_none() -> None:
    (one,) = ratios(measured("a", [6], "p"), measured("b", [3], "p"), KEY).values()
    assert (one.ratio, one.interval) == (2, None)
    (zero,) = ratios(measured("a", [1, 1], "pq"), measured("b", [0, 0], "pq"), KEY).values()
    assert (zero.ratio, zero.interval) == (None, None)
    (never,) = ratios(measured("a", [0, 0], "pq"), measured("b", [1, 1], "pq"), KEY).values()
    assert (never.ratio, never.interval) == (0, None)
    (missing,) = ratios(measured("a", [1, np.nan], "pq"), measured("b", [2, 4], "pq"), KEY).values()
    assert missing.ratio == pytest.approx(1 / 3)


def test_quartiles_leave_out_what_is_missing() -> None:
    summary = spread_of(np.array([1, 2, np.nan, 3, 4, 5]))
    assert (summary.n, summary.mean, summary.low, summary.median, summary.high) == (5, 3, 2, 3, 4)
    assert spread_of(np.array([np.nan])).mean is None


def test_diversity_is_taken_over_equally_many_ngrams() -> None:
    short = Source("short", [SourceSolution("p", "a b c d e")])  # two 4-grams
    long = Source("long", [SourceSolution("p", "z z z z z z z z")])  # five, all alike
    assert diversity([short, long], KEY) == [1.0, 0.5]


def test_duplicates_differ_by_white_space_only() -> None:
    texts = ["a b", "a\n b", "A b", "c"]
    assert duplicate_share(Source("s", [SourceSolution("p", text) for text in texts])) == 0.25


def test_one_unit_for_all_sources() -> None:
    told, untold = (Source("s", [SourceSolution("p", "Wait, a b", tokens=n)]) for n in (7, None))
    lengths = [m.columns["length"][0] for m in measure([told, untold], shipped_patterns())]
    assert lengths == [3, 3]
    (alone,) = measure([told], shipped_patterns())
    assert (alone.unit, alone.columns["length"][0]) == ("tokens", 7)

"""The built-in questions."""

import re

import pytest

from butwait.problems.kinds.arithmetic import (
    SPLITS,
    ArithmeticSettings,
    generate,
    make_problem,
    split_of,
)
from butwait.records import Problem, UserError


def make(size: int, split: str = "train", **params: int) -> list[Problem]:
    return generate(ArithmeticSettings(size=size, **params), split)


def test_a_problem_by_hand() -> None:
    problem = make_problem((7, 8, -6))
    assert problem.question == "Calculate 7 + 8 - 6."
    assert problem.answer == "9"
    assert problem.answer_kind == "integer"
    assert problem.solution == "7 + 8 = 15\n15 - 6 = 9\n\\boxed{9}"
    assert problem.metadata == {"terms": [7, 8, -6]}


def test_questions_are_digits_within_the_bounds_and_totals_never_negative() -> None:
    problems = make(300, min_terms=3, max_terms=5)
    lengths = set()
    for problem in problems:
        terms = problem.metadata["terms"]
        lengths.add(len(terms))
        assert all(1 <= abs(term) <= 9 for term in terms)
        totals = [sum(terms[: i + 1]) for i in range(len(terms))]
        assert min(totals) >= 0
        assert re.fullmatch(r"Calculate \d( [+-] \d){2,4}\.", problem.question)
        assert eval(problem.question[10:-1]) == int(problem.answer or "")
    assert lengths == {3, 4, 5}
    assert any(term < 0 for p in problems for term in p.metadata["terms"])


def test_no_question_is_in_two_splits_whatever_the_seeds() -> None:
    texts = {
        split: {p.question for p in make(200, split, seed=seed)}
        for seed, split in enumerate(SPLITS)
    }
    assert sum(map(len, texts.values())) == 1000
    assert len(set().union(*texts.values())) == 1000
    assert all(split_of(text) == split for split, there in texts.items() for text in there)


def test_the_same_seed_gives_the_same_questions_and_a_small_set_begins_a_large_one() -> None:
    large = make(50, seed=3)
    assert make(20, seed=3) == large[:20]
    assert make(50, seed=3) == large
    assert make(50, seed=4) != large
    assert len({p.id for p in large}) == 50


def test_the_first_questions_are_these() -> None:
    # Published numbers stand on these questions: a change here changes every result.
    assert [p.question for p in make(2, "test")] == [
        "Calculate 7 + 4 - 2 - 4 + 8 + 1.",
        "Calculate 3 + 9 - 5 + 2 + 8.",
    ]


def test_a_space_that_is_too_small_is_an_error() -> None:
    with pytest.raises(UserError, match="no 100 different questions of 2 to 2 terms"):
        make(100, min_terms=2, max_terms=2)


def test_wrong_split_and_wrong_bounds_are_errors() -> None:
    with pytest.raises(UserError, match="no split 'dev'; it has pretrain, train"):
        make(1, "dev")
    with pytest.raises(UserError, match="min_terms is 6, more than max_terms, 4"):
        make(1, min_terms=6, max_terms=4)


def test_no_minus_and_a_range_of_answers() -> None:
    """Seven digits without a minus whose total has three carries."""
    problems = make(100, min_terms=7, max_terms=7, minus=0.0, min_answer=30, max_answer=39)
    terms = [problem.metadata["terms"] for problem in problems]
    assert all(len(digits) == 7 and min(digits) > 0 for digits in terms)
    assert {sum(digits) for digits in terms} == set(range(30, 40))


def test_the_defaults_are_the_questions_of_before() -> None:
    assert make(50, minus=0.5, min_answer=0) == make(50)


def test_a_range_of_answers_that_no_digits_reach() -> None:
    with pytest.raises(UserError, match="a wider range of answers"):
        make(1, min_terms=2, max_terms=2, min_answer=19)

"""The built-in ladder."""

import pytest

from butwait.problems.kinds.sums import SPLITS, SumsSettings, every_line, generate, make_problem
from butwait.problems.settings import ProblemSetSettings
from butwait.problems.sources import load_problems
from butwait.records import Problem, UserError


def make(size: int, split: str = "train", **params: object) -> list[Problem]:
    return generate(SumsSettings(size=size, **params), split)


def test_a_problem_by_hand() -> None:
    problem = make_problem([4, 17, 2, 5], ["+", "*", "-"])
    assert problem is not None
    assert problem.question == "4 + 17 * 2 - 5"
    assert (problem.answer, problem.answer_kind) == ("33", "integer")
    assert problem.solution == "17 * 2 = 34\n4 + 34 = 38\n38 - 5 = 33\n\\boxed{33}"
    assert problem.metadata == {"terms": [4, 17, 2, 5], "operations": ["+", "*", "-"]}
    assert make_problem([1, 2, 9], ["-", "+"]) is None, "1 - 2 is negative on the way"


@pytest.mark.parametrize("operations", ["+", "+-", "+-*", "*"])
@pytest.mark.parametrize("digits", [1, 2, 3])
def test_answers_solutions_and_bounds(digits: int, operations: str) -> None:
    problems = make(60, digits=digits, operations=operations, min_terms=2, max_terms=4)
    assert len({problem.question for problem in problems}) == 60
    for problem in problems:
        terms, signs = problem.metadata["terms"], problem.metadata["operations"]
        assert all(len(str(term)) == digits and term > 0 for term in terms)
        assert 2 <= len(terms) == len(signs) + 1 <= 4
        assert set(signs) <= set(operations)
        assert eval(problem.question) == int(problem.answer or "")
        *lines, box = (problem.solution or "").splitlines()
        assert box == f"\\boxed{{{problem.answer}}}"
        assert len(lines) == len(signs)
        for line in lines:
            left, right = line.split(" = ")
            assert eval(left) == int(right) >= 0
    used = {sign for problem in problems for sign in problem.metadata["operations"]}
    assert used == set(operations)


def test_no_question_is_in_two_splits_and_seeds_give_others() -> None:
    texts = [{p.question for p in make(200, split, seed=s)} for s, split in enumerate(SPLITS)]
    assert sum(map(len, texts)) == len(set().union(*texts)) == 800
    assert make(20, seed=3) == make(50, seed=3)[:20]
    assert make(20, seed=3) != make(20, seed=4)


@pytest.mark.parametrize(
    ("params", "split", "told"),
    [
        ({"min_terms": 6}, "test", "min_terms is 6, more than max_terms, 5"),
        ({"operations": "+/"}, "test", "operations"),
        ({"digits": 0}, "test", "digits"),
        ({"min_terms": 2, "max_terms": 2}, "test", "no 40 different questions of 2 to 2 terms"),
        ({}, "exam", "sums has no split 'exam'; it has train, search, validation, test"),
    ],
)
def test_what_cannot_be_is_said(params: dict, split: str, told: str) -> None:
    asked = ProblemSetSettings(source="sums", split=split, params={"size": 40} | params)
    with pytest.raises(UserError, match=told):
        load_problems(asked)


def test_as_a_set_of_a_recipe() -> None:
    asked = ProblemSetSettings(source="sums", split="test", limit=7, params={"digits": 2})
    problems = load_problems(asked)
    assert len(problems) == 7
    assert all(problem.source == "sums" for problem in problems)


@pytest.mark.parametrize(
    ("response", "answer", "right"),
    [
        ("4 + 7 = 11\n11 + 2 = 13\n\\boxed{13}", "13", 1),
        ("4+7+2 = 13", " 13 ", 1),
        ("4 + 7 + 2 = 11 + 2 = 13", "13", 1),
        ("3 * 3 + 4 = 13\n2 - 3 * 2 = 2 - 6", "13", 1),
        ("\\boxed{13}", "13", 1),
        ("4 + 7 = 11.\n11 + 2 = 13;\nso 13.", "13", 1),
        ("4 + 7 = 12.\n12 + 2 = 13.", "13", 0),
        ("4 + 7 = 11, 11 + 2 = 13", "13", 0),
        ("4 + 7 = 12\n12 + 2 = 13\n\\boxed{13}", "13", 0),
        ("4 + 7 = 11 + 2 = 13", "13", 0),
        ("the sum = 13", "13", 0),
        ("4 + 7 = 11 = ", "13", 0),
        ("4 + 7 = 11", "11", 0),
        ("4 + 7 = 11", "no number", 0),
        ("4 + 7 = 11", None, 0),
    ],
)
def test_steps_that_are_right(response: str, answer: str | None, right: int) -> None:
    asked = {"gold": "13", "response": response}
    assert every_line("4 + 7 + 2", answer, asked) == right


@pytest.mark.parametrize(
    ("line", "answer", "right"),
    [
        ("1,200 + 34 = 1,234.", "1,234", 1),
        ("1200 + 34 = 1234", "1,234.", 1),
        ("1,200 + 34 = 1,235", "1,234", 0),
        ("1,20 + 1114 = 1234", "1234", 0),
        ("1200,034 = 1200034", "1234", 0),
        ("1200 + 34 = 1234", "12,34", 0),
    ],
)
def test_numbers_with_separators_are_those_without(line: str, answer: str, right: int) -> None:
    asked = {"gold": "1234", "response": line}
    assert every_line("1200 + 34", answer, asked) == right

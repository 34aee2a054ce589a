"""Answers that leave the calculation to the grader."""

from collections.abc import Iterator

import pytest

from butwait.problems.grading import Grader
from butwait.records import AnswerKind, Problem


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(workers=1) as grader:
        yield grader


SUM = "3 + 1 + 1 + 9"
UNFINISHED: list[tuple[str, AnswerKind, str, str]] = [
    # What GRPO taught SmolLM2 to answer.
    ("14", "integer", SUM, "Wait.\n\nThe answer remains always the same: 3 + 1 + 1 + 9"),
    ("14", "integer", SUM, r"\boxed{9+1+1+3}"),
    ("14", "integer", SUM, r"\boxed{4+1+9}"),
    ("14", "math", f"Calculate ${SUM}$.", r"\boxed{9 + 3 + 1 + 1}"),
    ("14", "integer", SUM, r"\boxed{13 + 1}"),
    ("27", "integer", "Find 9 + 9 + 9.", "x = 9 + 18"),
    ("1024", "integer", "What is 2^{10}?", r"\boxed{2^{10}}"),
    ("14", "integer", "What is 28/2?", r"\boxed{\frac{28}{2}}"),
    ("70", "math", r"Compute $\dbinom{8}{4}$.", r"\boxed{\binom{8}{4}}"),
    ("12", "math", r"Find $\sqrt{144}$.", r"$\boxed{\sqrt{144}}$"),
    ("5", "math", "What is |3+4i|?", r"\boxed{|3+4i|}"),
    ("3", "math", r"Find $\log_2 8$.", r"\boxed{\log_2 8}"),
    ("7", "math", "Tom has 3 pens and buys 4.", r"\boxed{3 + 4 \text{ pens}}"),
    ("12", "math", "There are 3 boxes of 4.", r"\boxed{3 \times 4}"),
]
FINISHED: list[tuple[str, AnswerKind, str, str]] = [
    ("14", "integer", SUM, r"\boxed{3 + 1 + 1 + 9 = 14}"),
    ("14", "integer", SUM, r"\boxed{14 = 3 + 1 + 1 + 9}"),
    ("33", "integer", "?", "The answer is 16 + 17 = 33."),
    ("33", "integer", "Find m + n.", r"\boxed{m+n=33}"),
    ("-5", "integer", "-5 + 0", r"\boxed{-5}"),
    ("100", "integer", "A rope of 100 cm.", r"\boxed{100 cm}"),
    # Calculations that the question does not have.
    ("1024", "integer", "?", r"\boxed{2^{10}}"),
    ("14", "integer", "?", r"\boxed{28/2}"),
    ("14", "math", "?", r"\boxed{9+5}"),
    ("7", "integer", "The sum is 7 with probability m/n. Find m + n.", r"\boxed{1 + 6}"),
    ("14", "integer", SUM, r"\boxed{4 + 10}"),
    ("12", "integer", "Find the root of 14, or so.", r"$\boxed{\sqrt{144}}$"),
    # Notations of numbers, and gold answers that are formulas.
    ("2.5", "math", "5 pizzas for 2 people.", r"\boxed{\frac{5}{2}}"),
    (r"\frac12", "math", "Simplify 2/4.", r"\boxed{2/4}"),
    ("1000000", "integer", "A heap of 10^6 grains: how many?", r"\boxed{10^6}"),
    ("1500", "integer", "There are 1.5 and 10^3.", r"\boxed{1.5 \times 10^3}"),
    ("2+3", "math", "Which is more, 2+3 or 1+1?", r"\boxed{2+3}"),
    ("5-10", "math", "Which pages of 5-10?", r"\boxed{5-10}"),
]


@pytest.mark.parametrize(("gold", "kind", "question", "text"), UNFINISHED)
def test_a_calculation_is_no_answer_where_its_value_is_asked_for(
    grader: Grader, gold: str, kind: AnswerKind, question: str, text: str
) -> None:
    assert grader.grade(text, Problem("p", question, gold, kind)).status == "wrong"


@pytest.mark.parametrize(("gold", "kind", "question", "text"), FINISHED)
def test_what_is_calculated_or_a_notation_is_an_answer(
    grader: Grader, gold: str, kind: AnswerKind, question: str, text: str
) -> None:
    assert grader.grade(text, Problem("p", question, gold, kind)).correct

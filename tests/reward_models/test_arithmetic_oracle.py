"""The perfect reward model of arithmetic questions."""

import asyncio

import numpy as np
import pytest

from butwait.problems.kinds.arithmetic import make_problem, solution
from butwait.reward_models.arithmetic import CERTAIN, oracle
from butwait.reward_models.reward_model import Path, Step

TERMS = (7, 8, -6, 9)
PROBLEM = make_problem(TERMS)
RIGHT = ["7 + 8 = 15\n", "15 - 6 = 9\n", "9 + 9 = 18\n", "\\boxed{18}"]


def logit(steps: list[str]) -> float:
    path = Path(tuple(Step(np.zeros(1, np.int32), text) for text in steps))
    [score] = asyncio.run(oracle().score(PROBLEM, [path]))
    return score.logit


@pytest.mark.parametrize("length", range(1, 5))
def test_right_steps(length: int) -> None:
    assert "".join(RIGHT) == solution(TERMS, [7, 15, 9, 18])
    assert logit(RIGHT[:length]) == CERTAIN


@pytest.mark.parametrize(
    "steps",
    [
        ["7 + 8 = 5\n"],  # a forgotten carry
        ["7 + 8 = 15\n", "15 - 6 = 19\n"],
        ["7 + 8 = 15\n", "15 + 9 = 24\n"],  # another term
        ["7 + 8 = 15\n", "5 - 6 = 9\n"],  # another total
        ["7 + 8 = 15\n", "\\boxed{15}"],  # too early
        [*RIGHT[:3], "\\boxed{8}"],
        [*RIGHT[:3], "18 + 1 = 19\n"],  # too many steps
        ["well"],
    ],
)
def test_mistakes(steps: list[str]) -> None:
    assert logit(steps) == -CERTAIN


def test_a_lucky_answer_is_no_right_path() -> None:
    """Forgetting a carry and a borrow gives the right answer by wrong steps."""
    assert logit(["7 + 8 = 5\n", "5 - 6 = 9\n", *RIGHT[2:]]) == -CERTAIN

"""The perfect reward model of the built-in arithmetic questions, for experiments.

With it a search that does not help cannot be blamed on its reward model.
"""

import re
from collections.abc import Sequence

from butwait.records import Problem
from butwait.reward_models.reward_model import Step
from butwait.reward_models.scripted import ScriptedRewardModel

CERTAIN = 6.0
"""The logit of a path without a mistake, and minus that of a path with one: odds of 400 to 1."""

_STEP = re.compile(r"(\d+) ([+-]) (\d+) = (\d+)")
_BOX = re.compile(r"\\boxed\{(-?\d+)\}")


def oracle() -> ScriptedRewardModel:
    """A reward model that knows whether every step so far is right. Questions must be of the source
    ``arithmetic``."""
    return ScriptedRewardModel(_logit)


def _logit(problem: Problem, steps: Sequence[Step]) -> float:
    text = "".join(step.text for step in steps)
    return CERTAIN if _is_right_so_far(problem.metadata["terms"], text) else -CERTAIN


def _is_right_so_far(terms: Sequence[int], text: str) -> bool:
    """Whether the solution takes the terms in their order and every result is right."""
    total, lines = terms[0], text.split("\n")
    for number, line in enumerate(lines):
        if box := _BOX.fullmatch(line):
            return number == len(terms) - 1 and int(box[1]) == sum(terms)
        if not line and number == len(lines) - 1:
            return True  # the last step ended in a new line
        step = _STEP.fullmatch(line)
        if step is None or number + 1 >= len(terms):
            return False
        term = terms[number + 1]
        wanted = (total, "-" if term < 0 else "+", abs(term), total + term)
        if (int(step[1]), step[2], int(step[3]), int(step[4])) != wanted:
            return False
        total += term
    return True

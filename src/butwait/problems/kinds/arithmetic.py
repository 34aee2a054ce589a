"""The built-in questions: sums and differences of single digits, made on demand.

    Calculate 7 + 8 - 6.        7 + 8 = 15
                                15 - 6 = 9
                                \\boxed{9}

Question i of a seed is a pure function of (seed, i), and a hash of its text decides the split it
belongs to, so that no question is in two splits, whatever their seeds and sizes.
"""

import math
from collections.abc import Iterator
from enum import StrEnum
from itertools import accumulate, pairwise
from typing import Annotated

from pydantic import Field, ValidationError

from butwait.problems.overlap import part_of, text_id
from butwait.problems.source import Asked, Source
from butwait.records import Key, Problem, UserError
from butwait.records.settings import Settings
from butwait.running import mistakes

SPLITS = tuple(StrEnum("Split", "pretrain train search validation test"))
"""Each holds about a fifth of all questions; ``pretrain`` taught the tiny model."""

_DRAWS_PER_QUESTION = 100
"""Candidates looked at for each question asked for, before the space counts as exhausted (about
a fifth of them fall into a split)."""


class ArithmeticSettings(Settings):
    """Parameters of the built-in ``arithmetic`` questions."""

    size: Annotated[int, Field(gt=0)] = 500
    """Number of questions."""
    seed: Annotated[int, Field(ge=0)] = 0
    """A smaller set is the beginning of a larger one with the same seed."""
    min_terms: Annotated[int, Field(ge=2)] = 4
    """Fewest digits that are added or subtracted."""
    max_terms: Annotated[int, Field(ge=2)] = 6
    """Most digits that are added or subtracted."""
    minus: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability that a digit is subtracted where the total allows it. With few, totals grow and
    with them the carries that the tiny model forgets: questions become hard for it."""
    min_answer: Annotated[int, Field(ge=0)] = 0
    """The smallest final total."""
    max_answer: Annotated[int, Field(ge=0)] | None = None
    """The largest final total; None: any. The tiny model cannot count beyond 40."""


def generate(settings: ArithmeticSettings, split: str) -> list[Problem]:
    """``settings.size`` different questions of a split.

    ``metadata["terms"]`` holds the signed digits. Raises UserError for an unknown split, and
    where there are not so many different questions.
    """
    if split not in SPLITS:
        raise UserError(f"arithmetic has no split {split!r}; it has {', '.join(SPLITS)}")
    if settings.min_terms > settings.max_terms:
        raise UserError(
            f"arithmetic: min_terms is {settings.min_terms}, more than max_terms, "
            f"{settings.max_terms}"
        )
    most = math.inf if settings.max_answer is None else settings.max_answer
    problems: dict[str, Problem] = {}
    for terms in _candidates(settings):
        if not settings.min_answer <= sum(terms) <= most:
            continue
        problem = make_problem(terms)
        if split_of(problem.question) == split:
            problems.setdefault(problem.id, problem)
        if len(problems) == settings.size:
            return list(problems.values())
    raise UserError(
        f"arithmetic: no {settings.size} different questions of {settings.min_terms} to "
        f"{settings.max_terms} terms were found for the split {split!r}; ask for fewer, for more "
        "terms, or for a wider range of answers"
    )


def make_problem(terms: tuple[int, ...]) -> Problem:
    """The problem of adding signed digits: (7, 8, -6) is "Calculate 7 + 8 - 6."."""
    signed = " ".join(f"{'-' if term < 0 else '+'} {abs(term)}" for term in terms[1:])
    question = f"Calculate {terms[0]} {signed}."
    return Problem(
        id=f"arithmetic-{text_id(question)}",
        question=question,
        answer=str(sum(terms)),
        answer_kind="integer",
        solution=solution(terms, list(accumulate(terms))),
        source="arithmetic",
        metadata={"terms": list(terms)},
    )


def solution(terms: tuple[int, ...], totals: list[int]) -> str:
    """The worked solution with these running totals, one for each term, right or not."""
    steps = [
        f"{before} {'-' if term < 0 else '+'} {abs(term)} = {after}\n"
        for term, (before, after) in zip(terms[1:], pairwise(totals), strict=True)
    ]
    return "".join(steps) + f"\\boxed{{{totals[-1]}}}"


def split_of(question: str) -> str:
    """The split that a question belongs to."""
    return SPLITS[part_of(question, len(SPLITS), "split")]


def _candidates(settings: ArithmeticSettings) -> Iterator[tuple[int, ...]]:
    """Terms of questions 0, 1, ...: digits 1 to 9, a minus only where the total stays >= 0."""
    key = Key.of(settings.seed, "arithmetic", settings.min_terms, settings.max_terms)
    for index in range(_DRAWS_PER_QUESTION * settings.size):
        random = key.at(step=index).generator()
        count = random.integers(settings.min_terms, settings.max_terms + 1)
        digits = random.integers(1, 10, size=count)
        minus = random.random(size=count) < settings.minus
        terms, total = [], 0
        for digit, negative in zip(digits.tolist(), minus.tolist(), strict=True):
            terms.append(-digit if negative and digit <= total else digit)
            total += terms[-1]
        yield tuple(terms)


def _load(asked: Asked) -> list[Problem]:
    try:
        settings = ArithmeticSettings(**asked.params)
    except ValidationError as error:
        told = mistakes.told(ArithmeticSettings, asked.params, error)
        raise UserError(f"arithmetic: params: {told}") from error
    return generate(settings, asked.split or "train")


ARITHMETIC = Source(
    matches=lambda source: source == "arithmetic",
    load=_load,
    takes=frozenset({"split", "params"}),
    generated=True,
)

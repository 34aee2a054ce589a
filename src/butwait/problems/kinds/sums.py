"""The built-in ladder: sums from easy to hard for a model that was never taught them.

    4 + 17 * 2 - 5        17 * 2 = 34
                          4 + 34 = 38
                          38 - 5 = 33
                          \\boxed{33}

Rungs differ in terms, digits and operations. As with ``arithmetic``, question i of a seed is a pure
function of it, and a hash of the text decides the split.
"""

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from butwait.problems.overlap import part_of, text_id
from butwait.problems.source import Asked, Source
from butwait.records import Key, Problem, UserError
from butwait.records.settings import Settings
from butwait.running import mistakes

NAME = "sums"
SPLITS = tuple(StrEnum("Split", "train search validation test"))
"""Each holds about a quarter of all questions."""
OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}

_DRAWS_PER_QUESTION = 200
"""Candidates looked at for each question asked for, before the space counts as exhausted."""


class SumsSettings(Settings):
    """Parameters of the built-in ``sums`` questions."""

    size: Annotated[int, Field(gt=0)] = 500
    """Number of questions."""
    seed: Annotated[int, Field(ge=0)] = 0
    """A smaller set is the beginning of a larger one with the same seed."""
    min_terms: Annotated[int, Field(ge=2, le=100)] = 4
    """Fewest numbers in a question."""
    max_terms: Annotated[int, Field(ge=2, le=100)] = 5
    """Most numbers in a question."""
    digits: Annotated[int, Field(ge=1, le=9)] = 1
    """Of every number: 1 is 1 to 9, 2 is 10 to 99."""
    operations: Annotated[str, Field(pattern=r"^[-+*]+$")] = "+"
    """Which stand between the numbers, all as often: some of ``+-*``. No result on the way is
    negative, and products go before sums."""

    @model_validator(mode="after")
    def _fewest_and_most(self) -> Self:
        if self.min_terms > self.max_terms:
            raise ValueError(
                f"min_terms is {self.min_terms}, more than max_terms, {self.max_terms}"
            )
        return self


def generate(settings: SumsSettings, split: str) -> list[Problem]:
    """``settings.size`` different questions of a split.

    ``metadata["terms"]`` and ``["operations"]`` hold what a question is made of. Raises UserError
    for an unknown split, and where there are not so many different questions.
    """
    if split not in SPLITS:
        raise UserError(f"{NAME} has no split {split!r}; it has {', '.join(SPLITS)}")
    problems: dict[str, Problem] = {}
    for terms, operations in _candidates(settings):
        question = written(terms, operations)
        if SPLITS[part_of(question, len(SPLITS), NAME)] != split:
            continue
        if problem := make_problem(terms, operations):
            problems.setdefault(problem.id, problem)
        if len(problems) == settings.size:
            return list(problems.values())
    raise UserError(
        f"{NAME}: no {settings.size} different questions of {settings.min_terms} to "
        f"{settings.max_terms} terms were found for the split {split!r}; ask for fewer, for more "
        "digits, or for other terms or operations"
    )


def written(terms: Sequence[int], operations: Sequence[str]) -> str:
    """The question: (4, 7, 2) and (+, -) are "4 + 7 - 2"."""
    rest = zip(operations, terms[1:], strict=True)
    return str(terms[0]) + "".join(f" {sign} {term}" for sign, term in rest)


def make_problem(terms: Sequence[int], operations: Sequence[str]) -> Problem | None:
    """The problem with its worked solution; None where a result on the way is negative."""
    question, lines = written(terms, operations), []
    for line, result in _worked(terms, operations):
        if result < 0:
            return None
        lines.append(line)
    return Problem(
        id=f"{NAME}-{text_id(question)}",
        question=question,
        answer=str(result),
        answer_kind="integer",
        solution="".join(f"{line}\n" for line in lines) + f"\\boxed{{{result}}}",
        source=NAME,
        metadata={"terms": list(terms), "operations": list(operations)},
    )


def _worked(terms: Sequence[int], operations: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Lines of the solution with their results: products first, then from left to right."""
    numbers, signs = list(terms), list(operations)
    while signs:
        at = signs.index("*") if "*" in signs else 0
        sign, left, right = signs.pop(at), numbers[at], numbers.pop(at + 1)
        numbers[at] = OPERATIONS[sign](left, right)
        yield f"{left} {sign} {right} = {numbers[at]}", numbers[at]


def every_line(question: str, answer: str | None, metadata: dict[str, Any]) -> float:
    """A verifier (docs/how_to/verifier.md) that asks for right steps as well: 1 if the answer is
    the gold one and what stands on both sides of every ``=`` of the response is the same number,
    else 0. Numbers may be written 1,234, and a line may end in a mark. Terms that were left out or
    taken twice are not noticed."""
    if answer is None or _value(answer) != int(metadata["gold"]):
        return 0.0
    equations = [line.split("=") for line in metadata["response"].splitlines() if "=" in line]
    values = [{_value(side) for side in sides} for sides in equations]
    return float(all(len(each) == 1 and None not in each for each in values))


def _value(side: str) -> int | None:
    """Of numbers and signs, products first; None for anything else."""
    if not _SIDE.fullmatch(side):
        return None
    numbers = [int(n.replace(",", "")) for n in re.findall(_NUMBER, side)]
    signs = re.findall(r"[-+*]", side)
    return [numbers[0], *(result for _, result in _worked(numbers, signs))][-1]


_NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_SIDE = re.compile(rf"\s*{_NUMBER}(\s*[-+*]\s*{_NUMBER})*\s*[.,;]?\s*", re.ASCII)


def _candidates(settings: SumsSettings) -> Iterator[tuple[list[int], list[str]]]:
    """Terms and operations of questions 0, 1, ..."""
    allowed = [sign for sign in OPERATIONS if sign in settings.operations]
    key = Key.of(
        settings.seed, NAME, settings.min_terms, settings.max_terms, settings.digits, *allowed
    )
    first, after = 10 ** (settings.digits - 1), 10**settings.digits
    for index in range(_DRAWS_PER_QUESTION * settings.size):
        random = key.at(step=index).generator()
        count = int(random.integers(settings.min_terms, settings.max_terms + 1))
        terms = random.integers(first, after, size=count).tolist()
        signs = random.integers(len(allowed), size=count - 1).tolist()
        yield terms, [allowed[sign] for sign in signs]


def _load(asked: Asked) -> list[Problem]:
    try:
        settings = SumsSettings(**asked.params)
    except ValidationError as error:
        told = mistakes.told(SumsSettings, asked.params, error)
        raise UserError(f"{NAME}: params: {told}") from error
    return generate(settings, asked.split or SPLITS[0])


SUMS = Source(
    matches=lambda source: source == NAME,
    load=_load,
    takes=frozenset({"split", "params"}),
    generated=True,
)

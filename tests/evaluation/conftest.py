"""Attempts made by hand."""

from collections.abc import Callable, Sequence

import pytest

from butwait.records import Attempt


def _attempt(problem: str, sample: int, status: str, answer_class: int | None) -> Attempt:
    answer = None if answer_class is None else str(answer_class)
    return Attempt(
        problem_id=problem,
        sample=sample,
        text="",
        finish="eos",
        answer=answer,
        status=status,
        tokens=10 * (sample + 1),
        reward_tokens=3,
        length=sample + 1,
        answer_class=answer_class,
    )


@pytest.fixture
def from_counts() -> Callable[[Sequence[int], int], list[Attempt]]:
    """(correct attempts of each problem, k) -> attempts; all wrong answers are equal."""

    def make(counts: Sequence[int], k: int) -> list[Attempt]:
        return [
            _attempt(f"p{i}", s, "correct" if s < c else "wrong", 0 if s < c else 1)
            for i, c in enumerate(counts)
            for s in range(k)
        ]

    return make


@pytest.fixture
def from_marks() -> Callable[..., list[Attempt]]:
    """One string a problem, one character an attempt: 0 correct, 1 to 9 the class of a wrong
    answer, "-" no answer, "t" truncated, "u" ungradable."""
    statuses = {"0": "correct", "-": "no_answer", "t": "truncated", "u": "ungradable"}

    def make(*problems: str) -> list[Attempt]:
        return [
            _attempt(f"p{i}", s, statuses.get(mark, "wrong"), int(mark) if mark.isdigit() else None)
            for i, marks in enumerate(problems)
            for s, mark in enumerate(marks)
        ]

    return make

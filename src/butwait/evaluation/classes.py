"""Equal answers of one problem have one number: what a vote counts."""

from collections.abc import Sequence
from dataclasses import replace

from butwait.problems.grading import Grader
from butwait.records import Attempt, Problem
from butwait.search.selection import answer_classes


async def with_classes(
    attempts: Sequence[Attempt], problem: Problem, grader: Grader
) -> list[Attempt]:
    """The attempts with their answer classes: the correct ones are class 0, the wrong ones are
    grouped by the grader's equality in order of first appearance."""
    groups = await answer_classes(
        [row.answer if row.status == "wrong" else None for row in attempts],
        lambda a, b: grader.aequal(a, b, problem.answer_kind),
    )
    number = {row: label for label, group in enumerate(groups, 1) for row in group.leaves}
    return [
        replace(row, answer_class=0 if row.status == "correct" else number.get(index))
        for index, row in enumerate(attempts)
    ]

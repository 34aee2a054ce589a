"""What the completions of a generation look like: lengths, habits, accuracy by difficulty, and
signs that a reward is being gamed."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from butwait.problems.answers import answer_part, count_boxes
from butwait.training.grpo.completions import Completion, repeats

Habits = Mapping[str, re.Pattern[str]]
"""Habit of reasoning -> an expression for the phrases that stand for it."""

BANDS = {"never": (0.0, 0.0), "rarely": (0.0, 0.25), "often": (0.25, 0.75), "mostly": (0.75, 1.0)}
"""Difficulty by a question's solve rate before this generation: above the first bound (``never``:
at it) and up to the second."""

FEW_WORDS = 3
"""An answer with fewer words around it was given without reasoning."""
FOREIGN_LETTERS = 3
"""So many letters of a script that neither the question nor mathematics uses are another
language."""
_COMMON_SCRIPTS = frozenset({"LATIN", "GREEK", "MATHEMATICAL", "DOUBLE-STRUCK", "SCRIPT"})


def figures(
    groups: Sequence[Sequence[Completion]],
    rates: Mapping[str, float | None],
    habits: Habits,
) -> dict[str, float]:
    """Shares and means over all completions, by name.

    Args:
        groups: the completions of each question.
        rates: solve rate of each question before, None where it is unknown.
        habits: phrases to look for.
    """
    rows = [completion for group in groups for completion in group]
    found = {
        "length": _mean(row.length for row in rows),
        "truncated": _mean(row.finish == "length" for row in rows),
        "no_answer": _mean(row.grade.status == "no_answer" for row in rows),
        "ungradable": _mean(row.grade.status == "ungradable" for row in rows),
        "duplicates": _mean(share for group in groups for share in repeats(group)),
        "all_wrong_groups": _mean(not any(r.grade.correct for r in group) for group in groups),
        "all_right_groups": _mean(all(r.grade.correct for r in group) for group in groups),
        "hacks/several_boxes": _mean(count_boxes(answer_part(row.text)) > 1 for row in rows),
        "hacks/no_reasoning": _mean(without_reasoning(row) for row in rows),
        "hacks/other_language": _mean(other_language(row) for row in rows),
    }
    for habit, pattern in habits.items():
        found[f"habits/{habit}"] = _mean(pattern.search(row.text) is not None for row in rows)
    return found | _by_difficulty(groups, rates)


def _by_difficulty(
    groups: Sequence[Sequence[Completion]], rates: Mapping[str, float | None]
) -> dict[str, float]:
    """``accuracy/<band>`` of the bands that have a question."""
    found: dict[str, float] = {}
    for band, (low, high) in BANDS.items():
        accuracies = []
        for group in groups:
            rate = rates.get(group[0].problem.id)
            inside = rate is not None and (rate == low if low == high else low < rate <= high)
            if inside:
                accuracies.append(_mean(row.grade.correct for row in group))
        if accuracies:
            found[f"accuracy/{band}"] = float(np.mean(accuracies))
    return found


def without_reasoning(row: Completion) -> bool:
    """Whether an answer stands almost alone."""
    answer = row.grade.answer
    if answer is None:
        return False
    around = row.text.replace(answer, " ").replace("\\boxed{", " ").replace("}", " ")
    return len(around.split()) < FEW_WORDS


def other_language(row: Completion) -> bool:
    """Whether the text has letters of a script that its question and mathematics do not use."""
    usual = _scripts(row.problem.question) | _COMMON_SCRIPTS
    foreign = [c for c in row.text if not c.isascii() and c.isalpha() and _script(c) not in usual]
    return len(foreign) >= FOREIGN_LETTERS


def _scripts(text: str) -> set[str]:
    return {_script(c) for c in text if not c.isascii() and c.isalpha()}


def _script(letter: str) -> str:
    """``CJK``, ``CYRILLIC``, ...: the first word of the letter's name."""
    return unicodedata.name(letter, "UNKNOWN").split()[0]


def _mean(values: Iterable[float]) -> float:
    """Of numbers or truth values; 0 of none."""
    rows = [float(value) for value in values]
    return float(np.mean(rows)) if rows else 0.0

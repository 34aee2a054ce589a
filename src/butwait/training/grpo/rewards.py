"""What a completion is worth, and what the completions of a generation look like: lengths, habits,
accuracy by difficulty, and signs that a reward is being gamed."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from butwait.problems.answers import answer_part, count_boxes
from butwait.problems.grading import Grader
from butwait.training.grpo.completions import Completion, repeats
from butwait.training.grpo.reward_settings import RewardSettings

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


def reward(completion: Completion, settings: RewardSettings, max_tokens: int) -> float | None:
    """1 for a correct answer, else 0, or what a verifier gave; and what ``settings`` add, functions
    of one's own aside (``rewards_of``).

    None where the completion must move nothing: its answer cannot be graded, or it repeats another
    one of a group that may not.
    """
    if completion.grade.status == "ungradable" or completion.repeated:
        return None
    parts = _parts(completion, settings, max_tokens)
    return parts["answer"] + settings.format * parts.get("format", 0.0) + parts.get("overlong", 0.0)


def rewards_of(
    rows: Sequence[Completion], settings: RewardSettings, max_tokens: int, grader: Grader
) -> tuple[list[float | None], dict[str, float]]:
    """What each completion is worth, those of functions of one's own included; None where it must
    move nothing, as where one of these has no number for it.

    Also, where there are such functions, the mean of every part by its name (``rewards/NAME``),
    before weights, over the completions that have it; and ``rewards/NAME/failed``, the share that a
    function had no number for, where there are any.
    """
    worth = [reward(row, settings, max_tokens) for row in rows]
    asked = [i for i, value in enumerate(worth) if value is not None]
    if not settings.functions or not asked:
        return worth, {}
    parts = [_parts(rows[i], settings, max_tokens) for i in asked]
    means = {f"rewards/{name}": _mean(part[name] for part in parts) for name in parts[0]}
    cases = [_case(rows[i], part["answer"]) for i, part in zip(asked, parts, strict=True)]
    for own in settings.functions:
        given = grader.rewards(own.function, cases)
        numbers = [number for number in given if number is not None]
        if numbers:
            means[f"rewards/{own.name}"] = _mean(numbers)
        if len(numbers) < len(given):
            means[f"rewards/{own.name}/failed"] = 1 - len(numbers) / len(given)
        for i, number in zip(asked, given, strict=True):
            before = worth[i]
            worth[i] = None if before is None or number is None else before + own.weight * number
    return worth, means


def _parts(completion: Completion, settings: RewardSettings, max_tokens: int) -> dict[str, float]:
    """The parts of the reward that are butwait's own, before weights, where they are asked for."""
    score = completion.grade.score
    parts = {"answer": float(completion.grade.correct) if score is None else score}
    if completion.finish == "length":  # boxed or not: never to stop must not pay
        parts["answer"] = 0.0
    if settings.format:
        parts["format"] = float(has_format(completion.text))
    if settings.overlong_tokens is not None:
        parts["overlong"] = overlong(completion.length, max_tokens, settings.overlong_tokens)
    return parts


def _case(row: Completion, score: float) -> dict[str, Any]:
    """What a function of one's own is called with."""
    metadata = {
        **row.problem.metadata,
        "gold": row.problem.answer,
        "response": row.text,
        "length": row.length,
        "finish": row.finish,
        "status": row.grade.status,
        "score": score,
    }
    return {"question": row.problem.question, "answer": row.grade.answer, "metadata": metadata}


def has_format(text: str) -> bool:
    """Whether there is exactly one box, after any thinking, and the thinking is closed."""
    if text.rfind("<think>") > text.rfind("</think>"):
        return False
    return count_boxes(text) == count_boxes(answer_part(text)) == 1


def overlong(length: int, max_tokens: int, zone: int) -> float:
    """DAPO's soft overlong punishment (arXiv:2503.14476, eq. 13), in [-1, 0].

    Args:
        length: tokens of the completion.
        max_tokens: the longest length.
        zone: tokens before it over which the punishment grows from 0 to 1.
    """
    return -min(max(length - (max_tokens - zone), 0) / zone, 1.0)


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

"""Sparks of reasoning: how what the policy writes changes while it is trained."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from butwait.profile.patterns import shipped_patterns
from butwait.report.formats import clip
from butwait.report.reinforcement.runs import Training

HABIT = "reflection"
"""Phrases of this habit are marked."""

MOST_QUESTIONS = 3


@dataclass(frozen=True, slots=True)
class Text:
    """One completion.

    Attributes:
        when: the place of the step in the training, in words.
        step: optimiser steps before it.
        question: of it alone; "" where the whole strip has one.
        status: its grade.
        pieces: the text, and whether each piece is a marked phrase.
    """

    when: str
    step: int
    question: str
    status: str
    pieces: list[tuple[str, bool]]


@dataclass(frozen=True, slots=True)
class Strip:
    """Completions side by side, in the order of their steps; ``question`` is that of all of them,
    "" where each has its own."""

    problem_id: str
    question: str
    texts: list[Text]


def strips(training: Training) -> list[Strip]:
    """The first questions of the looks, each at the first, the middle, the kept and the last look;
    without looks, one completion of the first, the middle and the last steps that were kept.

    Questions stand in their stored order, which is not chosen by what came of them.
    """
    looks = training.looks
    if not any(look.texts for look in looks):
        return _completions(training)
    kept = training.kept
    assert kept is not None
    chosen = _named([look.step for look in looks], kept.step)
    by_step = {look.step: look for look in looks if look.step in chosen}
    first = next(look for look in looks if look.texts)
    found = []
    for row in first.texts[:MOST_QUESTIONS]:
        texts = [
            _text(chosen[step], step, own, "")
            for step, look in by_step.items()
            for own in look.texts
            if own.get("problem_id") == row.get("problem_id")
        ]
        question = clip(str(row.get("question") or ""))
        found.append(Strip(str(row.get("problem_id") or ""), question, texts))
    return found


def _completions(training: Training) -> list[Strip]:
    firsts: dict[int, Mapping[str, Any]] = {}
    for row in training.samples:
        if isinstance(row.get("step"), int):
            firsts.setdefault(row["step"], row)
    if not firsts:
        return []
    chosen = _named(sorted(firsts), None)
    texts = [
        _text(when, step, row := firsts[step], clip(str(row.get("question") or ""), 400))
        for step, when in chosen.items()
    ]
    return [Strip("", "", texts)]


def _named(steps: Sequence[int], kept: int | None) -> dict[int, str]:
    """step -> its place in words; the first, the middle, the kept and the last, each once."""
    middle = steps[len(steps) // 2]
    names: dict[int, list[str]] = {steps[0]: ["before training" if steps[0] == 0 else "first"]}
    names.setdefault(middle, []).append("middle")
    if kept is not None:
        names.setdefault(kept, []).append("best, kept")
    names.setdefault(steps[-1], []).append("last")
    return {
        step: ", ".join(several if len(several) == 1 else [n for n in several if n != "middle"])
        for step, several in sorted(names.items())
    }


def _text(when: str, step: int, row: Mapping[str, Any], question: str) -> Text:
    shown = clip(str(row.get("text") or "").strip())
    pieces = _marked(shown, shipped_patterns()[HABIT])
    return Text(when, step, question, str(row.get("status") or ""), pieces)


def _marked(text: str, pattern: re.Pattern[str]) -> list[tuple[str, bool]]:
    """The text in pieces, those that match the pattern told apart."""
    pieces, at = [], 0
    for match in pattern.finditer(text):
        pieces += [(text[at : match.start()], False), (match.group(), True)]
        at = match.end()
    return [piece for piece in [*pieces, (text[at:], False)] if piece[0]]

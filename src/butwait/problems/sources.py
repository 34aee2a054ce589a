"""Problem sets from their sources: rows, or finished problems, of any kind of source. Gold answers,
ids, order and limits are the same for all.
"""

import logging
import math
import re
from dataclasses import replace
from typing import Any

from butwait.problems.overlap import text_id
from butwait.problems.presets import with_preset
from butwait.problems.settings import Columns, ProblemSetSettings
from butwait.problems.source import kind_of
from butwait.records import Key, Problem, UserError
from butwait.running.json_lines import Row

logger = logging.getLogger(__name__)

_INTEGER = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)")


def load_problems(settings: ProblemSetSettings) -> list[Problem]:
    """The problems of a set, in a repeatable order, with unique ids.

    Where the source has no id column, a question that occurs again is left out and logged.
    Raises UserError for a source that is missing, empty or unreadable, a missing column, a
    problem without question or gold answer (see ``drop_unanswered``), and a repeated id.
    """
    full = with_preset(settings)
    kind, params = kind_of(full.source), full.params
    if kind.generated and full.limit is not None:
        params = {"size": full.offset + full.limit, **params}
    loaded = kind.load(full.model_copy(update={"params": params}))
    problems = [problem for problem in loaded if isinstance(problem, Problem)]
    if not problems:
        rows = [row for row in loaded if isinstance(row, dict)]
        problems = _from_rows(rows, full, settings.source)
    problems = _selected(problems, full)
    if not problems:
        raise UserError(
            f"{settings.source} gives no problems: it has none, none has a gold answer, or there "
            f"are no more than the offset, {full.offset}"
        )
    return problems


def _from_rows(rows: list[Row], settings: ProblemSetSettings, source: str) -> list[Problem]:
    columns = _checked_columns(rows, settings.columns, source)
    problems = [_problem(row, i, columns, settings, source) for i, row in enumerate(rows, start=1)]
    return _typed(_unique(problems, columns, source), settings)


def _checked_columns(rows: list[Row], columns: Columns, source: str) -> Columns:
    """The columns with their defaults. Raises UserError for one that no row has."""
    defaults = {"question": "question", "answer": "answer", "metadata": ()}
    filled = columns.model_copy(
        update={name: value for name, value in defaults.items() if getattr(columns, name) is None}
    )
    there = dict.fromkeys(column for row in rows for column in row)
    if filled.id is None and "id" in there:
        filled = filled.model_copy(update={"id": "id"})
    named = (filled.question, filled.answer, filled.id, filled.solution, *(filled.metadata or ()))
    for column in named:
        if column is not None and column not in there:
            raise UserError(
                f"{source} has no column {column!r}; it has {', '.join(there)} (set columns)"
            )
    return filled


def _problem(
    row: Row, number: int, columns: Columns, settings: ProblemSetSettings, source: str
) -> Problem:
    question = _text(row.get(columns.question or ""))
    if question is None:
        raise UserError(f"{source}: row {number} has no question in column {columns.question!r}")
    given_id = _text(row.get(columns.id)) if columns.id else text_id(question)
    if given_id is None:
        raise UserError(f"{source}: row {number} has no id in column {columns.id!r}")
    return Problem(
        id=given_id,
        question=question,
        answer=_gold(row.get(columns.answer or ""), settings.answer_after),
        solution=_text(row.get(columns.solution)) if columns.solution else None,
        source=source,
        metadata={name: row.get(name) for name in columns.metadata or ()},
    )


def _gold(value: Any, after: str | None) -> str | None:
    """The gold answer as text; None where there is none, or nothing stands after the mark."""
    text = _text(value)
    if text is None or after is None:
        return text
    _, mark, tail = text.rpartition(after)
    return tail.strip() or None if mark else None


def _text(value: Any) -> str | None:
    """The value as stripped text; None for nothing, NaN and blanks. 27.0 is "27"."""
    if isinstance(value, float):
        if math.isnan(value):
            return None
        value = int(value) if value.is_integer() else value
    return str(value).strip() or None if value is not None else None


def _unique(problems: list[Problem], columns: Columns, source: str) -> list[Problem]:
    first: dict[str, Problem] = {}
    for problem in problems:
        if first.setdefault(problem.id, problem) is not problem and columns.id:
            raise UserError(f"{source}: the id {problem.id!r} occurs more than once")
    if len(first) < len(problems):
        logger.warning("%s: %d repeated questions are left out", source, len(problems) - len(first))
    return list(first.values())


def _typed(problems: list[Problem], settings: ProblemSetSettings) -> list[Problem]:
    """The problems with their answer kind; integers without separators and leading zeros."""
    golds = [p.answer for p in problems if p.answer is not None]
    integers = all(_INTEGER.fullmatch(gold) for gold in golds)
    if settings.answer_kind == "math" or (settings.answer_kind == "auto" and not integers):
        return [replace(p, answer_kind="math") for p in problems]
    return [replace(p, answer_kind="integer", answer=_integer(p)) for p in problems]


def _integer(problem: Problem) -> str | None:
    if problem.answer is None:
        return None
    if not _INTEGER.fullmatch(problem.answer):
        raise UserError(
            f"{problem.source}: the gold answer of problem {problem.id}, {problem.answer!r}, is no "
            "integer; set answer_kind: math"
        )
    return str(int(problem.answer.replace(",", "")))


def _selected(problems: list[Problem], settings: ProblemSetSettings) -> list[Problem]:
    """Shuffled, cut to offset and limit, without unanswered problems."""
    if settings.drop_unanswered:
        answered = [p for p in problems if p.answer is not None]
        if len(answered) < len(problems):
            logger.warning(
                "%s: %d of %d problems have no gold answer and are left out",
                settings.source,
                len(problems) - len(answered),
                len(problems),
            )
        problems = answered
    if settings.shuffle_seed is not None:
        order = Key.of(settings.shuffle_seed, "shuffle").generator().permutation(len(problems))
        problems = [problems[i] for i in order]
    end = None if settings.limit is None else settings.offset + settings.limit
    chosen = problems[settings.offset : end]
    for problem in chosen:
        if problem.answer is None:
            raise UserError(
                f"{problem.source}: problem {problem.id} has no gold answer; mend it, or set "
                "drop_unanswered: true"
            )
    return chosen

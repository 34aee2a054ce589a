"""Problem sets from their sources: rows, or finished problems, of any kind of source. Gold answers,
ids, order and limits are the same for all.
"""

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from butwait.problems.answers import read_gold, same_text, says_nothing, without_blanks
from butwait.problems.cells import NOTHING, cell, text_of, whole
from butwait.problems.equality.compare import (
    MAX_TEXT,
    NeedsAlgebraError,
    UnreadableGoldError,
    equal,
    is_readable,
)
from butwait.problems.overlap import text_id
from butwait.problems.presets import with_preset
from butwait.problems.settings import Columns, ProblemSetSettings
from butwait.problems.source import kind_of
from butwait.records import AnswerKind, Key, Problem, UserError
from butwait.running.json_lines import Row
from butwait.running.plugins import load_function
from butwait.running.terminal import visible

logger = logging.getLogger(__name__)

MAX_DIGITS = 1_000
"""Of an integer as a gold answer; the grader compares longer ones as texts."""

_SHOWN = 60
_MOST_NAMES = 30
_MOST_ROWS = 5
"""Characters of a value, names of columns, and rows that a sentence shows."""
_INTEGER = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)")
_NO_ANSWERS = frozenset({"proof", "notfound", "not found", "n/a", "nan", "null", "unknown"})
"""What data sets write where they have no answer."""


def load_problems(settings: ProblemSetSettings) -> list[Problem]:
    """The problems of a set, in a repeatable order, with unique ids.

    Where the source has no id column, a question that occurs again is left out and logged.
    Raises UserError for a source that is missing, empty or unreadable, a missing column, a value
    that is no text or number, a problem without question or gold answer (see ``drop_unanswered``),
    and a repeated id (see ``repeated_ids``).
    """
    full = with_preset(settings)
    kind, params = kind_of(full.source), full.params
    if full.verifier is not None:
        load_function(full.verifier, f"{settings.source}: verifier")
    if kind.generated and full.limit is not None:
        params = {"size": full.offset + full.limit, **params}
    loaded = kind.load(full.model_copy(update={"params": params}))
    problems = [problem for problem in loaded if isinstance(problem, Problem)]
    places: dict[str, str] = {}
    if rows := _placed(loaded):
        placed = _Table(settings.source, full, rows).problems()
        problems = [*placed.values()]
        places = {problem.id: place for place, problem in placed.items()}
    if verifier := full.verifier or kind.verifier(full.source):
        problems = [replace(problem, verifier=verifier) for problem in problems]
    elif not rows:  # of a table they were looked at where they were read
        problems = [without_blanks(problem) for problem in problems]
    problems = _selected(problems, full, settings.source, places)
    if not problems:
        raise UserError(
            f"{settings.source} gives no problems: it has none, none has a gold answer, or there "
            f"are no more than the offset, {full.offset}"
        )
    return problems


def _placed(loaded: Sequence[Row] | Mapping[str, Row] | Sequence[Problem]) -> dict[str, Row]:
    """Rows by their number, with their place where that is another one; none for problems."""
    if not isinstance(loaded, Mapping):
        rows = [row for row in loaded if isinstance(row, dict)]
        return {f"row {i}": row for i, row in enumerate(rows, 1)}
    return {
        f"row {i}" + ("" if place in (f"row {i}", f"line {i}") else f" ({place})"): row
        for i, (place, row) in enumerate(loaded.items(), 1)
    }


@dataclass(frozen=True)
class _Table:
    """Rows on the way to problems.

    Attributes:
        source: what the recipe calls it.
        settings: of the set, the preset's included.
        rows: by their places, for sentences.
    """

    source: str
    settings: ProblemSetSettings
    rows: Mapping[str, Row]

    def problems(self) -> dict[str, Problem]:
        """By their places."""
        columns = self._columns()
        found = {place: self._problem(row, place, columns) for place, row in self.rows.items()}
        self._log(
            sum(self._mended(row, columns) for row in self.rows.values()),
            "problems hold half a character (a lone surrogate), which is read as U+FFFD",
        )
        found = self._answered(found)
        return self._typed(self._unique(found, by_id=columns.id is not None))

    def _columns(self) -> Columns:
        """The columns with their defaults. Raises UserError for one that no row has."""
        defaults = {"question": "question", "answer": "answer", "metadata": ()}
        given = self.settings.columns
        filled = given.model_copy(
            update={name: value for name, value in defaults.items() if getattr(given, name) is None}
        )
        there = dict.fromkeys(column for row in self.rows.values() for column in row)
        if filled.id is None and "id" in there:
            filled = filled.model_copy(update={"id": "id"})
        for column in _named(filled):
            if column in there or any(
                cell(row, column) is not NOTHING for row in self.rows.values()
            ):
                continue
            names = [visible(name)[:_SHOWN] for name in islice(self._paths(there), _MOST_NAMES)]
            raise UserError(
                f"{self.source} has no column {column!r}; it has {', '.join(names)} (set columns)"
            )
        return filled

    def _paths(self, columns: Iterable[str]) -> Iterator[str]:
        """Columns, and the parts of nested ones."""
        for column in columns:
            values = (row[column] for row in self.rows.values() if row.get(column) is not None)
            value = next(values, None)
            parts = value if isinstance(value, Mapping) else ()
            yield from (f"{column}.{part}" for part in parts) if parts else (str(column),)

    def _problem(self, row: Row, place: str, columns: Columns) -> Problem:
        question = self._text(row, place, columns.question)
        if question is None:
            raise UserError(
                f"{self.source}: {place} has no question in column {columns.question!r}"
            )
        given_id = self._text(row, place, columns.id) if columns.id else text_id(question)
        if given_id is None:
            raise UserError(f"{self.source}: {place} has no id in column {columns.id!r}")
        golds = self._golds(row, place, columns.answer)
        return Problem(
            id=given_id,
            question=question,
            answer=golds[0] if golds else None,
            solution=self._text(row, place, columns.solution),
            source=self.source,
            metadata={name: self._kept(row, place, name) for name in self._metadata(columns)},
            also=golds[1:],
        )

    def _metadata(self, columns: Columns) -> Iterable[str]:
        return dict.fromkeys([*(columns.metadata or ()), *kind_of(self.settings.source).keeps])

    def _text(self, row: Row, place: str, column: str | None) -> str | None:
        return text_of(cell(row, column), f"{self.source}: {place}", column) if column else None

    def _golds(self, row: Row, place: str, column: str | None) -> tuple[str, ...]:
        """All accepted answers, the first one first."""
        column, where = column or "", f"{self.source}: {place}"
        value = cell(row, column)
        several = isinstance(value, list | tuple)
        if several and not self.settings.accept_any:
            raise UserError(
                f"{where}, column {column!r} holds a list of {len(value)}; name an item "
                f"({column}.0), or set accept_any: true where an answer may equal any of them"
            )
        texts = [text_of(item, where, column) for item in (value if several else (value,))]
        golds = [gold for text in texts for gold in _cut(text, self.settings)]
        return tuple(dict.fromkeys(golds))

    def _kept(self, row: Row, place: str, column: str) -> Any:
        """A value of the metadata, as JSON can hold it: dates and decimals are text."""
        value = cell(row, column)
        if value is NOTHING or value is None:
            return None
        if isinstance(value, str):
            return whole(value)
        if isinstance(value, bool | float):
            return value
        try:
            text = json.dumps(value, default=_written)
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(
                f"{self.source}: {place}, column {column!r} cannot be kept as metadata ({error}); "
                "leave it out"
            ) from error
        return json.loads(whole(json.dumps(json.loads(text), ensure_ascii=False)))

    def _mended(self, row: Row, columns: Columns) -> bool:
        texts = (cell(row, name) for name in (columns.question, columns.answer, columns.id) if name)
        return any(isinstance(text, str) and whole(text) != text for text in texts)

    def _answered(self, problems: Mapping[str, Problem]) -> dict[str, Problem]:
        """Without the answers that are none, and the problems that have no other."""
        none = {answer.strip().casefold() for answer in self.settings.drop_answers}
        kept = {}
        for place, problem in problems.items():
            golds = tuple(gold for gold in problem.golds if gold.casefold() not in none)
            if golds == problem.golds and (golds or "" not in none):
                kept[place] = problem
            elif golds:
                kept[place] = replace(problem, answer=golds[0], also=golds[1:])
        self._log(
            len(problems) - len(kept),
            f"of {len(problems)} problems have an answer of drop_answers and are left out",
        )
        odd = [p.answer for p in kept.values() if p.answer and p.answer.casefold() in _NO_ANSWERS]
        self._log(
            len(odd),
            f"gold answers say that there is none ({', '.join(sorted(set(odd)))}), and nothing "
            "equals them; drop_answers leaves such problems out",
        )
        return kept

    def _unique(self, problems: Mapping[str, Problem], *, by_id: bool) -> dict[str, Problem]:
        """One problem an id: what occurs again is left out, numbered or an error."""
        ids = {problem.id for problem in problems.values()}
        first: dict[str, tuple[str, Problem]] = {}
        again: set[tuple[str, str, tuple[str, ...]]] = set()
        numbers: dict[str, int] = {}
        kept: dict[str, Problem] = {}
        against: list[str] = []
        for place, problem in problems.items():
            before, earlier = first.setdefault(problem.id, (place, problem))
            content = (
                problem.id,
                problem.question if by_id else "",
                problem.golds if by_id else (),
            )
            if before == place:
                kept[place] = problem
            elif by_id and self.settings.repeated_ids == "error":
                raise UserError(
                    f"{self.source}: the id {problem.id[:_SHOWN]!r} occurs more than once "
                    f"({before}, {place}); mend it, or set repeated_ids: number"
                )
            elif content not in again:
                name, number = problem.id, numbers.get(problem.id, 1)
                while name in ids:
                    number += 1
                    name = f"{problem.id}-{number}"
                numbers[problem.id] = number
                ids.add(name)
                kept[place] = replace(problem, id=name)
            elif not by_id and self._contradict(earlier.golds, problem.golds):
                pair = (repr(p.golds[0][:_SHOWN]) for p in (earlier, problem))
                against.append(f"{before} and {place}: {' and '.join(pair)}")
            again.add(content)
        self._log(len(problems) - len(kept), "repeated questions are left out")
        more = f"; and {len(against) - _MOST_ROWS} more" if len(against) > _MOST_ROWS else ""
        self._log(
            len(against),
            "of these have another gold answer than the first time, which is the one that counts; "
            f"mend the wrong one ({'; '.join(against[:_MOST_ROWS])}{more})",
        )
        return kept

    def _contradict(self, first: Sequence[str], second: Sequence[str]) -> bool:
        """Whether no answer of one question equals one of the other. What only algebra could tell
        apart does not count."""
        as_text = self.settings.answer_kind == "text" or self.settings.verifier is not None
        same = same_text if as_text else _may_equal
        return bool(first and second) and not any(same(a, b) for a in first for b in second)

    def _typed(self, problems: dict[str, Problem]) -> dict[str, Problem]:
        """The problems with their answer kind; integers without separators and leading zeros."""
        kind: str = self.settings.answer_kind
        if kind == "auto":
            kind = self._kind([gold for problem in problems.values() for gold in problem.golds])
        if kind == "text":
            return {place: replace(p, answer_kind="text") for place, p in problems.items()}
        if kind == "math":
            golds = [gold for problem in problems.values() for gold in problem.golds]
            self._log(
                sum(len(gold) > MAX_TEXT or not is_readable(gold) for gold in golds),
                f"gold answers cannot be read (a brace without its partner, or more than "
                f"{MAX_TEXT:,} characters), so that nothing can be said about answers to them; "
                "mend them, or set answer_kind: text",
            )
            return {place: replace(p, answer_kind="math") for place, p in problems.items()}
        return {place: self._with_integers(problem) for place, problem in problems.items()}

    def _kind(self, golds: Sequence[str]) -> AnswerKind:
        """What ``answer_kind: auto`` is. What a verifier is given stays as it is written, so that
        0101 is text there."""
        if self.settings.verifier or kind_of(self.settings.source).verifier(self.settings.source):
            plain = all(_is_integer(gold) and gold == str(int(gold)) for gold in golds)
            return "integer" if golds and plain else "text"
        return "integer" if all(map(_is_integer, golds)) else "math"

    def _with_integers(self, problem: Problem) -> Problem:
        for gold in problem.golds:
            if not _is_integer(gold):
                raise UserError(
                    f"{self.source}: the gold answer of problem {visible(problem.id)[:_SHOWN]}, "
                    f"{gold[:_SHOWN]!r}, is no integer; set answer_kind: math"
                )
        values = dict.fromkeys(str(int(gold.replace(",", ""))) for gold in problem.golds)
        golds = tuple(values)
        answer = golds[0] if golds else None
        return replace(problem, answer_kind="integer", answer=answer, also=golds[1:])

    def _log(self, count: int, what: str) -> None:
        if count:
            logger.warning("%s: %d %s", visible(self.source), count, visible(what))


def _named(columns: Columns) -> Iterable[str]:
    every = (columns.question, columns.answer, columns.id, columns.solution)
    return [name for name in (*every, *(columns.metadata or ())) if name is not None]


def _cut(text: str | None, settings: ProblemSetSettings) -> list[str]:
    """The gold answers in a text: what stands after the mark, between the separators; of a whole
    solution, where the rules of equality judge, the answer it ends in."""
    if text is not None and settings.answer_after is not None:
        _, mark, tail = text.rpartition(settings.answer_after)
        text = tail if mark else None
    if text is None:
        return []
    judged = settings.verifier or kind_of(settings.source).verifier(settings.source)
    if settings.answer_kind != "text" and not judged:
        text = read_gold(text, several=settings.answer_separator is None)
    parts = text.split(settings.answer_separator) if settings.answer_separator else [text]
    golds = [part.strip() for part in parts if part.strip()]
    kind: AnswerKind = "text" if settings.answer_kind == "text" else "math"
    return golds if judged else [gold for gold in golds if not says_nothing(gold, kind)]


def _may_equal(first: str, second: str) -> bool:
    try:
        return equal(first, second)
    except NeedsAlgebraError:
        return True
    except UnreadableGoldError:
        return same_text(first, second)


def _is_integer(gold: str) -> bool:
    return len(gold) <= MAX_DIGITS and _INTEGER.fullmatch(gold) is not None


def _written(value: Any) -> Any:
    """What JSON has no form for, where its text says what it is."""
    if isinstance(value, bytes | bytearray | memoryview):
        raise TypeError("it holds bytes")
    if hasattr(value, "tolist"):  # numpy's
        return value.tolist()
    return str(value)


def _selected(
    problems: list[Problem], settings: ProblemSetSettings, source: str, places: Mapping[str, str]
) -> list[Problem]:
    """Shuffled, cut to offset and limit, without unanswered problems.

    Args:
        source: what the recipe calls it.
        places: of problems in it, by their ids.
    """
    if settings.drop_unanswered:
        answered = [p for p in problems if p.judged]
        if len(answered) < len(problems):
            logger.warning(
                "%s: %d of %d problems have no gold answer and are left out",
                visible(settings.source),
                len(problems) - len(answered),
                len(problems),
            )
        problems = answered
    if settings.shuffle_seed is not None:
        order = Key.of(settings.shuffle_seed, "shuffle").generator().permutation(len(problems))
        problems = [problems[i] for i in order]
    end = None if settings.limit is None else settings.offset + settings.limit
    chosen = problems[settings.offset : end]
    if lacking := [problem.id for problem in chosen if not problem.judged]:
        shown = [places.get(name, f"problem {visible(name)[:_SHOWN]}") for name in lacking]
        more = f" and {len(shown) - _MOST_ROWS} more" if len(shown) > _MOST_ROWS else ""
        raise UserError(
            f"{visible(source)}: {len(lacking)} of {len(chosen)} problems have no gold answer: "
            f"{', '.join(shown[:_MOST_ROWS])}{more}; mend it, or set drop_unanswered: true "
            "(a verifier needs none)"
        )
    return chosen

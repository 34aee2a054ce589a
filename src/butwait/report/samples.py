"""Attempts for a reader, of every evaluation and of two models side by side, chosen by a rule that
cannot flatter any."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pyarrow.compute as pc

from butwait.records import Status
from butwait.report.collect import Evaluation, attempt, attempts
from butwait.running.json_lines import read_rows

_OUTCOMES = {
    (False, True): "only the second is right",
    (True, False): "only the first is right",
    (False, False): "both fail",
    (True, True): "both are right",
}


@dataclass(frozen=True, slots=True)
class Pair:
    """First attempts of both models at one question.

    Attributes:
        outcome: which of them is right, in words.
        problem_id: the question's id.
        known: its ``question`` and ``answer`` as the run keeps them; empty without its file.
        a, b: ``text``, ``status``, ``length`` and ``answer`` of the attempts.
    """

    outcome: str
    problem_id: str
    known: Mapping[str, Any]
    a: Mapping[str, Any]
    b: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Attributes:
    a, b: the evaluations.
    counts: outcome -> questions, over the first attempts of both.
    pairs: the first question of each outcome, in stored order.
    """

    a: Evaluation
    b: Evaluation
    counts: dict[str, int]
    pairs: list[Pair]


def side_by_side(run: Path, a: Evaluation, b: Evaluation) -> SideBySide | None:
    """The first attempts of both models at the questions both tried; None without attempts.

    Of an arm it is the first seed. Shown is the first question, in stored order, of each of: only b
    right, only a right, both fail. The counts say how common each is.
    """
    a, b = (replace(row, seeds=row.seeds[:1]) for row in (a, b))
    verdicts_a, verdicts_b = _first_verdicts(run, a), _first_verdicts(run, b)
    outcomes: dict[str, list[str]] = {label: [] for label in _OUTCOMES.values()}
    for problem_id, right in verdicts_a.items():
        if problem_id in verdicts_b:
            outcomes[_OUTCOMES[right, verdicts_b[problem_id]]].append(problem_id)
    counts = {label: len(ids) for label, ids in outcomes.items()}
    if not any(counts.values()):
        return None
    questions = read_questions(run, b.set)
    pairs = [
        Pair(
            label,
            ids[0],
            questions.get(ids[0], {}),
            _attempt(run, a, ids[0]),
            _attempt(run, b, ids[0]),
        )
        for label, ids in outcomes.items()
        if ids and label != _OUTCOMES[True, True]
    ]
    return SideBySide(a, b, counts, pairs)


@dataclass(frozen=True, slots=True)
class Shown:
    """Attempts of one evaluation.

    Attributes:
        key: "stage/set/method".
        command: what shows all of them.
        counts: attempts by verdict, of the first seed of an arm.
        attempts: the first attempt with each of them, in the order of the verdicts.
        questions: id -> ``question`` and ``answer`` of these, as the run keeps them.
    """

    key: str
    command: str
    counts: dict[str, int]
    attempts: list[Mapping[str, Any]]
    questions: Mapping[str, Mapping[str, Any]]


def of_each(run: Path, rows: Iterable[Evaluation]) -> list[Shown]:
    """What the page shows of every evaluation that has attempts on disk; of an arm the first
    seed's."""
    found = []
    for row in rows:
        row = replace(row, seeds=row.seeds[:1])
        table = attempts(run, row, ("problem_id", "sample", "status"))
        if table is None:
            continue
        status = table["status"].combine_chunks()
        counts = {name: pc.sum(pc.equal(status, name)).as_py() for name in get_args(Status)}
        firsts = [
            (table["problem_id"][at].as_py(), table["sample"][at].as_py())
            for name, n in counts.items()
            if n and (at := pc.index(status, name).as_py()) >= 0
        ]
        questions = read_questions(run, row.set) if firsts else {}
        stage = row.stages[0]
        command = f"butwait attempts RUN/{stage} --problems {row.set} --method {row.method} --all"
        found.append(
            Shown(
                f"{stage}/{row.set}/{row.method}",
                command,
                {name: n for name, n in counts.items() if n},
                [_attempt(run, row, *first) for first in firsts],
                {problem: questions[problem] for problem, _ in firsts if problem in questions},
            )
        )
    return found


def read_questions(run: Path, problem_set: str) -> Mapping[str, dict[str, Any]]:
    """id -> {id, question, answer} of ``RUN/problems/<set>.jsonl``; empty without that file."""
    path = run / "problems" / f"{problem_set}.jsonl"
    if not path.is_file():
        return {}
    return {row["id"]: row for row in read_rows(path)}


def _first_verdicts(run: Path, row: Evaluation) -> dict[str, bool]:
    """problem id -> whether its first attempt is correct, in stored order."""
    table = attempts(run, row, ("problem_id", "sample", "status"))
    if table is None:
        return {}
    graded = pc.not_equal(table["status"], "ungradable")  # neither right nor wrong
    first = table.filter(pc.and_(pc.equal(table["sample"], 0), graded))
    right = pc.equal(first["status"], "correct")
    return dict(zip(first["problem_id"].to_pylist(), right.to_pylist(), strict=True))


def _attempt(run: Path, row: Evaluation, problem_id: str, sample: int = 0) -> Mapping[str, Any]:
    columns = ("problem_id", "sample", "text", "status", "length", "answer")
    return attempt(run, row, columns, problem_id, sample)

"""``butwait grade``: grades a file of answers."""

import reprlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

from butwait.problems.answers import answer_kind, read_gold
from butwait.problems.cells import number_text
from butwait.problems.grading import Grader
from butwait.records import Problem, Status, UserError
from butwait.running.files import atomic_path, check_output
from butwait.running.json_lines import Row, dump_rows
from butwait.running.progress import task
from butwait.running.tables import read_table

_MATCH: dict[Status, bool | None] = {"correct": True, "ungradable": None}
_FIELDS = ("id", "gold", "pred")


def grade(jsonl: Path, out: Path) -> None:
    """Grades the answers of a table: {"id", "gold", "pred"} in, {"id", "match", "status"} out.

    match: true where correct, null where ungradable, else false. ``out`` keeps the order and
    appears whole or not at all. A gold answer may be a number; one that is written as an integer is
    graded as one.
    """
    check_output(out, jsonl)
    rows = _rows(jsonl)
    counts: Counter[Status] = Counter()
    with atomic_path(out) as path, path.open("w", encoding="utf-8") as file:
        with task("grading", len(rows)) as progress:
            for row, status in zip(rows, _statuses(rows), strict=True):
                counts[status] += 1
                line = {"id": row["id"], "match": _MATCH.get(status, False), "status": status}
                file.write(dump_rows([line]))
                progress.advance()
    print(", ".join(f"{count} {status}" for status, count in counts.most_common()) or "no rows")


def _statuses(rows: list[Row]) -> Iterator[Status]:
    """The verdicts in the order of ``rows``; as many at a time as there are grading processes."""
    golds = [None if row["gold"] is None else read_gold(row["gold"]) or None for row in rows]
    problems = [
        Problem(str(row["id"]), "", gold, answer_kind(gold))
        for row, gold in zip(rows, golds, strict=True)
    ]
    texts = [row["pred"] or "" for row in rows]
    with Grader() as grader, ThreadPoolExecutor(grader.workers) as threads:
        if any(problem.answer_kind == "math" for problem in problems):
            grader.start()
        for grade in threads.map(grader.grade, texts, problems):
            yield grade.status


def _rows(jsonl: Path) -> list[Row]:
    rows = read_table(jsonl, otherwise=".jsonl")
    for place, row in rows.items():
        where = f"{jsonl}, {place}"
        if any(name not in row for name in _FIELDS):
            raise UserError(f"{where}: write an object with the fields {', '.join(_FIELDS)}")
        gold, pred = row["gold"], row["pred"]
        number = isinstance(gold, int | float | Decimal) and number_text(gold) is not None
        if not (gold is None or isinstance(gold, str) or number):
            raise UserError(
                f"{where}: gold is {reprlib.repr(gold)}; write a string, a number or null"
            )
        if not isinstance(pred, str | None):
            raise UserError(f"{where}: pred is {reprlib.repr(pred)}; write a string or null")
    return list(rows.values())

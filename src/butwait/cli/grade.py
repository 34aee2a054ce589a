"""``butwait grade``: grades a file of answers."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from butwait.problems.answers import answer_kind, gold_text
from butwait.problems.grading import Grader
from butwait.records import Problem, Status, UserError
from butwait.running.files import atomic_path
from butwait.running.json_lines import Row, dump_rows, numbered_rows
from butwait.running.progress import task

_MATCH: dict[Status, bool | None] = {"correct": True, "ungradable": None}
_FIELDS = ("id", "gold", "pred")


def grade(jsonl: Path, out: Path) -> None:
    """Grades the answers of ``jsonl``: {"id", "gold", "pred"} in, {"id", "match", "status"} out.

    match: true where correct, null where ungradable, else false. ``out`` keeps the order and
    appears whole or not at all. A gold answer may be a number; one that is written as an integer is
    graded as one.
    """
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
    golds = [gold_text(row["gold"]) for row in rows]
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
    rows = numbered_rows(jsonl)
    for number, row in rows.items():
        where = f"{jsonl}, line {number}"
        if any(name not in row for name in _FIELDS):
            raise UserError(f"{where}: write an object with the fields {', '.join(_FIELDS)}")
        gold, pred = row["gold"], row["pred"]
        if not isinstance(gold, str | int | float | None) or isinstance(gold, bool):
            raise UserError(f"{where}: gold is {gold!r}; write a string, a number or null")
        if not isinstance(pred, str | None):
            raise UserError(f"{where}: pred is {pred!r}; write a string or null")
    return list(rows.values())

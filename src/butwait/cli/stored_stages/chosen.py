"""What ``trees``, ``attempts`` and ``examples`` share: which stage is meant, its questions, and
how texts stand on a terminal."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from butwait.records import UserError
from butwait.running.expected import meant
from butwait.running.json_lines import read_rows
from butwait.running.run_state import RUNS, is_run, runs_in
from butwait.running.stages import read_stage
from butwait.running.terminal import visible

UNCHECKED = "only the answer is verified, the steps are not"
"""Beside every right solution: a right answer may come of wrong steps."""


def the_stage(path: Path | None, folder: str, what: str) -> Path | None:
    """The stage that is meant: one that holds ``folder``, at the path or under runs/.

    Where nothing is named, or a run, the stages that hold it are listed, and None is returned.

    Raises UserError where there is none.
    """
    if path is None:
        found = [stage for run in runs_in(RUNS) for stage in _stages(run, folder)]
        if not found:
            raise UserError(f"no run under {RUNS}/ holds {what}: give RUN/STAGE")
        _list(found, what)
        return None
    for place in (path, RUNS / path):
        if (place / folder).is_dir():
            return place
        if place.is_dir() and is_run(place):
            if found := _stages(place, folder):
                _list(found, what)
                return None
            raise UserError(f"no stage of the run {place} holds {what}")
        if (stage := read_stage(place)) is not None:
            kind, status = (stage.record.get(key, "?") for key in ("kind", "status"))
            raise UserError(f"the stage {place} (kind {kind}, {status}) holds no {what}")
    raise UserError(f"{path} holds no {what}: give RUN/STAGE, or RUN for a list of its stages")


def _stages(run: Path, folder: str) -> list[Path]:
    stages = sorted(record.parent for record in run.glob("*/stage.json"))
    return [stage for stage in stages if (stage / folder).is_dir()]


def _list(stages: Iterable[Path], what: str) -> None:
    print(f"stages that hold {what}:")
    for stage in stages:
        record = getattr(read_stage(stage), "record", {})
        about = f"{record.get('kind', '?')}, {record.get('status', '?')}"
        print(f"  {visible(stage)}  ({visible(about)})")


def questions(stage: Path, problem_set: str | None = None) -> dict[str, dict[str, Any]]:
    """Problem id -> {id, question, answer, ...} as the stage's run keeps them, of one set or of
    all; empty where it keeps none."""
    return {name: row for known in question_sets(stage, problem_set) for name, row in known.items()}


def question_sets(stage: Path, problem_set: str | None = None) -> list[dict[str, dict[str, Any]]]:
    """``questions`` of each set: a training set and a test set may have an id for different
    ones."""
    folder = stage.resolve().parent / "problems"
    files = sorted(folder.glob(f"{'*' if problem_set is None else problem_set}.jsonl"))
    return [{row["id"]: row for row in read_rows(file) if "id" in row} for file in files]


def check_problem(problem: str, known: Iterable[str], where: Path) -> None:
    """Raises UserError for a problem that is none of those known."""
    ids = list(dict.fromkeys(known))
    if problem not in ids:
        raise UserError(
            f"{where} has no problem {problem!r} among its {len(ids):,}{meant(problem, ids)}"
        )


def one_of(wrong: bool, status: str | None, known: Iterable[str]) -> str | None:
    """The status asked for. Raises UserError for one that there is not, and for two wishes."""
    if status is None:
        return None
    if wrong:
        raise UserError("--wrong and --status are two choices; give one of them")
    if status not in (names := tuple(known)):
        raise UserError(f"--status: {status!r} is none of {', '.join(names)}")
    return status


def show_question(screen: Console, known: Mapping[str, Any], heading: str = "") -> None:
    """A heading, the question and its gold answer, as far as they are known."""
    if heading:
        screen.print(Text(visible(heading), style="bold"))
    if known.get("question"):
        show_text(screen, str(known["question"]), indent="  ")
    if known.get("answer") not in (None, ""):
        screen.print(Text(f"  gold answer: {visible(known['answer'])}"))


def show_text(screen: Console, text: str, indent: str) -> None:
    """A text line by line, as it is; nothing in it is obeyed."""
    width = max(20, screen.width - len(indent))
    for line in text.strip("\n").split("\n"):
        shown = Text(visible(line))
        for part in shown.wrap(screen, width) if len(shown) > width else [shown]:
            screen.print(Text(indent) + part, soft_wrap=True)


def show_rows(screen: Console, rows: Sequence[Sequence[str]], *, widest: int = 24) -> None:
    """A plain table, its first row the head. The first column stays whole, for ids are copied from
    it; others are cut at ``widest``, the last at the screen's edge."""
    shown = [[visible(row[0]), *(snippet(cell, widest) for cell in row[1:-1])] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    left = max(8, screen.width - sum(widths) - 2 * len(widths))
    for number, (row, cells) in enumerate(zip(rows, shown, strict=True)):
        line = "  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True))
        line = f"{line}  {snippet(row[-1], left)}".rstrip()
        screen.print(Text(line, style="dim" if number == 0 else ""), soft_wrap=True)


def snippet(text: object, most: int) -> str:
    """A text in one line of at most so many characters."""
    line = visible(" ".join(str(text).split()))
    return line if len(line) <= most else line[: most - 1] + "…"


def print_json(rows: Iterator[dict[str, Any]]) -> None:
    """A JSON array, written row by row: there may be more than memory holds."""
    print("[", end="")
    for number, row in enumerate(rows):
        print(",\n " if number else "\n ", json.dumps(_finite(row)), sep="", end="")
    print("\n]")


def _finite(value: Any) -> Any:
    """As JSON has it: no number that is not finite."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

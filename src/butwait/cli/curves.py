"""One column of a training's log as a curve, whatever wrote the log."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from butwait.records import UserError
from butwait.running.json_lines import Row, decoded, parsed, reason
from butwait.running.tables import read_table

STEP_COLUMNS = ("step", "global_step", "_step")
"""Looked for in this order, in small letters and behind any ``train/``."""


_TABLES = (".csv", ".tsv", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz")


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Attributes:
    path: the log that was read.
    column: its column.
    steps: (n,) increasing.
    values: (n,) finite.
    repeated: values that a later one of the same step replaced, as a resumed run logs them.
    left_out: values that were infinite or no number.
    """

    path: Path
    column: str
    steps: np.ndarray
    values: np.ndarray
    repeated: int
    left_out: int


def read_curve(path: Path, column: str, step_column: str | None = None) -> Curve:
    """Reads a log: a Trainer's ``trainer_state.json``, JSON Lines, CSV, or TensorBoard events.

    A folder stands for the log in it: ``log.jsonl``, ``trainer_state.json``, that of the last
    checkpoint, or events. ``column`` may be a name's last part (``reward`` for ``train/reward``)
    where that is unique. Rows without the column are skipped. Raises UserError for a log that is
    missing or unreadable or does not have the columns.
    """
    log = _log_in(path) if path.is_dir() else path
    if not log.exists():
        raise UserError(f"{log} does not exist; give a log or the folder that holds it")
    try:
        rows = _read(log)
    except OSError as error:
        raise UserError(f"{log} cannot be read ({error.strerror})") from error
    name = _column(rows, column, log)
    by_step: dict[float, float] = {}
    repeated = left_out = 0
    step_name = _step_column(rows, step_column, log)
    for number, row in enumerate(rows, 1):
        value = _number(row.get(name), f"{log}, row {number}: {name}")
        if value is None:
            continue
        step = _number(row.get(step_name), f"{log}, row {number}: {step_name}")
        if step is None or not math.isfinite(step):
            raise UserError(f"{log}, row {number} has a {name} and no {step_name}; give it one")
        if not math.isfinite(value):
            left_out += 1
            continue
        repeated += step in by_step
        by_step[step] = value
    if not by_step:
        raise UserError(f"{log}: no value of {name} is a finite number; choose another --column")
    steps = np.array(sorted(by_step))
    values = np.array([by_step[step] for step in steps])
    return Curve(log, name, steps, values, repeated, left_out)


def _log_in(folder: Path) -> Path:
    for name in ("log.jsonl", "trainer_state.json"):
        if (folder / name).is_file():
            return folder / name
    checkpoints = [
        path
        for path in folder.glob("checkpoint-*/trainer_state.json")
        if path.parent.name.removeprefix("checkpoint-").isdigit()
    ]
    if checkpoints:
        return max(checkpoints, key=lambda path: int(path.parent.name.removeprefix("checkpoint-")))
    if any(folder.glob("events.out.*")):
        return folder
    # A Trainer writes the events of every start into a folder of its own.
    for starts in (folder, folder / "runs"):
        if any(starts.glob("*/events.out.*")):
            return starts
    raise UserError(
        f"{folder} holds no log (log.jsonl, trainer_state.json, checkpoint-*/trainer_state.json "
        "or TensorBoard events); give the file"
    )


def _read(log: Path) -> list[Row]:
    if log.is_dir() or ".tfevents." in log.name:
        from butwait.cli.tensorboard import read_events

        return read_events(log)
    if log.suffix == ".json":
        return _trainer_state(log)
    if log.name.lower().endswith(_TABLES):
        return list(read_table(log).values())
    raise UserError(
        f"{log} is no log that is known: give a trainer_state.json, a .jsonl, a .csv or "
        "TensorBoard events"
    )


def _trainer_state(log: Path) -> list[Row]:
    try:
        state = parsed(decoded(log, log.read_bytes()))
    except ValueError as error:
        line = getattr(error, "lineno", None)
        where = f", line {line}" if line else ""
        raise UserError(f"{log} is no JSON ({reason(error)}{where})") from error
    rows = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{log} is no trainer state: it has no list of rows log_history")
    return rows


def _column(rows: Iterable[Row], wanted: str, log: Path, option: str = "--column") -> str:
    """The column of this name, or the only one whose name's last part it is."""
    names = dict.fromkeys(name for row in rows for name in row)
    if wanted in names:
        return wanted
    alike = [name for name in names if str(name).rpartition("/")[2] == wanted]
    if len(alike) == 1:
        return alike[0]
    if alike:
        raise UserError(f"{log}: {wanted!r} may be any of {', '.join(alike)}; give {option}")
    raise UserError(
        f"{log} has no column {wanted!r}; give {option}, one of {', '.join(map(str, names))}"
        if names
        else f"{log} is empty"
    )


def _step_column(rows: Iterable[Row], wanted: str | None, log: Path) -> str:
    if wanted is not None:
        return _column(rows, wanted, log, "--step-column")
    names = dict.fromkeys(str(name) for row in rows for name in row)
    for known in STEP_COLUMNS:
        for name in names:
            if name.lower().removeprefix("train/") == known:
                return name
    raise UserError(
        f"{log} has no column of steps ({', '.join(STEP_COLUMNS)}); give --step-column, one of "
        f"{', '.join(names)}"
    )


def _number(value: Any, where: str) -> float | None:
    """``value`` as a number; None where a cell is empty."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise UserError(f"{where} is {value!r}, which is no number")

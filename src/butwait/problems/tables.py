"""Rows of a JSON Lines or Parquet file."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
from pyarrow import ArrowException

from butwait.records import UserError

Row = dict[str, Any]
"""Column name -> value."""


def read_rows(path: Path) -> list[Row]:
    """All rows of a ``.jsonl`` or ``.parquet`` file; blank lines are skipped.

    Raises UserError for a file that is missing, empty or unreadable; for JSON Lines it names the
    line.
    """
    if not path.is_file():
        raise UserError(f"the problem file {path} does not exist")
    rows = _read_parquet(path) if path.suffix == ".parquet" else _read_jsonl(path)
    if not rows:
        raise UserError(f"the problem file {path} is empty")
    return rows


def _read_parquet(path: Path) -> list[Row]:
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise UserError(f"{path} is no readable Parquet file: {error}") from error


def _read_jsonl(path: Path) -> list[Row]:
    rows = []
    try:
        # Not splitlines: JSON text may hold U+2028 and its like.
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start})") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number} is not JSON: {error.msg}") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number} is not a JSON object")
        rows.append(row)
    return rows

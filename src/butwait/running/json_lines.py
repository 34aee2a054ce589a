"""JSON Lines: one object a line. Only a line feed ends a line: JSON text may hold U+2028 and its
like, which ``str.splitlines`` breaks at."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from butwait.records import UserError

Row = dict[str, Any]


def dump_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """The text of a file of these rows."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_rows(path: Path) -> list[Row]:
    """The objects of a file in order; blank lines are skipped. Raises as ``numbered_rows``."""
    return list(numbered_rows(path).values())


def numbered_rows(path: Path) -> dict[int, Row]:
    """Line number, from 1 -> object, in order; blank lines are skipped.

    Raises UserError for a file that cannot be read or is not UTF-8, and for the first line that is
    no JSON object.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); convert it") from error
    rows = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}, line {number} is no JSON ({error.msg}); write one object a line"
            ) from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number} is no JSON object")
        rows[number] = row
    return rows


def read_log(path: Path) -> list[Row]:
    """The objects of a file that a process appends to, in order. A line that a crash cut is left
    out, and a file that does not exist has none."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows

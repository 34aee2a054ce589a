"""JSON Lines: one object a line. Only a line feed ends a line: JSON text may hold U+2028 and its
like, which ``str.splitlines`` breaks at."""

import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from butwait.records import UserError

Row = dict[str, Any]

_HALF = re.compile(r"[\ud800-\udfff]")


def dump_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """The text of a file of these rows. Halves of a surrogate pair, which UTF-8 cannot write, are
    escaped."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return _HALF.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


def read_rows(path: Path) -> list[Row]:
    """The objects of a file in order; blank lines are skipped. Raises as ``numbered_rows``."""
    return list(numbered_rows(path).values())


def numbered_rows(path: Path) -> dict[int, Row]:
    """Line number, from 1 -> object, in order; blank lines are skipped.

    Raises UserError for a file that cannot be read or is no text, and for the first line that is
    no JSON object.
    """
    try:
        return rows_of_text(path, decoded(path, path.read_bytes()))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error


def rows_of_text(path: Path, text: str) -> dict[int, Row]:
    """``numbered_rows`` of a text; ``path`` is where it is from, for sentences."""
    rows = {}
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip().lstrip("\ufeff")  # files that were joined have marks inside
        if not line:
            continue
        try:
            row = parsed(line)
        except ValueError as error:
            raise UserError(
                f"{path}, line {number} is no JSON ({reason(error)}); write one object a line"
            ) from error
        if not isinstance(row, dict):
            hint = "; a list of objects is read from a .json file" if isinstance(row, list) else ""
            raise UserError(f"{path}, line {number} is no JSON object{hint}")
        rows[number] = row
    return rows


def decoded(path: Path, data: bytes) -> str:
    """The text of a file: UTF-8, or UTF-16 or -32 where its first bytes say so; without a
    byte-order mark. Raises UserError, with the line, for what is neither."""
    encoding = json.detect_encoding(data) if len(data) > 3 else "utf-8-sig"
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        name = encoding.upper().removesuffix("-SIG")
        raise UserError(
            f"{path} is not {name} text (byte {error.start}), see line {line}; save it as UTF-8"
        ) from error


def parsed(text: str) -> Any:
    """The value that a JSON text writes. Control characters in strings are taken as they are; an
    integer of more digits than Python reads is its digits, as text.

    Raises ValueError for what is no JSON, is nested too deep, or gives a key two values.
    """
    try:
        return json.loads(text, parse_int=_integer, object_pairs_hook=_object, strict=False)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def reason(error: ValueError) -> str:
    """What ``parsed`` found wrong."""
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)


def _integer(digits: str) -> int | str:
    most = sys.get_int_max_str_digits()
    return digits if 0 < most < len(digits) else int(digits)


def _object(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        for key, value in pairs:
            if row[key] is not value and row[key] != value:
                raise ValueError(f"the key {key[:60]!r} stands twice, with two values")
    return row


def read_log(path: Path) -> list[Row]:
    """The objects of a file that a process appends to, in order. A line that a crash cut is left
    out, and a file that does not exist has none."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows

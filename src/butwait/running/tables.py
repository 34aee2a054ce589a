"""Tables that users bring: JSON Lines, JSON, CSV, TSV and Parquet, each also packed by gzip.

The name's suffix says what a file is. What can be read in one way only is read; anything else is a
UserError that names the file, the place in it and what to do.
"""

import csv
import gzip
import io
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from butwait.records import UserError
from butwait.running.json_lines import Row, decoded, parsed, reason, rows_of_text

_DELIMITERS = ",;\t|"
_UNPACKED_AT_A_TIME = 1 << 24
_BOMB_SIZE, _BOMB_RATIO = 1 << 28, 200
"""Bytes that any gzip file may unpack to, and how many times its size beyond. Text of tables packs
to a tenth or a fiftieth."""
_LONGEST_CELL = 2**31 - 1
_OTHER_SUFFIX = re.compile(
    r"\.(7z|arrow|avro|bz2|db|docx?|feather|gz|html?|ipynb|lz4|md|np[yz]|ods|orc|pickle|pkl|pt|py"
    r"|rar|sqlite|tar|tgz|toml|txt|xlsx?|xml|xz|ya?ml|zip|zst)"
)
_CONTENTS = {
    b"PK\x03\x04": "a zip archive or a workbook; unpack it, or save it as CSV",
    b"\xfd7zXZ": "packed by xz; unpack it, or pack it by gzip",
    b"BZh91AY&SY": "packed by bzip2; unpack it, or pack it by gzip",
    b"\x28\xb5\x2f\xfd": "packed by zstd; unpack it, or pack it by gzip",
    b"7z\xbc\xaf": "a 7z archive; unpack it",
    b"ARROW1": "an Arrow file; save it as Parquet",
    b"version https://git-lfs": "the pointer of a file that Git LFS keeps; run: git lfs pull",
}
"""First bytes of what is none of the tables, whatever its name says."""


def names_file(source: str) -> bool:
    """Whether a source's name ends as a file's does, one that can be read or not."""
    last = PurePath(source.lower()).suffix
    return _suffix(source) in _READERS or _OTHER_SUFFIX.fullmatch(last) is not None


def suffixes() -> str:
    """The suffixes of the tables that are read, for sentences."""
    *first, last = _READERS
    return f"{', '.join(first)} or {last}"


def read_table(path: Path, otherwise: str | None = None) -> dict[str, Row]:
    """Place of a row (``line 3``, ``row 3``) -> row (column -> value), in order.

    Blank lines are skipped. Cells of CSV and TSV are text; the delimiter is the one of ``,;|`` and
    tab that cuts the header into most columns, and cells that a row lacks at its end are None. A
    ``.json`` file holds a list of objects, an object with such a list under one of its keys, or
    JSON Lines. A folder with the suffix of a table holds files with that suffix, read by name.

    Args:
        path: the file.
        otherwise: the suffix that stands for a file without one of a table.

    Raises UserError for a file that cannot be read, naming the place.
    """
    suffix = _suffix(path.name)
    read = _READERS.get(suffix) or _READERS.get(otherwise or "")
    if read is None:
        raise UserError(
            f"{path} is no table by its name; give a file that ends in {suffixes()}, as it is or "
            "with .gz"
        )
    if not os.path.isdir(path) or suffix not in _READERS:
        return read(path, _content(path))
    return {
        f"{part.name}, {place}": row
        for part in _parts(path, suffix)
        for place, row in read(part, _content(part)).items()
    }


def _suffix(name: str) -> str:
    return PurePath(name.lower().removesuffix(".gz")).suffix


def _parts(folder: Path, suffix: str) -> list[Path]:
    """The files of a table that was written in parts; ``_SUCCESS`` and its like are none."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror})") from error
    paths = [folder / name for name in names if name[0] not in "._" and _suffix(name) == suffix]
    return [path for path in paths if path.is_file()]


def _content(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = _unpacked(path, data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is a damaged gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    for start, what in _CONTENTS.items():
        if data.startswith(start):
            raise UserError(f"{path} is {what}")
    return data


def _unpacked(path: Path, data: bytes) -> bytes:
    """What a gzip file holds. Raises UserError for one that holds far more than any table, and for
    one that was packed twice."""
    parts, size = [], 0
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        while part := file.read(_UNPACKED_AT_A_TIME):
            parts.append(part)
            size += len(part)
            if size > max(_BOMB_SIZE, _BOMB_RATIO * len(data)):
                raise UserError(
                    f"{path} unpacks to more than {_BOMB_RATIO} times its size ({size >> 20} MiB "
                    "and more): this is no table; unpack it, and look at it"
                )
    if parts and parts[0].startswith(b"\x1f\x8b"):
        raise UserError(f"{path} was packed by gzip twice; unpack it once")
    return b"".join(parts)


def _lines(path: Path, data: bytes) -> dict[str, Row]:
    return _placed(rows_of_text(path, decoded(path, data)))


def _placed(rows: dict[int, Row]) -> dict[str, Row]:
    return {f"line {number}": row for number, row in rows.items()}


def _json(path: Path, data: bytes) -> dict[str, Row]:
    text = decoded(path, data)
    if not text.strip():
        return {}
    try:
        content = parsed(text)
    except ValueError as error:
        if getattr(error, "msg", "") == "Extra data" and text.lstrip().startswith("{"):
            return _placed(rows_of_text(path, text))
        line = getattr(error, "lineno", None)
        where = f"{path}, line {line}" if line else str(path)
        raise UserError(f"{where} is no JSON ({reason(error)})") from error
    if isinstance(content, dict):
        content = _list_inside(path, content)
    if not isinstance(content, list):
        raise UserError(f"{path} holds no list of objects; write [{{...}}, {{...}}]")
    for number, row in enumerate(content, 1):
        if not isinstance(row, dict):
            raise UserError(f"{path}, row {number} is no JSON object")
    return {f"row {number}": row for number, row in enumerate(content, 1)}


def _list_inside(path: Path, content: Row) -> list[Any]:
    """The one list of objects under a key; without any, the object is the only row."""
    lists = [key for key, value in content.items() if _is_list_of_objects(value)]
    if len(lists) > 1:
        raise UserError(
            f"{path} holds lists of objects under {', '.join(map(repr, lists[:8]))}; keep one"
        )
    return content[lists[0]] if lists else [content] if content else []


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _csv(path: Path, data: bytes) -> dict[str, Row]:
    return _separated(path, decoded(path, data), _DELIMITERS)


def _tsv(path: Path, data: bytes) -> dict[str, Row]:
    return _separated(path, decoded(path, data), "\t")


def _separated(path: Path, text: str, delimiters: str) -> dict[str, Row]:
    with _long_cells():
        rows = _records(path, text, _delimiter(text, delimiters))
        header = [name.strip() for name in next(rows, (0, []))[1]]
        for name in header:
            if name and header.count(name) > 1:
                raise UserError(f"{path} has the column {name!r} twice; rename one of them")
        return {f"line {line}": _row(path, line, header, cells) for line, cells in rows}


def _row(path: Path, line: int, header: list[str], cells: list[str]) -> Row:
    if any(cell.strip() for cell in cells[len(header) :]):
        raise UserError(
            f"{path}, line {line} has {len(cells)} cells, and the header {len(header)}: quote a "
            'cell that holds the delimiter ("1,000")'
        )
    found = dict.fromkeys(header) | dict(zip(header, cells, strict=False))
    found.pop("", None)  # a column without a name
    return found


def _records(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of each record that is not blank."""
    # strict: else a quote that is never closed swallows all that follows.
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True
    )
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(
                f"{path}: the row that begins in line {line} is no CSV ({error}); a quote inside "
                'a quoted cell is written twice ("")'
            ) from error
        if any(cell.strip() for cell in cells):
            yield line, cells


def _delimiter(text: str, among: str) -> str:
    start = text.lstrip("\r\n")[: 1 << 16]

    def columns(delimiter: str) -> int:
        return len(next(csv.reader(io.StringIO(start, newline=""), delimiter=delimiter), ()))

    return max(among, key=columns)


@contextmanager
def _long_cells() -> Iterator[None]:
    """The limit on a cell, 131,072 characters, is the module's and not a reader's."""
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _parquet(path: Path, data: bytes) -> dict[str, Row]:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        rows = rows_of_arrow(pa.parquet.read_table(pa.BufferReader(data)))
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        told = next((line for line in str(error).splitlines() if line), type(error).__name__)
        raise UserError(f"{path} is no readable Parquet file: {told.rstrip('.')}") from error
    return {f"row {number}": row for number, row in enumerate(rows, 1)}


def rows_of_arrow(table: Any) -> list[Row]:
    """The rows of a ``pyarrow.Table``. Numbers of 32 and 16 bits, nested ones too, are the decimals
    that they stand for: 0.1 and not 0.10000000149011612."""
    rows: list[Row] = table.to_pylist()
    for column in table.schema:
        if "float" in str(column.type):  # not in double, nor in text
            for row in rows:
                row[column.name] = _shortest(row[column.name], column.type)
    return rows


def _shortest(value: Any, kind: Any) -> Any:
    """A value of an Arrow type, its short floats as the shortest decimals that stand for them."""
    import numpy as np
    import pyarrow as pa

    if value is None:
        return None
    if pa.types.is_float32(kind):
        return float(str(np.float32(value)))
    if pa.types.is_float16(kind):
        return float(str(np.float16(value)))
    if pa.types.is_dictionary(kind):
        return _shortest(value, kind.value_type)
    if pa.types.is_struct(kind):
        return {part.name: _shortest(value[part.name], part.type) for part in kind}
    if pa.types.is_map(kind):
        types = (kind.key_type, kind.item_type)
        return [tuple(map(_shortest, pair, types)) for pair in value]
    if isinstance(value, list):
        return [_shortest(item, kind.value_type) for item in value]
    return value


_READERS: dict[str, Callable[[Path, bytes], dict[str, Row]]] = {
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}

"""Rows of a JSON Lines or Parquet file."""

from pathlib import Path

from butwait.problems.source import COLUMNS, Source
from butwait.records import UserError
from butwait.running import json_lines
from butwait.running.json_lines import Row


def read_rows(path: Path) -> list[Row]:
    """All rows of a ``.jsonl`` or ``.parquet`` file; blank lines are skipped.

    Raises UserError for a file that is missing, empty or unreadable; for JSON Lines it names the
    line.
    """
    if not path.is_file():
        raise UserError(f"the problem file {path} does not exist")
    rows = _read_parquet(path) if path.suffix == ".parquet" else json_lines.read_rows(path)
    if not rows:
        raise UserError(f"the problem file {path} is empty")
    return rows


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is no readable Parquet file: {error}") from error


FILE = Source(
    matches=lambda source: source.endswith((".jsonl", ".parquet")),
    load=lambda asked: read_rows(Path(asked.source).expanduser()),
    takes=COLUMNS,
)

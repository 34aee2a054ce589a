"""Rows of a file: JSON Lines, JSON, CSV, TSV or Parquet."""

import os
from pathlib import Path

from butwait.problems.source import COLUMNS, Asked, Source
from butwait.records import UserError
from butwait.running.files import expanded
from butwait.running.json_lines import Row
from butwait.running.plugins import beside_recipe
from butwait.running.tables import names_file, read_table


def read_rows(path: Path) -> list[Row]:
    """All rows of a file that ``read_table`` reads. Raises as ``placed_rows``."""
    return list(placed_rows(path).values())


def placed_rows(path: Path) -> dict[str, Row]:
    """Place of a row in the file -> row. Raises UserError for a file that is missing, empty or
    unreadable, naming the place."""
    if not (os.path.isfile(path) or os.path.isdir(path)):  # these take names of any length
        raise UserError(f"the problem file {path} does not exist{beside_recipe(str(path))}")
    rows = read_table(path)
    if not rows:
        raise UserError(f"the problem file {path} is empty")
    return rows


def _load(asked: Asked) -> dict[str, Row]:
    if "://" in asked.source:
        raise UserError(f"{asked.source} is an address; fetch the file and give its path")
    return placed_rows(expanded(asked.source))


FILE = Source(matches=names_file, load=_load, takes=COLUMNS)

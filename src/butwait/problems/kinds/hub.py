"""Rows of a Hugging Face dataset: of the hub, or in a folder."""

import os
import re

from butwait.problems.source import COLUMNS, Asked, Source
from butwait.records import UserError
from butwait.running.files import expanded
from butwait.running.json_lines import Row
from butwait.running.plugins import beside_recipe
from butwait.running.tables import rows_of_arrow, suffixes

_ID = re.compile(r"(?![.-])[\w.-]+(/[\w.-]+)?")


def read_hub_rows(asked: Asked) -> list[Row]:
    """All rows of one split. Raises UserError where the dataset, its configuration or its split
    cannot be had."""
    place = str(expanded(asked.source))
    if os.path.isfile(place):
        raise UserError(
            f"the file {asked.source} is no table by its name; let it end in {suffixes()}"
        )
    local = os.path.isdir(place)
    if not local and not _ID.fullmatch(asked.source):
        raise UserError(
            f"there is no file or folder {asked.source}, and it is no id of a Hugging Face dataset "
            f"(owner/name){beside_recipe(asked.source)}"
        )
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    split = asked.split or "train"
    name = os.path.abspath(place) if local else asked.source  # datasets takes no "."
    try:
        dataset = load_dataset(name, asked.subset, split=split, revision=asked.revision)
        return rows_of_arrow(dataset.with_format("arrow")[:])
    except (DatasetsError, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = next((line for line in str(error).splitlines() if line), type(error).__name__)
        what = f"folder {asked.source}" if local else f"dataset {asked.source!r}"
        mend = (
            "look at its files"
            if local
            else "check the name (no folder here has it) and the network"
        )
        part = f"subset {asked.subset}, split {split}" if asked.subset else f"split {split}"
        raise UserError(
            f"the {what} ({part}) could not be loaded: "
            f"{reason.rstrip('.')}; {mend}, or give a file that ends in {suffixes()}"
        ) from error


HUB = Source(
    matches=lambda source: True,
    load=read_hub_rows,
    takes=COLUMNS | {"subset", "split", "revision"},
    rank=2,
    remote=True,
)

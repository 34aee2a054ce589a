"""Rows of a Hugging Face dataset."""

from butwait.problems.source import COLUMNS, Asked, Source
from butwait.records import UserError
from butwait.running.json_lines import Row


def read_hub_rows(asked: Asked) -> list[Row]:
    """All rows of one split. Raises UserError where the dataset, its configuration or its split
    cannot be had."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    split = asked.split or "train"
    try:
        dataset = load_dataset(asked.source, asked.subset, split=split, revision=asked.revision)
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = next((line for line in str(error).splitlines() if line), type(error).__name__)
        raise UserError(
            f"the dataset {asked.source!r} (subset {asked.subset}, split {split}) could not "
            f"be loaded: {reason.rstrip('.')}; check the name and the network, or give a .jsonl "
            "or .parquet file"
        ) from error
    return dataset.to_list()


HUB = Source(
    matches=lambda source: True,
    load=read_hub_rows,
    takes=COLUMNS | {"subset", "split", "revision"},
    rank=2,
    remote=True,
)

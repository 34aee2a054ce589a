"""Rows of a Hugging Face dataset."""

from butwait.problems.settings import ProblemSetSettings
from butwait.problems.tables import Row
from butwait.records import UserError


def read_hub_rows(settings: ProblemSetSettings) -> list[Row]:
    """All rows of one split. Raises UserError where the dataset, its configuration or its split
    cannot be had."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    split = settings.split or "train"
    try:
        dataset = load_dataset(
            settings.source, settings.subset, split=split, revision=settings.revision
        )
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = next((line for line in str(error).splitlines() if line), type(error).__name__)
        raise UserError(
            f"the dataset {settings.source!r} (subset {settings.subset}, split {split}) could not "
            f"be loaded: {reason.rstrip('.')}; check the name and the network, or give a .jsonl "
            "or .parquet file"
        ) from error
    return dataset.to_list()

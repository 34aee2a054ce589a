"""Examples on disk: a Hugging Face data set, one row an example.

Columns: ``problem_id``, ``prompt_ids``, ``completion_ids``, ``loss_mask``, ``spans`` (role, start,
end, text), ``prompt`` (chat messages), ``text``, ``tokenizer_fingerprint`` and ``provenance``
(JSON). ``datasets.load_from_disk`` reads it without butwait.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Dataset, Features, List, Value

from butwait.records import Example, Span, UserError
from butwait.running.files import atomic_path

_FEATURES = Features(
    {
        "problem_id": Value("string"),
        "prompt_ids": List(Value("int32")),
        "completion_ids": List(Value("int32")),
        "loss_mask": List(Value("bool")),
        "spans": List(
            {
                "role": Value("string"),
                "start": Value("int32"),
                "end": Value("int32"),
                "text": Value("string"),
            }
        ),
        "prompt": List({"role": Value("string"), "content": Value("string")}),
        "text": Value("string"),
        "tokenizer_fingerprint": Value("string"),
        "provenance": Value("string"),
    }
)


def save_examples(folder: Path, examples: Sequence[Example]) -> None:
    """Writes the examples to ``folder`` (datasets.save_to_disk), whole or not at all.

    Raises UserError for no examples: there would be nothing to train on.
    """
    if not examples:
        raise UserError(
            f"there is no example to write to {folder}: no solution could be used; search more "
            "questions or with more particles"
        )
    columns = [_row(example) for example in examples]
    with quiet_datasets(), atomic_path(folder) as temporary:
        Dataset.from_list(columns, features=_FEATURES).save_to_disk(temporary)


def load_examples(folder: Path) -> list[Example]:
    """The examples that ``save_examples`` wrote, in their order.

    Raises UserError where there is no data set, it cannot be read, is empty or lacks columns.
    """
    if not folder.is_dir():
        raise UserError(f"there is no data set in {folder}; run the stage that makes it first")
    try:
        dataset = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"{folder} holds no readable data set, or an empty one ({type(error).__name__}); "
            "remove it and run the stage that makes it again"
        ) from error
    if not isinstance(dataset, Dataset):
        raise UserError(f"{folder} holds several splits; give the folder of one of them")
    missing = sorted(_FEATURES.keys() - set(dataset.column_names))
    if missing:
        raise UserError(
            f"the data set in {folder} has no column {missing[0]!r}; its columns must be "
            f"{', '.join(_FEATURES)}"
        )
    return [_example(row) for row in dataset.select_columns(list(_FEATURES))]


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """No progress bars of the datasets library: butwait shows its own."""
    if datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def _row(example: Example) -> dict[str, Any]:
    return {name: getattr(example, name) for name in _FEATURES} | {
        "spans": [asdict(span) for span in example.spans],
        "provenance": json.dumps(example.provenance, sort_keys=True),
    }


def _example(row: dict[str, Any]) -> Example:
    ids = {name: np.array(row[name], dtype=np.int32) for name in ("prompt_ids", "completion_ids")}
    rest = {
        "loss_mask": np.array(row["loss_mask"], dtype=bool),
        "spans": tuple(Span(**span) for span in row["spans"]),
        "provenance": json.loads(row["provenance"]),
    }
    return Example(**row | ids | rest)

"""Seconds of wall time, beside the shards of trees: they differ from run to run, trees do not."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from butwait.records import SearchTree, Timings
from butwait.running.shards import Aside

SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("total", pa.float64()),
        ("generation", pa.list_(pa.float32())),  # (K,), as the tree's nodes
        ("scoring", pa.list_(pa.float32())),  # (K,)
    ]
)


def write_timings(path: Path, trees: Sequence[SearchTree]) -> None:
    """One row a tree that has timings, in order."""
    rows = [
        {
            "problem_id": tree.problem_id,
            "total": tree.timings.total,
            "generation": tree.timings.generation,
            "scoring": tree.timings.scoring,
        }
        for tree in trees
        if tree.timings is not None
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path, compression="zstd")


def read_timings(path: Path) -> dict[str, Timings]:
    """The timings in one file, by problem id. Nothing where the file is missing or damaged: what
    depends on them can do without."""
    try:
        table = pq.read_table(path, schema=SCHEMA)
    except (OSError, pa.ArrowException):
        return {}
    columns = {name: table[name] for name in SCHEMA.names}
    return {
        columns["problem_id"][i].as_py(): Timings(
            columns["total"][i].as_py(),
            _array(columns["generation"][i]),
            _array(columns["scoring"][i]),
        )
        for i in range(table.num_rows)
    }


def restore_timings(path: Path, trees: Sequence[SearchTree]) -> None:
    """Gives trees their timings back."""
    known = read_timings(path)
    for tree in trees:
        tree.timings = known.get(tree.problem_id)


def _array(scalar: pa.Scalar) -> np.ndarray:
    return scalar.values.to_numpy(zero_copy_only=False)


TIMINGS = Aside("timings-", write_timings, restore_timings)
"""``timings-shard-00000.parquet`` beside ``shard-00000.parquet``."""

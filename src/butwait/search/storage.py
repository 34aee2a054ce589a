"""Search trees on disk: one Parquet file a shard, one row and one row group a tree.

Columns are flat lists, laid out in ``docs/trees.md``. A tree comes back exactly as it was, and
identical trees make identical bytes: a file holds no time and no host name. Seconds of wall time,
which differ from run to run, stand in a folder of their own, a file for each shard.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from butwait.records import SearchTree, Timings, UserError
from butwait.running.shards import Aside
from butwait.running.stages import check_whole, read_stage
from butwait.search import outline
from butwait.search.outline import Outline
from butwait.search.rows import SCHEMA, SCHEMA_VERSION, SCORED, from_row, has_scores, to_row

Row = TypeVar("Row")

FORMAT_KEY = b"butwait.trees"
"""Key of the schema version in a file's metadata."""

_SPLIT_BYTES = {
    f"{column}.list.element": "BYTE_STREAM_SPLIT"
    for column in ("logprobs", "reward_logits", "population_log_weights", "log_weights")
}
"""Floats compress better when their bytes are stored apart."""

_DAMAGE = (pa.ArrowException, OSError, ValueError, IndexError)
"""What broken bytes raise: in Parquet's own structure, or in columns that contradict each other."""


def write_shard(path: Path, trees: Sequence[SearchTree]) -> None:
    """Writes trees as one file; a write that breaks off leaves a part (``map_shards`` writes under
    another name first). Timings are left out.

    Raises:
        ValueError: no trees, or two trees of one problem.
    """
    ids = [tree.problem_id for tree in trees]
    if not ids or len(set(ids)) < len(ids):
        raise ValueError("a shard holds at least one tree and at most one a problem")
    columns = SCORED if any(map(has_scores, trees)) else SCHEMA
    schema = columns.with_metadata({FORMAT_KEY: str(SCHEMA_VERSION).encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=False,
        column_encoding=_SPLIT_BYTES,
        write_page_checksum=True,
    ) as writer:
        for tree in trees:
            writer.write_table(to_row(tree, columns).replace_schema_metadata(schema.metadata))


def read_shard(path: Path) -> list[SearchTree]:
    """All trees of one file, in order. UserError where the file is not a whole shard of trees."""
    return list(_Shard(path).trees())


def read_tree(path: Path, problem_id: str) -> SearchTree:
    """One tree, without reading the others.

    Args:
        path: a shard, or a folder of shards.
        problem_id: whose tree.

    Raises:
        UserError: no such tree, no shards, or a shard that is not whole.
    """
    for shard in shard_paths(path):
        opened = _Shard(shard)
        if problem_id in (ids := opened.problem_ids()):
            return opened.tree(ids.index(problem_id))
    raise UserError(
        f"no tree of problem {problem_id!r} in {path}; `butwait trees` without --problem shows "
        "which problems there are"
    )


def read_trees(path: Path) -> Iterator[SearchTree]:
    """All trees of a shard or a folder of shards, one in memory at a time."""
    for shard in shard_paths(path):
        yield from _Shard(shard).trees()


def read_outlines(path: Path) -> Iterator[Outline]:
    """The outlines of all trees of a shard or a folder of shards; tokens and texts, which are most
    of the bytes, are not read."""
    for shard in shard_paths(path):
        yield from _Shard(shard).outlines()


def problem_ids(path: Path) -> dict[str, Path]:
    """Problem ids of a shard or a folder of shards, in order, with the file each is in."""
    return {i: shard for shard in shard_paths(path) for i in _Shard(shard).problem_ids()}


def shard_paths(path: Path) -> list[Path]:
    """The shards of a folder in order (or the one file given). UserError where there are none, and
    where some of a finished stage's are gone."""
    if path.is_file():
        return [path]
    check_whole(path)
    shards = sorted(path.glob("shard-*.parquet"))
    if not shards:
        stage = read_stage(path.parent)
        if stage is not None and stage.complete:
            raise UserError(
                f"the search trees of the finished stage {path.parent} are gone; remove its folder "
                "and run its recipe again"
            )
        raise UserError(
            f"no search trees in {path}; give the folder of a search stage (RUN/STAGE), and run "
            "the stage first"
        )
    return shards


class _Shard:
    """One open file. Whatever is wrong with its bytes becomes a UserError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
            schema = self._file.schema_arrow
            version = int((schema.metadata or {}).get(FORMAT_KEY, 0))
        except FileNotFoundError:
            raise UserError(f"there is no file of search trees at {path}") from None
        except _DAMAGE as error:
            raise self._broken() from error
        if version and version != SCHEMA_VERSION:
            age = "newer" if version > SCHEMA_VERSION else "older"
            raise UserError(
                f"{path} holds search trees of format {version} and this butwait reads format "
                f"{SCHEMA_VERSION}; read it with the {age} butwait that wrote it, or delete the "
                "stage's folder and run it again"
            )
        known = schema.equals(SCHEMA) or schema.equals(SCORED)
        if not version or not known or not self._file.num_row_groups:
            raise self._broken()
        self._columns: list[str] = schema.names

    def problem_ids(self) -> list[str]:
        """Ids of the trees, in order: from the footer, where each row group's one id stands as its
        least and its greatest."""
        groups = map(self._file.metadata.row_group, range(self._file.num_row_groups))
        statistics = [group.column(0).statistics for group in groups]
        if all(found is not None and found.has_min_max for found in statistics):
            return [found.min for found in statistics]
        # Parquet keeps no statistics of very long ids.
        return self._read(range(self._file.num_row_groups), ["problem_id"])[
            "problem_id"
        ].to_pylist()

    def tree(self, index: int) -> SearchTree:
        """One tree by its position."""
        return self._row(index, self._columns, from_row)

    def trees(self) -> Iterator[SearchTree]:
        return map(self.tree, range(self._file.num_row_groups))

    def outlines(self) -> Iterator[Outline]:
        for index in range(self._file.num_row_groups):
            yield self._row(index, outline.COLUMNS, outline.from_row)

    def _row(
        self, index: int, columns: Sequence[str], parse: Callable[[dict[str, pa.Scalar]], Row]
    ) -> Row:
        table = self._read([index], columns)
        try:
            return parse({name: table[name].chunk(0)[0] for name in columns})
        except _DAMAGE as error:
            raise self._broken() from error

    def _read(self, row_groups: Sequence[int], columns: Sequence[str]) -> pa.Table:
        try:
            return self._file.read_row_groups(
                list(row_groups), columns=list(columns), use_threads=False
            )
        except _DAMAGE as error:
            raise self._broken() from error

    def _broken(self) -> UserError:
        return UserError(
            f"{self._path} is empty, damaged or no file of search trees; delete it and run the "
            "recipe again: only its trees are computed anew"
        )


_TIMINGS_SCHEMA = pa.schema(
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
    pq.write_table(pa.Table.from_pylist(rows, schema=_TIMINGS_SCHEMA), path, compression="zstd")


def read_timings(path: Path) -> dict[str, Timings]:
    """The timings in one file, by problem id. Nothing where the file is missing or damaged: what
    depends on them can do without."""
    try:
        table = pq.read_table(path, schema=_TIMINGS_SCHEMA)
    except (OSError, pa.ArrowException):
        return {}
    return {
        problem_id.as_py(): Timings(total.as_py(), _array(generation), _array(scoring))
        for problem_id, total, generation, scoring in zip(*table.columns, strict=True)
    }


def restore_timings(path: Path, trees: Sequence[SearchTree]) -> None:
    """Gives trees their timings back."""
    known = read_timings(path)
    for tree in trees:
        tree.timings = known.get(tree.problem_id)


def _array(scalar: pa.Scalar) -> np.ndarray:
    return scalar.values.to_numpy(zero_copy_only=False)


TIMINGS = Aside("timings", write_timings, restore_timings)
"""``timings/shard-00000.parquet`` for ``trees/shard-00000.parquet``, so that the folder of trees
holds one row a tree."""

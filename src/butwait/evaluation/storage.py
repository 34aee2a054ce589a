"""Attempts on disk: Parquet shards, some problems in each."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from butwait.records import Attempt, UserError
from butwait.running.shards import SPOOLED

SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("sample", pa.int32()),
        ("text", pa.string()),
        ("finish", pa.string()),
        ("answer", pa.string()),
        ("status", pa.string()),
        ("tokens", pa.int64()),
        ("reward_tokens", pa.int64()),
        ("length", pa.int64()),
        ("answer_class", pa.int32()),
    ]
)
"""One row an attempt: the fields of ``records.Attempt``."""
SCORED = SCHEMA.append(pa.field("score", pa.float64()))
"""Of a file in which any attempt has a score."""


def write_shard(path: Path, problems: Sequence[Sequence[Attempt]]) -> None:
    """Writes the attempts at several problems, problem by problem. The same attempts give the
    same bytes."""
    rows = [asdict(attempt) for attempts in problems for attempt in attempts]
    schema = SCORED if any(row["score"] is not None for row in rows) else SCHEMA
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")


def read_shard(
    path: Path, *, texts: bool = True, problem: str | None = None
) -> list[list[Attempt]]:
    """The attempts in one file, a list for every problem, in stored order.

    Args:
        path: the file.
        texts: whether to read the completions; they are most of the bytes and no rate needs them.
            Without them every ``text`` is empty.
        problem: read its attempts alone, if the file has some.

    Raises UserError where the file is empty, unreadable or no file of attempts.
    """
    try:
        names = pq.read_schema(path).names
        if names not in (SCHEMA.names, SCORED.names):
            raise _unreadable(path, f"its columns are {', '.join(names)}")
        columns = [name for name in names if texts or name != "text"]
        only = None if problem is None else [("problem_id", "==", problem)]
        rows = pq.read_table(path, columns=columns, filters=only).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, str(error).partition("\n")[0]) from error
    if not rows and problem is None:
        raise _unreadable(path, "it holds no attempt")
    attempts = (Attempt(**{"text": "", **row}) for row in rows)
    return [list(group) for _, group in groupby(attempts, key=lambda row: row.problem_id)]


def read_attempts(folder: Path, *, texts: bool = True) -> list[Attempt]:
    """All stored attempts of one method on one set, in order; ``texts`` as in ``read_shard``.

    Raises UserError where there are none or a shard cannot be read.
    """
    shards = sorted(folder.glob("shard-*.parquet"))
    if not shards:
        raise UserError(f"{folder} holds no attempts; run the evaluation's stage first")
    return [row for shard in shards for rows in read_shard(shard, texts=texts) for row in rows]


def stored_problems(
    folder: Path, *, texts: bool = True, problem: str | None = None
) -> Iterator[list[Attempt]]:
    """The attempts at each problem of one method on one set, file by file, also those of an
    evaluation that is still at work. Arguments as of ``read_shard``.

    Raises UserError where a file cannot be read.
    """
    seen: set[str] = set()
    read: set[Path] = set()
    while new := [
        path
        for pattern in ("shard-*.parquet", SPOOLED)
        for path in sorted(folder.glob(pattern))
        if path not in read
    ]:  # again, as shards are made of spooled files meanwhile
        read.update(new)
        for path in new:
            try:
                found = read_shard(path, texts=texts, problem=problem)
            except UserError:
                if path.exists():
                    raise
                continue
            for rows in found:
                if rows[0].problem_id not in seen:
                    seen.add(rows[0].problem_id)
                    yield rows


def _unreadable(path: Path, why: str) -> UserError:
    return UserError(
        f"{path} is not a readable file of attempts ({why}); delete it and run the same command "
        "again: only its problems are attempted anew"
    )

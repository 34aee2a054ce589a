"""Attempts on disk: Parquet shards, some problems in each."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from butwait.records import Attempt, AttemptTokens, UserError
from butwait.running.shards import SPOOLED
from butwait.running.stages import check_whole

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
"""One row an attempt: the fields of ``records.Attempt`` that every file has."""
SCORE = pa.field("score", pa.float64())
"""Of a file in which any attempt has a score."""
TOKENS = (
    pa.field("token_characters", pa.list_(pa.int32())),
    pa.field("token_logprobs", pa.list_(pa.float16())),
)
"""(n,) each, of a file in which any attempt has ``by_token``; null for one that has none."""
TOKEN_NAMES = [field.name for field in TOKENS]
_SHAPES = [
    [*SCHEMA.names, *score, *tokens] for score in ([], [SCORE.name]) for tokens in ([], TOKEN_NAMES)
]
GROUP_TOKENS = 1 << 20
"""About so many tokens are in one row group, so that a few attempts are read, and all are written,
in bounded memory; a problem's attempts stay together."""


def write_shard(path: Path, problems: Sequence[Sequence[Attempt]]) -> None:
    """Writes the attempts at several problems, problem by problem. The same attempts give the
    same bytes."""
    everything = [attempt for attempts in problems for attempt in attempts]
    schema = SCHEMA
    if any(attempt.score is not None for attempt in everything):
        schema = schema.append(SCORE)
    if any(attempt.by_token is not None for attempt in everything):
        schema = pa.schema([*schema, *TOKENS])
    # Hardly two log-probabilities are alike: a dictionary of them would make them larger.
    alike = [name for name in schema.names if name not in TOKEN_NAMES]
    alike.append(f"{TOKENS[0].name}.list.element")
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=alike) as writer:
        for group in _groups(problems):
            writer.write_table(pa.Table.from_pylist([_row(a) for a in group], schema=schema))


def _groups(problems: Sequence[Sequence[Attempt]]) -> Iterator[list[Attempt]]:
    """The attempts of each row group; one at least."""
    group: list[Attempt] = []
    tokens = 0
    for attempts in problems:
        own = sum(len(a.by_token.logprobs) for a in attempts if a.by_token is not None)
        if group and tokens + own > GROUP_TOKENS:
            yield group
            group, tokens = [], 0
        group += attempts
        tokens += own
    yield group


def _row(attempt: Attempt) -> dict[str, Any]:
    names = [*SCHEMA.names, SCORE.name]
    found = attempt.by_token
    by_token = (None, None) if found is None else (found.characters, found.logprobs)
    row = {name: getattr(attempt, name) for name in names}
    return row | dict(zip(TOKEN_NAMES, by_token, strict=True))


def read_shard(
    path: Path, *, texts: bool = True, tokens: bool = False, problem: str | None = None
) -> list[list[Attempt]]:
    """The attempts in one file, a list for every problem, in stored order.

    Args:
        path: the file.
        texts: whether to read the completions; they are most of the bytes and no rate needs them.
            Without them every ``text`` is empty.
        tokens: whether to read ``by_token``, of files that have it: 6 bytes of memory a token.
        problem: read its attempts alone, if the file has some.

    Raises UserError where the file is empty, unreadable or no file of attempts.
    """
    try:
        names = pq.read_schema(path).names
        if names not in _SHAPES:
            raise _unreadable(path, f"its columns are {', '.join(names)}")
        left_out = ([] if texts else ["text"]) + ([] if tokens else TOKEN_NAMES)
        columns = [name for name in names if name not in left_out]
        only = None if problem is None else [("problem_id", "==", problem)]
        table = pq.read_table(path, columns=columns, filters=only)
        by_token = _by_token(table)
        rows = table.select([n for n in columns if n not in TOKEN_NAMES]).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, str(error).partition("\n")[0]) from error
    if not rows and problem is None:
        raise _unreadable(path, "it holds no attempt")
    attempts = (
        Attempt(**{"text": "", **row}, by_token=own)
        for row, own in zip(rows, by_token, strict=True)
    )
    return [list(group) for _, group in groupby(attempts, key=lambda row: row.problem_id)]


def _by_token(table: pa.Table) -> list[AttemptTokens | None]:
    """Of every row of a table that may have the columns; (n,) each."""
    if not set(TOKEN_NAMES) <= set(table.column_names):
        return [None] * table.num_rows
    pairs = zip(*(table[name] for name in TOKEN_NAMES), strict=True)
    return [
        AttemptTokens(*(array.values.to_numpy(zero_copy_only=False) for array in pair))
        if all(array.is_valid for array in pair)
        else None
        for pair in pairs
    ]


def read_attempts(folder: Path, *, texts: bool = True, tokens: bool = False) -> list[Attempt]:
    """All stored attempts of one method on one set, in order; arguments as of ``read_shard``.

    Raises UserError where there are none, a shard cannot be read, or some of a finished stage's
    are gone.
    """
    check_whole(folder)
    shards = sorted(folder.glob("shard-*.parquet"))
    if not shards:
        raise UserError(f"{folder} holds no attempts; run the evaluation's stage first")
    read = partial(read_shard, texts=texts, tokens=tokens)
    return [row for shard in shards for rows in read(shard) for row in rows]


def stored_problems(
    folder: Path, *, texts: bool = True, tokens: bool = False, problem: str | None = None
) -> Iterator[list[Attempt]]:
    """The attempts at each problem of one method on one set, file by file, also those of an
    evaluation that is still at work. Arguments as of ``read_shard``.

    Raises UserError where a file cannot be read, or some of a finished evaluation's are gone.
    """
    check_whole(folder)
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
                found = read_shard(path, texts=texts, tokens=tokens, problem=problem)
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
        f"{path} is not a readable file of attempts ({why}); delete it and run the recipe "
        "again: only its problems are attempted anew"
    )

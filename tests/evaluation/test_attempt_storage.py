"""Attempts on disk."""

import math
from dataclasses import asdict, fields, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from butwait.evaluation import storage
from butwait.evaluation.storage import (
    SCHEMA,
    SCORE,
    TOKEN_NAMES,
    read_attempts,
    read_shard,
    stored_problems,
    write_shard,
)
from butwait.records import Attempt, AttemptTokens, UserError

ATTEMPTS = [
    Attempt("p0", 0, "Sum: 1\n\\boxed{½}", "box", "½", "correct", 12, 5, 9, 0),
    Attempt("p0", 1, "…", "length", None, "truncated", 64, 0, 64, None),
    Attempt("p1", 0, "", "eos", None, "no_answer", 1, 0, 1, None),
]


def tokens(characters: list[int], logprobs: list[float]) -> AttemptTokens:
    return AttemptTokens(np.array(characters, np.int32), np.array(logprobs, np.float16))


BY_TOKEN = [
    tokens([4, 2, 0, 9], [-0.25, -1.5, math.nan, -6.1035e-05]),
    tokens([0, 1], [-14, -1000]),
    tokens([0], [0]),
]
KEPT = [replace(attempt, by_token=own) for attempt, own in zip(ATTEMPTS, BY_TOKEN, strict=True)]


def test_the_columns_are_the_fields_of_an_attempt():
    names = [field.name for field in fields(Attempt)]
    assert [*SCHEMA.names, SCORE.name, "by_token"] == names
    assert [field.name for field in fields(AttemptTokens)] == ["characters", "logprobs"]
    assert TOKEN_NAMES == ["token_characters", "token_logprobs"]


def test_tokens_are_kept_where_there_are_any_and_read_where_asked_for(tmp_path):
    path = tmp_path / "shard-00000.parquet"
    write_shard(path, [KEPT[:2], KEPT[2:]])
    assert pq.read_schema(path).names == [*SCHEMA.names, *TOKEN_NAMES]
    found = read_shard(path, tokens=True)
    assert found == [KEPT[:2], KEPT[2:]]
    by_token = found[0][0].by_token
    assert (by_token.characters.dtype, by_token.logprobs.dtype) == (np.int32, np.float16)
    assert by_token.logprobs.tolist()[:2] == [-0.25, -1.5]
    assert read_attempts(tmp_path, tokens=True) == KEPT
    assert read_attempts(tmp_path) == ATTEMPTS
    assert read_shard(path, tokens=True, problem="p1") == [KEPT[2:]]
    assert list(stored_problems(tmp_path, tokens=True)) == found
    assert KEPT[0] != replace(KEPT[0], by_token=BY_TOKEN[1])
    assert len({*KEPT, *KEPT}) == 3


def test_an_attempt_without_tokens_may_stand_beside_others(tmp_path):
    path, scored = tmp_path / "shard-00000.parquet", replace(KEPT[1], score=0.5)
    write_shard(path, [[ATTEMPTS[0], scored]])
    assert pq.read_schema(path).names == [*SCHEMA.names, SCORE.name, *TOKEN_NAMES]
    assert read_shard(path, tokens=True) == [[ATTEMPTS[0], scored]]


def test_files_of_before_are_read(tmp_path):
    """As they were written when attempts had no tokens."""
    rows = [
        {k: v for k, v in asdict(a).items() if k not in ("score", "by_token")} for a in ATTEMPTS
    ]
    path = tmp_path / "shard-00000.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path, compression="zstd")
    before = path.read_bytes()
    assert read_attempts(tmp_path, tokens=True) == ATTEMPTS
    write_shard(path, [ATTEMPTS])
    assert path.read_bytes() == before


def test_many_tokens_are_in_several_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "GROUP_TOKENS", 6)
    path = tmp_path / "shard-00000.parquet"
    more = replace(KEPT[2], problem_id="p2")
    write_shard(path, [KEPT[:2], KEPT[2:], [more]])
    assert pq.ParquetFile(path).num_row_groups == 2  # 4 + 2 tokens, then 1 + 1
    assert read_shard(path, tokens=True) == [KEPT[:2], KEPT[2:], [more]]


def test_scores_are_kept_where_there_are_any(tmp_path):
    path, scored = tmp_path / "shard-00000.parquet", [replace(ATTEMPTS[0], score=0.25), ATTEMPTS[1]]
    write_shard(path, [scored])
    assert read_shard(path) == [scored]
    assert pq.read_schema(path).names == [*SCHEMA.names, SCORE.name]
    assert read_attempts(tmp_path, texts=False)[0].score == 0.25
    write_shard(path, [ATTEMPTS])
    assert pq.read_schema(path).names == SCHEMA.names


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "shard-00000.parquet"
    write_shard(path, [ATTEMPTS[:2], ATTEMPTS[2:]])
    assert read_shard(path) == [ATTEMPTS[:2], ATTEMPTS[2:]]
    assert read_attempts(tmp_path) == ATTEMPTS


def test_texts_can_be_left_out(tmp_path):
    write_shard(tmp_path / "shard-00000.parquet", [ATTEMPTS[:2], ATTEMPTS[2:]])
    assert read_attempts(tmp_path, texts=False) == [replace(a, text="") for a in ATTEMPTS]


def test_the_same_attempts_are_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_shard(tmp_path / name, [KEPT])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "shard-00000.parquet"
    pq.write_table(pa.table({"problem_id": ["p0"]}), path)
    with pytest.raises(UserError, match="its columns are problem_id"):
        read_shard(path)
    pq.write_table(SCHEMA.empty_table(), path)
    with pytest.raises(UserError, match="it holds no attempt"):
        read_attempts(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match="delete it and run the recipe again"):
        read_shard(path)

"""Attempts on disk."""

from dataclasses import fields, replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from butwait.evaluation.storage import SCHEMA, SCORED, read_attempts, read_shard, write_shard
from butwait.records import Attempt, UserError

ATTEMPTS = [
    Attempt("p0", 0, "Sum: 1\n\\boxed{½}", "box", "½", "correct", 12, 5, 9, 0),
    Attempt("p0", 1, "…", "length", None, "truncated", 64, 0, 64, None),
    Attempt("p1", 0, "", "eos", None, "no_answer", 1, 0, 1, None),
]


def test_the_columns_are_the_fields_of_an_attempt():
    assert SCORED.names == [field.name for field in fields(Attempt)]
    assert [*SCHEMA.names, "score"] == SCORED.names


def test_scores_are_kept_where_there_are_any(tmp_path):
    path, scored = tmp_path / "shard-00000.parquet", [replace(ATTEMPTS[0], score=0.25), ATTEMPTS[1]]
    write_shard(path, [scored])
    assert read_shard(path) == [scored]
    assert pq.read_schema(path).names == SCORED.names
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
        write_shard(tmp_path / name, [ATTEMPTS])
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
    with pytest.raises(UserError, match="delete it and run the same command again"):
        read_shard(path)

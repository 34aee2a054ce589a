"""Rows of JSON Lines files, as strange as a model's text can make them."""

from pathlib import Path

import pytest

from butwait.records import UserError
from butwait.running.json_lines import dump_rows, numbered_rows, read_log, read_rows

STRANGE = "a\u2028b\u2029c\x85d\x1ce\x0bf\x0cg\nh"
"""Everything at which ``str.splitlines`` breaks a text."""


def test_rows_come_back(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(dump_rows([{"text": STRANGE}, {"text": "ü"}]), encoding="utf-8")
    assert read_rows(path) == read_log(path) == [{"text": STRANGE}, {"text": "ü"}]
    path.write_text('{"a": 1}\n\n \n{"a": 2}')
    assert numbered_rows(path) == {1: {"a": 1}, 4: {"a": 2}}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"a": 1}\n{"a": \n', "line 2 is no JSON"),
        (b"\n3\n", "line 2 is no JSON object"),
        (b'{"a": "\xff"}\n', r"is not UTF-8 text \(byte 7\)"),
        (None, r"cannot be read \(No such file or directory\)"),
    ],
)
def test_what_is_no_row_is_named(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    path = tmp_path / "rows.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"rows\.jsonl,? {sentence}"):
        read_rows(path)


def test_a_log_is_read_up_to_where_a_crash_cut_it(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert read_log(path) == []
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"text": "\xc3')
    assert read_log(path) == [{"step": 1}, {"step": 2}]

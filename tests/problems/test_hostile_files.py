"""Files as strange as they come: the right rows or one sentence, and never anything else."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from butwait.problems.settings import Columns, ProblemSetSettings
from butwait.problems.sources import load_problems
from butwait.records import Problem, UserError
from butwait.running.json_lines import dump_rows

TEXTS = st.text(st.characters(exclude_categories=()), max_size=20)
NUMBERS = st.integers() | st.floats() | st.integers(10**4_298, 10**4_299)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS | st.sampled_from(["", "7", "proof", "2,000"]),
    lambda inside: (
        st.lists(inside, max_size=3) | st.dictionaries(TEXTS, inside, max_size=3) | TEXTS
    ),
    max_leaves=4,
)
ROWS = st.lists(
    st.dictionaries(
        st.sampled_from(["question", "answer", "id", "a.b", "a", "note"]), VALUES, max_size=6
    ),
    max_size=4,
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "accept_any": st.booleans(),
        "answer_separator": st.sampled_from([",", " or "]),
        "answer_after": st.just("#"),
        "answer_kind": st.sampled_from(["auto", "integer", "math"]),
        "drop_answers": st.just(("proof", "")),
        "drop_unanswered": st.booleans(),
        "repeated_ids": st.sampled_from(["error", "number"]),
        "columns": st.sampled_from(
            [Columns(), Columns(answer="a.b"), Columns(metadata=("note", "a"), solution="note")]
        ),
    },
)
SUFFIXES = [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".CSV.GZ"]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "latin-1", "cp1252"]
NUMBERED = 120
FOUND = settings(
    max_examples=40,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def load(source: str, options: dict[str, Any]) -> list[Problem] | None:
    """The problems, checked; None where one sentence says why there are none."""
    try:
        problems = load_problems(ProblemSetSettings(source=source, **options))
    except UserError as error:
        sentence = str(error).replace(source, "")
        problems = []
    if not problems:
        assert "\n" not in sentence
        assert len(sentence) < 3_000
        return None
    assert len({problem.id for problem in problems}) == len(problems)
    for problem in problems:
        assert problem.question == problem.question.strip() != ""
        assert problem.id
        assert all(isinstance(gold, str) and gold for gold in problem.golds)
        assert problem.golds
    dump_rows(problem.row() for problem in problems).encode()  # as a run keeps them
    return problems


@FOUND
@given(ROWS, OPTIONS)
def test_rows_of_any_values(tmp_path: Path, rows: list[dict], options: dict[str, Any]) -> None:
    found = []
    for suffix, text in ((".json", json.dumps(rows)), (".jsonl", dump_rows(rows))):
        path = tmp_path / f"rows{suffix}"
        path.write_text(text, encoding="utf-8")
        problems = load(str(path), options)
        found.append(problems and [(p.id, p.question, p.golds, str(p.metadata)) for p in problems])
    assert found[0] == found[1]


@FOUND
@given(
    st.sampled_from(SUFFIXES),
    st.binary(max_size=60)
    | st.builds(
        lambda text, encoding: text.encode(encoding, "replace"),
        st.text(st.sampled_from('{}[]",:;\t\n\r qa1é\ufeff\x00') | st.characters(), max_size=60),
        st.sampled_from(ENCODINGS),
    ),
)
def test_any_bytes(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"bytes{suffix}"
    path.write_bytes(gzip.compress(content, mtime=0) if len(content) % 3 == 0 else content)
    load(str(path), {})


@FOUND
@given(st.text(st.sampled_from("a./:~\\ *?[]\x00é-_") | st.characters(codec="utf-8"), max_size=12))
def test_any_name_of_a_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as error:
        load_problems(ProblemSetSettings(source=f"{tmp_path}/{name}.jsonl"))
    assert "on the Hub" not in str(error.value)


GOOD = [{"id": f"i{i}", "question": f'q {i}, "x"\n', "answer": f"{i}"} for i in range(6)]


def damaged(number: int) -> tuple[str, bytes]:
    """Suffix and content of the file number ``number``: a good file with one damage."""
    writers: list[tuple[str, Callable[[], bytes]]] = [
        (".jsonl", lambda: dump_rows(GOOD).encode()),
        (".json", lambda: json.dumps(GOOD, indent=number % 3 or None).encode()),
        (".json", lambda: json.dumps({"data": GOOD, "n": 1}).encode()),
        (".csv", lambda: _separated(",")),
        (".csv", lambda: _separated(";")),
        (".tsv", lambda: _separated("\t")),
        (".parquet", _parquet),
    ]
    suffix, write = writers[number % len(writers)]
    content = write()
    at = (number * 7919) % len(content)
    piece = [b"\x00", b'"', b",", b"\n", b"\xff", b"{", b"\x1b[31m", b"\xed\xa0\xbd", b"}\r\n"]
    odd = piece[number // 7 % len(piece)]
    damages = [
        content[:at] + odd + content[at:],
        content[:at] + odd + content[at + 1 :],
        content[:at],
        content[at:],
        content[:at] + content[at + 5 :],
        content + content[at:],
        content.decode("latin-1").encode(ENCODINGS[number // 3 % len(ENCODINGS)], "replace"),
    ]
    content = damages[number // 5 % len(damages)]
    if number % 4 == 0:
        suffix, content = f"{suffix}.gz", gzip.compress(content, mtime=0)
        content = content[: len(content) - number % 3]
    return suffix, content


def _separated(delimiter: str) -> bytes:
    import csv
    import io

    out = io.StringIO()
    writer = csv.DictWriter(out, ["id", "question", "answer"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(GOOD)
    return out.getvalue().encode()


def _parquet() -> bytes:
    import io

    import pyarrow as pa
    import pyarrow.parquet

    out = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(GOOD), out)
    return out.getvalue()


def check(folder: Path, numbers: range) -> None:
    outcomes = set()
    for number in numbers:
        suffix, content = damaged(number)
        path = folder / f"damaged{suffix}"
        path.write_bytes(content)
        found = load(str(path), {})
        outcomes.add(found is None)
    assert outcomes == {True, False}


def test_damaged_files(tmp_path: Path) -> None:
    check(tmp_path, range(NUMBERED))


@pytest.mark.slow
def test_many_damaged_files(tmp_path: Path) -> None:
    check(tmp_path, range(NUMBERED, 3_000))


@pytest.mark.slow
@settings(FOUND, max_examples=1_000)
@given(ROWS, OPTIONS)
def test_many_rows_of_any_values(tmp_path: Path, rows: list[dict], options: dict) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(dump_rows(rows), encoding="utf-8")
    load(str(path), options)

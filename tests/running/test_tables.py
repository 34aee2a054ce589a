"""Tables in all forms that users bring them in: the right rows, or one sentence with the place."""

import gzip
import json
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from butwait.records import UserError
from butwait.running import tables
from butwait.running.tables import names_file, read_table, rows_of_arrow

ROWS = [{"q": "a", "n": 1}, {"q": "b", "n": 2}]
compress = partial(gzip.compress, mtime=0)  # the same test on every worker
LINES = '{"q": "a", "n": 1}\n{"q": "b", "n": 2}\n'
LIST = json.dumps(ROWS, indent=1)


def table(folder: Path, name: str, content: str | bytes) -> dict[str, dict]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.jsonl", LINES),
        ("t.JSONL", LINES.replace("\n", "\r\n")),
        ("t.ndjson", "\n" + LINES.replace("\n", "\n \n")),
        ("t.jsonl", b"\xef\xbb\xbf" + LINES.encode()),
        ("t.jsonl", LINES.encode("utf-8-sig").replace(b"\n", b"\n\xef\xbb\xbf")),
        ("t.jsonl", LINES.encode("utf-16")),
        ("t.jsonl", LINES.encode("utf-16-le")),
        ("t.jsonl", LINES.encode("utf-32")),
        ("t.jsonl.gz", compress(LINES.encode())),
        ("t.Jsonl.GZ", compress(LINES[:20].encode()) + compress(LINES[20:].encode())),
        ("t.jsonl", compress(LINES.encode())),
        ("t.jsonl.gz", LINES),
        ("t.json", LINES),
        ("t.json", LIST),
        ("t.json.gz", compress(LIST.encode("utf-16"))),
        ("t.json", f'{{"version": "1.0", "data": {LIST}, "tags": ["x"]}}'),
        ("t.jsonl", '{"q": "a", "n": 1, "q": "a"}\n{"q": "b", "n": 2}'),
    ],
)
def test_json_in_every_form(tmp_path: Path, name: str, content: str | bytes) -> None:
    assert list(table(tmp_path, name, content).values()) == ROWS


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "q,n\na,1\nb,2\n"),
        ("t.CSV", b"\xef\xbb\xbfq;n\r\na;1\r\nb;2"),
        ("t.csv", "q\tn\na\t1\nb\t2\n"),
        ("t.csv", "q|n\na|1\nb|2\n"),
        ("t.csv", '"q", "n"\n"a", 1\n\n"b","2",,\n,,\n'),
        ("t.csv", "q,n,\na,1,\nb,2,\n"),
        ("t.tsv", "q\tn\na\t1\nb\t2\n"),
        ("t.tsv", "q\tn\na\t1\nb\t2\n".encode("utf-16")),
        ("t.tsv", "\tq\tn\n0\ta\t1\n1\tb\t2\n"),
        ("t.csv.gz", compress(b"q,n\ra,1\rb,2\r")),
    ],
)
def test_separated_cells_are_text(tmp_path: Path, name: str, content: str | bytes) -> None:
    rows = table(tmp_path, name, content)
    assert list(rows.values()) == [{"q": "a", "n": "1"}, {"q": "b", "n": "2"}]


def test_cells_hold_anything(tmp_path: Path) -> None:
    long = "x" * 200_000
    rows = table(tmp_path, "t.csv", f'q,n\n"a\nb, ""c"" ; \x1b\x00",007\n{long},1e3\nshort\n')
    assert rows == {
        "line 2": {"q": 'a\nb, "c" ; \x1b\x00', "n": "007"},
        "line 4": {"q": long, "n": "1e3"},
        "line 5": {"q": "short", "n": None},
    }


def test_values_of_json_are_kept(tmp_path: Path) -> None:
    digits = "9" * 5_000
    text = f'[{{"a": {digits}, "b": -{digits}, "c": "\\ud83d", "d": "raw\t\x1b", "e": 1e400}}]'
    rows = table(tmp_path, "t.json", text)
    assert rows == {
        "row 1": {
            "a": digits,
            "b": f"-{digits}",
            "c": "\ud83d",
            "d": "raw\t\x1b",
            "e": float("inf"),
        }
    }
    assert list(table(tmp_path, "t.json", '{"q": "a", "tags": ["x"]}').values()) == [
        {"q": "a", "tags": ["x"]}
    ]
    assert table(tmp_path, "t.json", " \n") == table(tmp_path, "t.csv", "") == {}
    assert table(tmp_path, "t.json", "[]") == table(tmp_path, "t.csv", "q,n\n") == {}


def test_parquet_in_every_form(tmp_path: Path) -> None:
    made = pa.table(
        {
            "q": pa.array(["a", "b"]).dictionary_encode(),
            "l": pa.array(["x", None], pa.large_string()),
            "f": pa.array([0.1, 16777217.0], pa.float32()),
            "s": [{"g": "7", "t": [1]}, {"g": "8", "t": []}],
        }
    )
    rows = [
        {"q": "a", "l": "x", "f": 0.1, "s": {"g": "7", "t": [1]}},
        {"q": "b", "l": None, "f": 16777216.0, "s": {"g": "8", "t": []}},
    ]
    pq.write_table(made, tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet") == {"row 1": rows[0], "row 2": rows[1]}
    packed = compress((tmp_path / "t.parquet").read_bytes())
    assert list(table(tmp_path, "p.parquet.gz", packed).values()) == rows
    parts = tmp_path / "parts.parquet"
    parts.mkdir()
    for name in ("b", "a"):
        pq.write_table(made.slice("ab".index(name), 1), parts / f"{name}.parquet")
    (parts / "_SUCCESS").touch()
    assert read_table(parts) == {"a.parquet, row 1": rows[0], "b.parquet, row 1": rows[1]}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("t.jsonl", LINES + '{"q": 1,}', r"line 3 is no JSON \("),
        ("t.jsonl", '{"q": 1, "q": 2}', "line 1 is no JSON .the key 'q' stands twice, with two"),
        ("t.jsonl", "\n[1]", "line 2 is no JSON object; a list of objects is read from a .json"),
        ("t.jsonl", "[" * 100_000, "line 1 is no JSON .it is nested too deep"),
        ("t.json", "[" * 100_000, "is no JSON .it is nested too deep"),
        ("t.json", '[{"q": 1},\n{"q": 2},\n]', r"line 3 is no JSON \("),
        ("t.json", LINES + "{", "line 3 is no JSON"),
        ("t.json", '"text"', "holds no list of objects"),
        ("t.json", '[{"q": 1}, 2]', "row 2 is no JSON object"),
        ("t.json", '{"a": [{"q": 1}], "b": [{"q": 2}]}', "lists of objects under .a., .b."),
        ("t.csv", "q,n\na,1,000\n", "line 2 has 3 cells, and the header 2"),
        ("t.csv", 'q,n\na,1\n"b,2\nc,3\n', "begins in line 3 is no CSV"),
        ("t.csv", 'q,n\n"say \\"a\\"",1\n', "begins in line 2 is no CSV"),
        ("t.csv", "q,q\na,1\n", "has the column 'q' twice"),
        ("t.csv", b"q,n\na,1\n\xe9,2\n", r"is not UTF-8 text \(byte 8\), see line 3"),
        ("t.jsonl", LINES.encode("utf-16")[:-1], "is not UTF-16 text"),
        ("t.jsonl.gz", compress(LINES.encode())[:-9], "is a damaged gzip file"),
        ("t.jsonl.gz", b"\x1f\x8b\x08\x00aaaaaaaaaaaa", "is a damaged gzip file"),
        ("t.csv", b"PK\x03\x04....", "is a zip archive or a workbook"),
        ("t.jsonl", b"\xfd7zXZ\x00", "packed by xz"),
        ("t.parquet", "version https://git-lfs.github.com/spec/v1\n", "run: git lfs pull"),
        ("t.parquet", b"PAR1 nothing", "is no readable Parquet file"),
        ("t.parquet", LINES, "is no readable Parquet file"),
        ("t.xlsx", b"PK\x03\x04....", "is no table by its name; give a file that ends in .jsonl"),
        ("t.jsonl.xz", LINES, "is no table by its name"),
        ("t", LINES, "is no table by its name"),
    ],
)
def test_what_is_no_table_is_one_sentence(
    tmp_path: Path, name: str, content: str | bytes, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        table(tmp_path, name, content)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400 + len(str(tmp_path))


def test_a_name_says_whether_it_is_a_file() -> None:
    files = "a.jsonl b/c.JSON d.csv.gz e.tsv f.parquet g.jsonl.xz h.zip i.txt j.tar.gz k.xlsx"
    assert all(map(names_file, files.split()))
    ids = "gsm8k openai/gsm8k a/model.v1.5 my_module:function gym:chain_sum arithmetic ./folder"
    assert not any(map(names_file, ids.split()))


def test_short_floats_at_any_depth_are_the_decimals_that_they_stand_for(tmp_path: Path) -> None:
    short, half = pa.float32(), pa.float16()
    columns = {
        "s": pa.array([{"x": 0.1, "y": "k"}, None], pa.struct([("x", short), ("y", pa.string())])),
        "l": pa.array([[0.1, None], None], pa.list_(short)),
        "h": pa.array([0.1, 2], half),
        "m": pa.array([[("k", 0.1)], []], pa.map_(pa.string(), short)),
        "d": pa.StructArray.from_arrays([pa.array(["x", "y"]).dictionary_encode()], ["q"]),
        "n": pa.array([[{"v": [0.3]}], []], pa.list_(pa.struct([("v", pa.large_list(short))]))),
        "w": pa.array([[0.1], [1 / 3]], pa.list_(pa.float64(), 1)),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert list(read_table(tmp_path / "t.parquet").values()) == [
        {"s": {"x": 0.1, "y": "k"}, "l": [0.1, None], "h": 0.1, "m": [("k", 0.1)],
         "d": {"q": "x"}, "n": [{"v": [0.3]}], "w": [0.1]},
        {"s": None, "l": None, "h": 2.0, "m": [], "d": {"q": "y"}, "n": [], "w": [1 / 3]},
    ]  # fmt: skip
    told = pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array([0.1, 0.7], short))
    assert rows_of_arrow(pa.table({"d": told})) == [{"d": 0.1}, {"d": 0.7}]


def test_gzip_files_that_hold_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_BOMB_SIZE", 1 << 16)
    packed = compress(LINES.encode())
    for content, told in (
        (compress(b'{"a": 1}\n' * (1 << 17)), "unpacks to more than 200 times its size"),
        (compress(packed), "was packed by gzip twice"),
        (packed[:-9], "is a damaged gzip file"),
        (packed + b"rubbish", "is a damaged gzip file"),
    ):
        with pytest.raises(UserError, match=told):
            table(tmp_path, "t.jsonl.gz", content)
    assert len(table(tmp_path, "t.jsonl.gz", packed + packed)) == 4  # two members are one file

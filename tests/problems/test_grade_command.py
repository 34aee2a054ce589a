"""``butwait grade`` and the bars of grading on real cases."""

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from butwait.cli.grade import grade
from butwait.problems.grading import Grader
from butwait.records import Problem, UserError

ROWS = [
    {"id": "a", "gold": "073", "pred": r"\boxed{73}"},
    {"id": 2, "gold": "073", "pred": r"\boxed{74}"},
    {"id": "ü", "gold": r"\frac{1}{2}", "pred": "The answer is 0.5."},
    {"id": "d", "gold": "x+1", "pred": r"\boxed{1+x}"},
    {"id": "e", "gold": None, "pred": r"\boxed{1}"},
    {"id": "f", "gold": r"\frac{1", "pred": r"\boxed{1}"},
    {"id": "g", "gold": "5", "pred": None},
    {"id": "h", "gold": 5, "pred": "#### 5"},
    {"id": "i", "gold": 0.30000000000000004, "pred": "The answer is 0.3."},
    {"id": "j", "gold": float("nan"), "pred": "\ud83d"},
    {"id": "k\ud83d", "gold": 1e23, "pred": r"\boxed{10^{23}}"},
]


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader() as grader:
        yield grader


def write(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_line_is_graded_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a folder" / "out.jsonl"
    grade(write(tmp_path / "in.jsonl", ROWS), out)
    assert read(out) == [
        {"id": "a", "match": True, "status": "correct"},
        {"id": 2, "match": False, "status": "wrong"},
        {"id": "ü", "match": True, "status": "correct"},
        {"id": "d", "match": True, "status": "correct"},
        {"id": "e", "match": None, "status": "ungradable"},
        {"id": "f", "match": None, "status": "ungradable"},
        {"id": "g", "match": False, "status": "no_answer"},
        {"id": "h", "match": True, "status": "correct"},
        {"id": "i", "match": True, "status": "correct"},
        {"id": "j", "match": None, "status": "ungradable"},
        {"id": "k\ud83d", "match": True, "status": "correct"},
    ]
    assert capsys.readouterr().out.endswith("6 correct, 3 ungradable, 1 wrong, 1 no_answer\n")


def test_tables_of_every_form_are_graded(
    own_folder: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    digits = "1" * 5_000
    rows = [
        {"id": "a\x1b", "gold": "2.0", "pred": "so 2"},
        {"id": "b", "gold": digits, "pred": f"\\boxed{{{digits}}}"},
    ]
    write(Path("in.jsonl"), rows)
    number = json.dumps(rows).replace(f'"gold": "{digits}"', f'"gold": {digits}')
    Path("in.json").write_text(f'{{"rows": {number}}}')
    Path("in.CSV").write_text("id,gold,pred\n" + "".join(",".join(r.values()) + "\n" for r in rows))
    Path("no suffix").write_bytes(gzip.compress(Path("in.jsonl").read_bytes()))
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), "in.parquet")
    for name in ("in.jsonl", "in.json", "in.CSV", "no suffix", "in.parquet"):
        code, out, err = command("grade", "--jsonl", name, "--out", f"{name}.out")
        assert (code, out.splitlines()[-1:], err) == (0, ["2 correct"], ""), name
        assert [row["id"] for row in read(Path(f"{name}.out"))] == ["a\x1b", "b"]


def test_an_empty_file_gives_an_empty_file(tmp_path: Path) -> None:
    grade(write(tmp_path / "in.jsonl", []), tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == ""


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"id": 1, "gold": "1", "pred": "1"}\n{oops\n', "line 2 is no JSON"),
        (b'{"id": 1, "gold": "1"}\n', "line 1: write an object with the fields id, gold, pred"),
        (b"[1]\n", "line 1 is no JSON object"),
        (
            b'{"id": 1, "gold": true, "pred": "5"}\n',
            "gold is True; write a string, a number or null",
        ),
        (b'{"id": 1, "gold": ["5"], "pred": "5"}\n', "gold is .'5'.; write a string"),
        (b'{"id": 1, "gold": {"a": "5"}, "pred": "5"}\n', "gold is {'a': '5'}; write a string"),
        (b'{"id": 1, "gold": Infinity, "pred": "5"}\n', "gold is inf; write a string"),
        (b'{"id": 1, "pred": "", "gold": ' + b"[" * 900 + b"]" * 900 + b"}", r"gold is \[{7}\.{3}"),
        (b"[" * 100_000, "line 1 is no JSON .it is nested too deep"),
        (b'{"id": 1, "gold": "5", "pred": 5}\n', "line 1: pred is 5; write a string or null"),
        (b'{"id": "\xff"}\n', "is not UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_the_old_result(
    tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("old")
    jsonl = tmp_path / "in.jsonl"
    if content is not None:
        jsonl.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        grade(jsonl, out)
    assert out.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) in (
        ["in.jsonl", "out.jsonl"],
        ["out.jsonl"],
    )


def test_gold_answers_equal_themselves_and_solutions_are_correct(shared_data: Path) -> None:
    rows = [json.loads(line) for line in (shared_data / "math500.jsonl").open()]
    with Grader() as grader:
        for row in rows:
            problem = Problem(row["id"], "", row["answer"], "math")
            assert grader.grade(rf"$\boxed{{{row['answer']}}}$", problem).correct, row["answer"]
            assert grader.grade(row["solution"], problem).correct, row["id"]


NEAR_MISSES = r"""
Gx|G, 5|(G,1)|(G,G)|G{,}000|G.5|\frac{G}{-2}+3|G \text{ or } 3|-G-1|G\%|G:7|x>G|x \leq G
[G,\infty)|G\pi+1|G+\sqrt{2}|\approx G|G\pm 1|G+i|x=G,y=1|G_5|G \text{ million}|\{G,3\}
x^2+y^2=G|not G|Ge+1|G1|1G|G2/3|G 2/3|G\frac{2}{3}|G!!+1|\sqrt{G}+9|GG|10^{G}+1|G \text{ to } 9
G \text{ tenths}|G \text{ dozen}|\text{half of } G|G \text{ or more}|\text{at least } G|G\text{k}
\text{twice } G|\text{minus } G|G \text{ thousand}|G \text{ minus } 1|\geq G|\log G|\sin G|e^{G}
\text{not } G|G n|f(G)|a_{G}|G \text{ halves}|G^{\circ} + 1|G \text{ and } 2G|G, \ldots|G i
\text{multiple of } G|G \text{ less than } x|\text{the cube root of } G00|0.\overline{G}
"""


@pytest.mark.parametrize("gold", [1, 7, 42, 100, 999, 12345])
def test_no_false_positive_for_an_integer_gold(grader: Grader, gold: int) -> None:
    problem = Problem("p", "", str(gold), "integer")
    for near_miss in NEAR_MISSES.strip().replace("\n", "|").split("|"):
        answer = near_miss.replace("G", str(gold))
        assert grader.grade(rf"so $\boxed{{{answer}}}$", problem).status == "wrong", answer

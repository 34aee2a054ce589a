"""Loading problem sets, and every way in which that can fail."""

import datetime
import json
import logging
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
from pydantic import ValidationError

from butwait.problems.overlap import text_id
from butwait.problems.presets import PRESETS, with_preset
from butwait.problems.settings import Columns, ProblemSetSettings
from butwait.problems.sources import load_problems
from butwait.records import Problem, UserError

ROWS = [
    {"question": "1 + 1?", "answer": "2", "level": 1},
    {"question": "2 + 2?", "answer": "4", "level": 1},
    {"question": "70 * 100?", "answer": "7,000", "level": 2},
    {"question": "30 - 5?", "answer": "025", "level": 2},
]


def write(folder: Path, rows: list[dict[str, Any]]) -> str:
    path = folder / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def load(source: str, **settings: Any) -> list[Problem]:
    return load_problems(ProblemSetSettings(source=source, **settings))


def test_a_jsonl_file(tmp_path: Path) -> None:
    source = write(tmp_path, ROWS)
    problems = load(source, columns=Columns(metadata=("level",)))
    assert problems[0] == Problem(
        id=text_id("1 + 1?"),
        question="1 + 1?",
        answer="2",
        answer_kind="integer",
        source=source,
        metadata={"level": 1},
    )
    assert [p.answer for p in problems] == ["2", "4", "7000", "25"]


def test_a_parquet_file_gives_the_same_problems(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), path)
    from_parquet, from_jsonl = load(str(path)), load(write(tmp_path, ROWS))
    assert [(p.id, p.answer) for p in from_parquet] == [(p.id, p.answer) for p in from_jsonl]


def test_one_answer_that_is_no_integer_makes_the_set_math(tmp_path: Path) -> None:
    source = write(tmp_path, [*ROWS, {"question": "half?", "answer": "\\frac12"}])
    problems = load(source, limit=4)
    assert {p.answer_kind for p in problems} == {"math"}
    assert problems[2].answer == "7,000"


def test_a_number_column_is_read_as_text(tmp_path: Path) -> None:
    source = write(tmp_path, [{"question": "a", "answer": 27.0}, {"question": "b", "answer": 3}])
    assert [(p.answer, p.answer_kind) for p in load(source)] == [
        ("27", "integer"),
        ("3", "integer"),
    ]


def test_answers_after_a_mark(tmp_path: Path) -> None:
    answer = "48 / 2 = <<48/2=24>>24.\n#### 1,072"
    source = write(tmp_path, [{"question": "clips?", "answer": answer}])
    (problem,) = load(source, answer_after="####", columns=Columns(solution="answer"))
    assert (problem.answer, problem.answer_kind, problem.solution) == ("1072", "integer", answer)


def test_order_offset_limit_and_shuffle(tmp_path: Path) -> None:
    source = write(tmp_path, [{"question": f"q{i}", "answer": str(i)} for i in range(20)])
    assert [p.answer for p in load(source, offset=3, limit=2)] == ["3", "4"]
    shuffled = [p.answer for p in load(source, shuffle_seed=1)]
    assert sorted(shuffled, key=int) == [str(i) for i in range(20)] != shuffled
    assert [p.answer for p in load(source, shuffle_seed=1, offset=5, limit=3)] == shuffled[5:8]


def test_given_ids_are_kept_and_must_be_unique(tmp_path: Path) -> None:
    rows = [{"question": "a", "answer": "1", "n": 7}, {"question": "a", "answer": "2", "n": 8}]
    assert [p.id for p in load(write(tmp_path, rows), columns=Columns(id="n"))] == ["7", "8"]
    rows[1]["n"] = 7
    with pytest.raises(UserError, match="the id '7' occurs more than once"):
        load(write(tmp_path, rows), columns=Columns(id="n"))


def test_repeated_ids_are_an_error_with_both_places_or_numbered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = [(1, "a", "1"), (1, "b", "2"), ("1", "a", 1), (1.0, "c", "3"), ("1-2", "d", "4")]
    source = write(tmp_path, [{"id": i, "question": q, "answer": a} for i, q, a in content])
    Path(source).write_text("\n" + Path(source).read_text())
    sentence = (
        r"the id '1' occurs more than once \(row 1 \(line 2\), row 2 \(line 3\)\); mend it, or"
    )
    with pytest.raises(UserError, match=sentence + " set repeated_ids: number"):
        load(source)
    problems = load(source, repeated_ids="number")
    assert [(p.id, p.question) for p in problems] == [
        ("1", "a"),
        ("1-3", "b"),
        ("1-4", "c"),
        ("1-2", "d"),
    ]
    assert "1 repeated questions are left out" in caplog.text


def test_nested_columns_of_any_kind_of_file(tmp_path: Path) -> None:
    row = {
        "prompt": [{"role": "user", "content": "3 + 4?"}],
        "reward_model": {"ground_truth": "7", "style": "rule"},
        "extra_info": {"index": 3, "level": "easy"},
    }
    columns = Columns(
        question="prompt.0.content",
        answer="reward_model.ground_truth",
        id="extra_info.index",
        metadata=("extra_info.level", "extra_info"),
    )
    pyarrow.parquet.write_table(pa.Table.from_pylist([row]), tmp_path / "verl.parquet")
    (tmp_path / "verl.json").write_text(json.dumps([row]))
    for source in (write(tmp_path, [row]), *map(str, tmp_path.glob("verl.*"))):
        (problem,) = load(source, columns=columns)
        assert (problem.id, problem.question, problem.answer) == ("3", "3 + 4?", "7")
        assert problem.metadata == {
            "extra_info.level": "easy",
            "extra_info": {"index": 3, "level": "easy"},
        }
        with pytest.raises(
            UserError, match=r"'reward_model' holds a mapping \(ground_truth, style"
        ):
            load(source, columns=columns.model_copy(update={"answer": "reward_model"}))
        with pytest.raises(
            UserError, match=r"no column 'reward_model.gold'; it has prompt, reward_"
        ):
            load(source, columns=columns.model_copy(update={"answer": "reward_model.gold"}))


def test_several_accepted_answers(tmp_path: Path) -> None:
    listed = [{"question": "a", "answer": ["07", 8, "7"]}, {"question": "b", "answer": "9"}]
    source = write(tmp_path, listed)
    with pytest.raises(UserError, match=r"row 1, column 'answer' holds a list of 3; name an item"):
        load(source)
    found = [(p.answer, p.also, p.answer_kind) for p in load(source, accept_any=True)]
    assert found == [("7", ("8",), "integer"), ("9", (), "integer")]
    source = write(tmp_path, [{"question": "a", "answer": "Sum: 1/2 | 0.5 || half "}])
    (problem,) = load(source, answer_separator="|", answer_after="Sum:")
    assert (problem.golds, problem.answer_kind) == (("1/2", "0.5", "half"), "math")
    with pytest.raises(UserError, match="holds a mapping"):
        load(write(tmp_path, [{"question": "a", "answer": [{"x": 1}]}]), accept_any=True)
    with pytest.raises(UserError, match="1 of 1 problems have no gold answer: row 1; mend it"):
        load(write(tmp_path, [{"question": "a", "answer": []}]), accept_any=True)


def test_answers_that_are_none_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    golds = ["1", "proof", "NotFound", None, "2", ["proof", "3"]]
    source = write(tmp_path, [{"question": f"q{i}", "answer": g} for i, g in enumerate(golds)])
    kept = load(source, drop_answers=["Proof", "notfound", ""], accept_any=True)
    assert [(p.question, p.golds) for p in kept] == [
        ("q0", ("1",)),
        ("q4", ("2",)),
        ("q5", ("3",)),
    ]
    assert {p.answer_kind for p in kept} == {"integer"}
    assert "3 of 6 problems have an answer of drop_answers and are left out" in caplog.text
    caplog.clear()
    assert len(load(source, accept_any=True, limit=2)) == 2
    assert "3 gold answers say that there is none (NotFound, proof)" in caplog.text


def test_numbers_of_any_size_keep_their_value(tmp_path: Path) -> None:
    digits = "9" * 5_000
    path = tmp_path / "set.jsonl"
    path.write_text(
        f'{{"question": "a", "answer": {digits}}}\n{{"question": "b", "answer": "0{digits}"}}\n'
        '{"question": "c", "answer": 0.30000000000000004}\n{"question": "d", "answer": "2.0"}\n'
    )
    assert [p.answer for p in load(str(path))] == [
        digits,
        "0" + digits,
        "0.30000000000000004",
        "2.0",
    ]
    assert {p.answer_kind for p in load(str(path), limit=1)} == {"math"}
    with pytest.raises(UserError, match=r"'9{60}', is no integer; set answer_kind: math"):
        load(str(path), answer_kind="integer")


def test_strange_characters_are_kept_and_half_ones_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strange = "a\x00b\x1b[31mc\u202e\u2028 [bold]x[/]"
    rows = [
        {"id": strange, "question": strange, "answer": strange, "note": strange},
        {"id": "b\ud83d", "question": "q\ude00?", "answer": "1", "note": {"k\ud83d": ["\ud83d"]}},
    ]
    first, second = load(write(tmp_path, rows), columns=Columns(metadata=("note",)))
    assert (first.id, first.question, first.answer) == (strange, strange, strange)
    assert first.metadata == {"note": strange}
    assert (second.id, second.question) == ("b\ufffd", "q\ufffd?")
    assert second.metadata == {"note": {"k\ufffd": ["\ufffd"]}}
    assert "1 problems hold half a character" in caplog.text


def test_metadata_is_what_json_can_hold(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    day = datetime.date(2024, 1, 5)
    row = {"question": "a", "answer": "1", "day": day, "d": Decimal("1.50"), "raw": b"\xff"}
    pyarrow.parquet.write_table(pa.Table.from_pylist([row]), path)
    (problem,) = load(str(path), columns=Columns(metadata=("day", "d")))
    assert problem.metadata == {"day": "2024-01-05", "d": "1.50"}
    with pytest.raises(UserError, match="row 1, column 'raw' cannot be kept as metadata"):
        load(str(path), columns=Columns(metadata=("raw",)))
    with pytest.raises(UserError, match=r"column 'day' holds a date or time \(2024-01-05\)"):
        load(str(path), columns=Columns(answer="day"))


def test_a_repeated_question_with_another_answer_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answers = {"a": ["1", "2", "1.0"], "b": ["1/2", "0.5", "\\frac{1}{2}"], "c": ["x", "y"]}
    rows = [{"question": q, "answer": answer} for q, held in answers.items() for answer in held]
    rows += [{"question": "d", "answer": str(n)} for n in range(7)]
    source = write(tmp_path, rows)
    problems = load(source)
    assert [p.answer for p in problems] == ["1", "1/2", "x", "0"]
    assert "11 repeated questions are left out" in caplog.text
    assert (
        f"{source}: 8 of these have another gold answer than the first time, which is the one that "
        "counts; mend the wrong one (row 1 and row 2: '1' and '2'; row 7 and row 8: 'x' and 'y'; "
        "row 9 and row 10: '0' and '1'; row 9 and row 11: '0' and '2'; row 9 and row 12: '0' and "
        "'3'; and 3 more)"
    ) in caplog.text
    caplog.clear()
    load(source, answer_kind="text")
    assert "10 of these have another gold answer" in caplog.text  # 0.5 and 1/2 are two texts
    caplog.clear()
    numbered = [{"id": 1, "question": q, "answer": a} for q, a in ("a1", "b2", "b2")]
    assert len(load(write(tmp_path, numbered), repeated_ids="number")) == 2
    assert "1 repeated questions are left out" in caplog.text
    assert "another gold answer" not in caplog.text


def test_a_repeated_question_is_left_out_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(load(write(tmp_path, [*ROWS, ROWS[0]]))) == 4
    assert "1 repeated questions are left out" in caplog.text


def test_a_problem_without_an_answer_is_an_error_or_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blank = [{"question": q, "answer": a, "id": q} for q, a in (("x", None), ("y", " "))]
    source = write(tmp_path, [{**ROWS[0], "id": "r"}, *blank])
    with pytest.raises(UserError, match="2 of 3 problems have no gold answer: row 2, row 3; mend"):
        load(source, columns=Columns(id="id"))
    with caplog.at_level(logging.WARNING):
        assert [p.id for p in load(source, columns=Columns(id="id"), drop_unanswered=True)] == ["r"]
    assert "2 of 3 problems have no gold answer" in caplog.text
    assert [p.id for p in load(source, columns=Columns(id="id"), limit=1)] == ["r"]


BLANK = ["", " ", None, "\u200b", "$$", "$ $", "\\boxed{}", "so \\boxed{ }", "####", "$\\boxed{}$"]
SAID = ["7", "-", "?", "()", "[]", "{}", "\\{\\}", "\\emptyset", "$7$", "\\boxed{7}", "#### 7"]


@pytest.mark.parametrize("blank", BLANK)
def test_a_blank_answer_is_none_wherever_it_comes_from(tmp_path: Path, blank: str | None) -> None:
    rows = [
        {"question": "a", "answer": "7", "id": "r"},
        {"question": "b", "answer": blank, "id": "b"},
    ]
    told = "1 of 2 problems have no gold answer: "
    with pytest.raises(UserError, match=f"{told}row 2; mend it"):
        load(write(tmp_path, rows))
    assert [p.id for p in load(write(tmp_path, rows), drop_unanswered=True)] == ["r"]
    kept = tmp_path / "mine.problems.jsonl"  # as a program gives them
    kept.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(UserError, match=f"{told}problem b; mend it"):
        load(str(kept))
    assert [p.id for p in load(str(kept), drop_unanswered=True)] == ["r"]


@pytest.mark.parametrize("gold", SAID)
def test_what_says_something_is_an_answer(tmp_path: Path, gold: str) -> None:
    (problem,) = load(write(tmp_path, [{"question": "b", "answer": gold}]))
    assert problem.judged


def test_a_text_is_blank_where_nothing_is_seen(tmp_path: Path) -> None:
    given = [{"question": q, "answer": a} for q, a in (("a", "$$"), ("b", "\\boxed{}"))]
    texts = load(write(tmp_path, given), answer_kind="text")
    assert [p.answer for p in texts] == ["$$", "\\boxed{}"]
    with pytest.raises(UserError, match="1 of 1 problems have no gold answer"):
        load(write(tmp_path, [{"question": "a", "answer": "\u200b"}]), answer_kind="text")


def test_many_rows_without_an_answer_are_counted(tmp_path: Path) -> None:
    lines = [f"question {n},{'' if n % 2 else n}" for n in range(1, 25)]
    file = tmp_path / "half.csv"
    file.write_text("question,answer\n" + "\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(UserError) as told:
        load(str(file))
    rows = ", ".join(f"row {n} (line {n + 1})" for n in (1, 3, 5, 7, 9))
    assert f"12 of 24 problems have no gold answer: {rows} and 7 more; mend" in str(told.value)
    assert len(load(str(file), drop_unanswered=True)) == 12


def test_an_answer_without_the_mark_is_no_answer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 of 1 problems have no gold answer: row 1; mend it"):
        load(write(tmp_path, [{"question": "a", "answer": "72"}]), answer_after="####")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ('{"question": "a", "answer": "1"}\n{"question": \n', "line 2 is no JSON"),
        ('["a"]\n', "line 1 is no JSON object"),
        ('{"question": " ", "answer": "1"}\n', "row 1 has no question in column 'question'"),
        ('{"problem": "a", "gold": "1"}\n', "no column 'question'; it has problem, gold"),
    ],
)
def test_a_broken_file_is_one_clear_sentence(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load(str(path))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("absent.csv.gz", "the problem file absent.csv.gz does not exist"),
        ("absent.xlsx", "the problem file absent.xlsx does not exist"),
        ("notes.txt", "notes.txt is no table by its name; give a file that ends in .jsonl"),
        ("questions", "the file questions is no table by its name; let it end in .jsonl"),
        ("./absent", "there is no file or folder ./absent, and it is no id of a Hugging Face"),
        ("a/b/absent", "there is no file or folder a/b/absent"),
        ("~/absent/folder/x", "there is no file or folder ~/absent/folder/x"),
        ("https://host/set.jsonl", "https://host/set.jsonl is an address; fetch the file"),
        ("empty", r"the folder empty \(split train\) could not be loaded"),
        ("empty.parquet", "the problem file empty.parquet is empty"),
        ("x" * 5_000 + ".csv", "does not exist"),
        ("a\x00.jsonl", "does not exist"),
    ],
)
def test_a_file_is_never_looked_for_on_the_hub(
    own_folder: Path, source: str, sentence: str
) -> None:
    for name in ("questions", "notes.txt"):
        (own_folder / name).write_text("?")
    for name in ("empty", "empty.parquet"):
        (own_folder / name).mkdir()
    with pytest.raises(UserError, match=sentence):
        load(source)


def test_a_folder_of_tables_is_a_dataset(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own_folder / "set").mkdir()
    table = pa.table({"question": ["a"], "answer": pa.array([0.1], pa.float32())})
    pyarrow.parquet.write_table(table, own_folder / "set" / "train-0.parquet")
    for source in ("set", "./set", str(own_folder / "set"), "."):
        if source == ".":
            monkeypatch.chdir("set")
        (problem,) = load(source, split="train")
        assert (problem.question, problem.answer) == ("a", "0.1")


def test_other_broken_sources(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.jsonl does not exist"):
        load(str(tmp_path / "absent.jsonl"))
    (tmp_path / "bytes.jsonl").write_bytes(b'{"question": "\xff"}')
    with pytest.raises(UserError, match="is not UTF-8 text"):
        load(str(tmp_path / "bytes.jsonl"))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match="is no readable Parquet file"):
        load(str(tmp_path / "bad.parquet"))
    with pytest.raises(UserError, match="'half', is no integer; set answer_kind: math"):
        load(write(tmp_path, [{"question": "a", "answer": "half"}]), answer_kind="integer")
    with pytest.raises(UserError, match="no more than the offset, 4"):
        load(write(tmp_path, ROWS), offset=4)


def test_a_line_separator_inside_json_text_ends_no_line(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"question": "a\u2028b", "answer": "1"}\n', encoding="utf-8")
    assert load(str(path))[0].question == "a\u2028b"


def test_arithmetic_takes_its_size_from_the_limit() -> None:
    problems = load("arithmetic", split="search", offset=2, limit=3, params={"seed": 5})
    longer = load("arithmetic", split="search", params={"seed": 5, "size": 10})
    assert problems == longer[2:5]
    assert len(load("arithmetic", params={"size": 4, "seed": 1}, limit=10)) == 4


def test_arithmetic_names_a_wrong_parameter() -> None:
    with pytest.raises(
        UserError, match=r"arithmetic: params: unknown key `digits`; there are: size"
    ):
        load("arithmetic", params={"digits": 2})


def test_reasoning_gym() -> None:
    problems = load("gym:basic_arithmetic", params={"size": 3, "seed": 1, "min_terms": 3})
    assert len(problems) == 3
    assert problems[0].source == "gym:basic_arithmetic"
    assert problems[0].answer_kind == "integer"
    assert load("gym:basic_arithmetic", limit=3, params={"seed": 1, "min_terms": 3}) == problems
    again = [load("gym:basic_arithmetic", limit=3) for _ in range(2)]
    assert again[0] == again[1] == load("gym:basic_arithmetic", limit=3, params={"seed": 0})


def test_reasoning_gym_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="reasoning-gym has no task 'nonsense'"):
        load("gym:nonsense", limit=1)
    with pytest.raises(UserError, match=r"refuses the parameters.*'digits'"):
        load("gym:basic_arithmetic", params={"digits": 1, "size": 2})
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(UserError, match=r"pip install 'butwait\[gym\]'"):
        load("gym:basic_arithmetic", limit=1)


def test_a_function_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_questions.py").write_text(
        "def doubled(count, start=1):\n"
        "    for i in range(start, start + count):\n"
        "        yield {'question': f'2 * {i}?', 'gold': 2 * i}\n"
        "def broken():\n"
        "    return ['2 * 1?']\n"
    )
    monkeypatch.chdir(tmp_path)
    columns = Columns(answer="gold")
    source = "own_questions:doubled"
    problems = load(source, params={"count": 4}, columns=columns, offset=1, limit=2)
    assert [(p.question, p.answer) for p in problems] == [("2 * 2?", "4"), ("2 * 3?", "6")]
    assert problems[0].source == source
    assert ProblemSetSettings(source=source).overlap_rule == "words"
    with pytest.raises(UserError, match=r"refuses the parameters .*missing a required argument"):
        load(source, columns=columns)
    with pytest.raises(UserError, match="must return a list of dicts"):
        load("own_questions:broken")
    with pytest.raises(UserError, match="has no 'nothing'"):
        load("own_questions:nothing")
    with pytest.raises(ValidationError, match="split has no meaning"):
        ProblemSetSettings(source=source, split="test")
    sys.modules.pop("own_questions", None)


@pytest.mark.parametrize(
    "settings",
    [
        {"source": "set.jsonl", "split": "test"},
        {"source": "arithmetic", "columns": {"question": "problem"}},
        {"source": "gym:basic_arithmetic", "revision": "abc"},
        {"source": "openai/gsm8k", "params": {"size": 3}},
        {"source": "openai/gsm8k", "config": "main"},
    ],
)
def test_fields_without_meaning_for_a_source_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ProblemSetSettings(**settings)


def test_a_hub_dataset_goes_through_its_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*args: Any, **kwargs: Any) -> datasets.Dataset:
        asked.append((args, kwargs))
        return datasets.Dataset.from_list([{"question": "clips?", "answer": "x\n#### 1,072"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (problem,) = load("gsm8k", split="train", revision="abc")
    assert asked == [(("openai/gsm8k", "main"), {"split": "train", "revision": "abc"})]
    assert (problem.answer, problem.source) == ("1072", "gsm8k")
    assert problem.solution == "x\n#### 1,072"


def test_what_the_recipe_says_goes_over_the_preset() -> None:
    given = ProblemSetSettings(
        source="math500", split="train", limit=5, columns=Columns(id="other"), answer_kind="auto"
    )
    merged = with_preset(given)
    assert (merged.source, merged.split, merged.limit) == ("HuggingFaceH4/MATH-500", "train", 5)
    assert merged.answer_kind == "auto"
    assert merged.columns == PRESETS["math500"].columns.model_copy(update={"id": "other"})


def test_a_hub_dataset_that_cannot_be_had() -> None:
    with pytest.raises(UserError, match=r"the dataset 'nobody/nothing' .* could not be loaded"):
        load("nobody/nothing")


@pytest.mark.parametrize(
    ("name", "count", "kind"),
    [("aime24", 30, "integer"), ("gsm8k_test", 1319, "integer"), ("math500", 500, "math")],
)
def test_real_problem_sets(shared_data: Path, name: str, count: int, kind: str) -> None:
    columns = Columns(id="id", solution="solution")
    problems = load(str(shared_data / f"{name}.jsonl"), columns=columns)
    assert len(problems) == count
    assert {p.answer_kind for p in problems} == {kind}
    assert all(p.solution for p in problems)


def test_sets_of_math_arena_need_no_columns() -> None:
    named, other = (
        with_preset(ProblemSetSettings(source=source, limit=5))
        for source in ("aime26", "MathArena/hmmt_feb_2026")
    )
    assert (named.source, named.answer_kind, named.limit) == ("MathArena/aime_2026", "integer", 5)
    assert (other.source, other.split, other.limit) == ("MathArena/hmmt_feb_2026", "train", 5)
    assert other.columns == named.columns
    assert other.columns.id == "problem_idx"


def test_gold_answers_that_cannot_be_read_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"question": f"{gold}?", "answer": gold} for gold in ("\\frac{1", "x}", "Москва", "#3")]
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    load_problems(ProblemSetSettings(source=str(path)))
    (message,) = [m for m in caplog.messages if "cannot be read" in m]
    assert ": 2 gold answers cannot be read" in message
    caplog.clear()
    load_problems(ProblemSetSettings(source=str(path), answer_kind="text"))
    assert not caplog.messages

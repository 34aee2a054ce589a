"""`butwait profile`, from files to the table."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from butwait.cli.profile import ProfileOptions, profile
from butwait.engines.models import load_tokenizer
from butwait.engines.settings import ModelSettings
from butwait.evaluation.storage import write_shard
from butwait.problems.settings import ProblemSetSettings
from butwait.profile import sources
from butwait.profile.sources import read_source
from butwait.records import Attempt, UserError


def jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """RUN/base with one method on one set; the run knows the question."""
    stage = tmp_path / "run" / "base"
    folder = stage / "attempts" / "toy" / "sample"
    folder.mkdir(parents=True)
    attempt = Attempt("sum-1", 0, "so \\boxed{4}", "eos", "4", "correct", 99, 0, 6, 0)
    write_shard(folder / "shard-00000.parquet", [[attempt]])
    record = {"fingerprint": "f", "status": "complete", "seconds": 1.0, "kind": "evaluate"}
    (stage / "stage.json").write_text(json.dumps(record))
    (tmp_path / "run" / "problems").mkdir()
    jsonl(
        tmp_path / "run" / "problems" / "toy.jsonl",
        [{"id": "sum-1", "question": "What is 2 + 2?", "answer": "4"}],
    )
    return stage


def test_an_evaluation_and_a_file_meet_in_the_question(evaluation: Path, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", [{"question": "What is  2 + 2?", "solution": "four"}])
    (ours,), (theirs,) = read_source(str(evaluation)), read_source(f"F={file}")
    assert (ours.name, theirs.name) == ("base", "F")
    assert (ours.solutions[0].tokens, ours.solutions[0].answer) == (6, "4")
    assert ours.solutions[0].question == theirs.solutions[0].question


def test_questions_are_those_of_the_set_that_was_evaluated(evaluation: Path) -> None:
    (before,) = read_source(str(evaluation))
    other = {"id": "sum-1", "question": "What is 7 + 7?", "answer": "14"}
    jsonl(evaluation.parent / "problems" / "zoo.jsonl", [other])
    (after,) = read_source(str(evaluation))
    assert after.solutions == before.solutions


def test_the_table_begins_with_the_sentence(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    short = [{"question": q, "solution": "one two"} for q in "pq"]
    long = [{"question": q, "solution": "Wait, one [two] three"} for q in "pq"]
    a, b = jsonl(tmp_path / "a.jsonl", short), jsonl(tmp_path / "b.jsonl", long)
    profile(ProfileOptions([f"A={a}", f"B={b}"]), tmp_path / "out.json")
    first = capsys.readouterr().out.partition("\n")[0]
    assert first == "B's solutions are 2.00 x [2.00, 2.00] as long as A's (mean words)."
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["ratios"][0]["shared_questions"] == 2
    assert found["sources"][1]["figures"]["reflection_share"]["mean"] == 1
    assert found["sources"][1]["duplicates"] == 0.5


def test_a_narrow_terminal_has_a_line_a_source(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows = [{"question": q, "solution": "Wait, one [two]"} for q in "pq"]
    file = jsonl(tmp_path / "a.jsonl", rows)
    profile(ProfileOptions([f"{name}={file}" for name in ("A", "a long name of B", "C")]), None)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    words = lines.index("words")
    assert lines[words + 1 : words + 4] == [
        "  A                 3.0 [3.0, 3.0, 3.0]",
        "  a long name of B  3.0 [3.0, 3.0, 3.0]      x 1.00 [1.00, 1.00]",
        "  C                 3.0 [3.0, 3.0, 3.0]      x 1.00 [1.00, 1.00]",
    ]
    assert "verification share" in lines  # whole names


def test_rows_without_a_solution_are_counted(tmp_path: Path) -> None:
    rows = [{"solution": "a"}, {"solution": None}, {"solution": " "}]
    (source,) = read_source(str(jsonl(tmp_path / "a.jsonl", rows)))
    assert (len(source.solutions), source.skipped) == (1, 2)


@pytest.mark.parametrize(
    ("rows", "message"),
    [([{"question": "q"}], "no column of solutions"), ([], "is empty"),
     ([{"solution": ""}], "no solution that says something"),
     ([{"solution": ["a"]}], r"row 1, column 'solution' holds a list of 1; name an item")],
)  # fmt: skip
def test_a_bad_file_is_one_sentence(tmp_path: Path, rows: list[dict], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_source(str(jsonl(tmp_path / "a.jsonl", rows)))


def test_a_column_may_be_a_path(tmp_path: Path) -> None:
    rows = [{"question": "q\ud83d", "messages": [{"content": "q"}, {"content": " a\ud83d"}]}]
    (source,) = read_source(str(jsonl(tmp_path / "a.jsonl", rows)), "messages.1.content")
    assert [solution.text for solution in source.solutions] == [" a\ufffd"]


def test_other_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no source of solutions"):
        read_source(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"no stage of a run"):
        read_source(str(tmp_path))
    file = jsonl(tmp_path / "a.jsonl", [{"solution": "a"}])
    with pytest.raises(UserError, match="called 'a'"):
        profile(ProfileOptions([str(file), str(file)]), None)
    with pytest.raises(UserError, match="has no column 'other'"):
        read_source(str(file), "other")


def test_parquet_reads_like_json_lines(tmp_path: Path) -> None:
    rows = [{"problem": "2 + 2?", "solution": "Warte, é 4", "answer": "4"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (columns,) = read_source(str(tmp_path / "a.parquet"))
    (lines,) = read_source(str(jsonl(tmp_path / "a.jsonl", rows)))
    assert columns == lines
    assert (columns.solutions[0].text, columns.solutions[0].answer) == ("Warte, é 4", "4")


def test_a_tokenizer_counts_every_source(tmp_path: Path, evaluation: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", [{"solution": "1 + 1 = 2\n"}])
    out = tmp_path / "out.json"
    profile(ProfileOptions([f"A={file}", str(evaluation)], tokenizer="tiny"), out)
    found = json.loads(out.read_text())
    tokenizer = load_tokenizer(ModelSettings(name="tiny"))
    wanted = [
        len(tokenizer(text, add_special_tokens=False).input_ids)
        for text in ("1 + 1 = 2\n", "so \\boxed{4}")
    ]
    assert found["unit"] == "tokens"
    assert [s["figures"]["length"]["mean"] for s in found["sources"]] == wanted


def test_two_models_are_told_of_in_one_sentence(
    evaluation: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    other = tmp_path / "other"
    shutil.copytree(evaluation.parent, other)
    for run, model in ((evaluation.parent, "m"), (other, "n")):
        record = json.loads((run / "base" / "stage.json").read_text())
        record["settings"] = {"recipe": {"model": {"name": model}}}
        (run / "base" / "stage.json").write_text(json.dumps(record))
    profile(ProfileOptions([f"A={evaluation}", f"B={other / 'base'}"]), None)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("B's solutions are 1.00 x as long as A's (mean words).")
    assert lines[1].startswith("Lengths are in words, as the sources come from 2 models")
    assert "(m, n); --tokenizer counts by one." in lines[1]


@pytest.mark.parametrize(
    ("place", "subset", "split"),
    [("o/n", None, None), ("o/n:main", "main", None), ("o/n::test", None, "test"),
     ("o/n:main:test[:5%]", "main", "test[:5%]")],
)  # fmt: skip
def test_a_hub_set_names_its_subset_and_split(
    monkeypatch: pytest.MonkeyPatch, place: str, subset: str | None, split: str | None
) -> None:
    asked: list[ProblemSetSettings] = []

    def rows(settings: ProblemSetSettings) -> list[dict]:
        asked.append(settings)
        return [{"solution": "a"}]

    monkeypatch.setattr(sources, "read_hub_rows", rows)
    (source,) = read_source(f"S={place}")
    assert (source.name, asked[0].source, asked[0].subset, asked[0].split) == (
        "S", "o/n", subset, split,
    )  # fmt: skip


def test_the_page_stands_alone_and_escapes_names(tmp_path: Path) -> None:
    a = jsonl(tmp_path / "a.jsonl", [{"question": q, "solution": "one two"} for q in "pq"])
    b = jsonl(tmp_path / "b.jsonl", [{"question": q, "solution": "Wait, it is 3"} for q in "pq"])
    page = tmp_path / "page.html"
    profile(ProfileOptions([f"A={a}", f"<b>={b}"]), None, page)
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") == 2
    assert "Median lengths in words: A 2; &lt;b&gt; 4." in text
    assert "<b>'s" not in text
    assert "<script" not in text
    assert "<link" not in text
    assert 'src="' not in text

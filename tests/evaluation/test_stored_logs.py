"""Logs that lm-eval, lighteval and inspect wrote themselves (``logs/make_logs.py``), and broken
ones."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from butwait.evaluation.logs.archives import Archive
from butwait.evaluation.logs.detect import read_log
from butwait.evaluation.logs.exports import eval_results, precomputed_scores
from butwait.evaluation.logs.grading import disagreements, grade_log, score_log
from butwait.evaluation.metrics import attempt_figures
from butwait.problems.grading import Grader
from butwait.records import UserError

LOGS = Path(__file__).parent / "logs"
(LM_EVAL,) = (LOGS / "lm_eval" / "org__small").glob("samples_*.jsonl")
(LIGHTEVAL,) = (LOGS / "lighteval" / "details" / "org" / "small").rglob("*.parquet")
INSPECT, INSPECT_LARGE = sorted((LOGS / "inspect").glob("*.eval"))
(INSPECT_JSON,) = (LOGS / "inspect").glob("*.json")
LETTERS = {"correct": "c", "wrong": "w", "no_answer": "-", "truncated": "t", "ungradable": "u"}
IDS = [f"2030-I-{i}" for i in range(1, 7)]
SMALL, LARGE = "ccw cc- cc- c-w wcw ccw", "ccc ccc ccw c-c ccw ccc"


def vector(path: Path) -> str:
    with Grader() as grader:
        graded = grade_log(read_log(path), grader)
    marks = "".join(LETTERS[attempt.status] for attempt in graded.attempts)
    return " ".join(marks[i : i + 3] for i in range(0, len(marks), 3))


def test_all_packages_logs_give_one_score_vector():
    """The texts are the same; only inspect tells which one a limit cut."""
    assert vector(LM_EVAL) == vector(LIGHTEVAL) == SMALL
    assert vector(INSPECT) == SMALL.replace("c-w", "ctw")
    assert vector(INSPECT_LARGE) == LARGE.replace("c-c", "ctc")
    assert vector(INSPECT_JSON) == SMALL.split()[0]
    assert vector(LOGS / "lm_eval" / "org__large") == LARGE
    assert vector(LOGS / "lighteval" / "details" / "org" / "large") == LARGE


def test_what_lm_eval_keeps():
    log = read_log(LM_EVAL)
    assert (log.package, log.task, log.model, log.k) == ("lm-eval", "jars", "org/small", 3)
    assert [question.id for question in log.questions] == IDS
    assert log.questions[0].golds == ("073",)
    assert log.questions[0].question.startswith("A jar holds 31 red")
    assert list(log.scores) == ["exact_match,boxed", "exact_match,last-number"]
    boxed = [log.scores["exact_match,boxed"][name] for name in IDS]
    assert boxed == [(1.0,), (0.0,), (0.0,), (0.0,), (0.0,), (1.0,)]
    assert log.attempt_scores("exact_match,boxed") is None
    assert log.questions[0].attempts[0].tokens is None


def test_what_lighteval_keeps():
    log = read_log(LIGHTEVAL)
    assert (log.package, log.task, log.model, log.prompts) == ("lighteval", "jars", "org/small", 1)
    assert [question.id for question in log.questions] == list("012345")
    means = [log.scores["avg@n:n=3"][name][0] for name in "012345"]
    # Theirs; ours are 2/3 at the third: they credit a box before one that is cut off.
    assert means == pytest.approx([2 / 3, 2 / 3, 1, 1 / 3, 1 / 3, 2 / 3])
    assert [a.tokens for a in log.questions[3].attempts] == [11, 5, 4]


def test_what_inspect_keeps_beside_ours():
    log = read_log(INSPECT)
    assert (log.package, log.task, log.model) == ("inspect", "jars", "mockllm/small")
    assert log.questions[0].golds == ("73",)
    assert log.questions[3].attempts[1].cut
    assert log.attempt_scores("math")["2030-I-3"] == (1.0, 1.0, 1.0)
    with Grader() as grader:
        graded = grade_log(log, grader)
    assert list(disagreements(graded, "math")) == [
        {
            "id": "2030-I-3",
            "sample": 2,
            "theirs": 1.0,
            "ours": "no_answer",
            "answer": None,
            "gold": ["7"],
        }
    ]
    assert [(d["id"], d["sample"]) for d in disagreements(graded, "match")] == [
        ("2030-I-3", 0),
        ("2030-I-3", 1),
        ("2030-I-4", 0),
        ("2030-I-5", 1),
        ("2030-I-6", 1),
    ]
    assert graded.lengths_known
    assert sum(attempt.tokens for attempt in graded.attempts) == 96  # as its header says


def test_the_logs_own_verdicts():
    theirs = score_log(read_log(INSPECT), "math")
    assert attempt_figures(theirs.attempts)["pass_at_1"] == pytest.approx(11 / 18)
    with pytest.raises(UserError, match="has the scorers match, math: name one"):
        score_log(read_log(INSPECT), None)
    with pytest.raises(UserError, match="has no scorer 'maths'"):
        score_log(read_log(INSPECT), "maths")
    with pytest.raises(UserError, match="one number for all 3 attempts"):
        score_log(read_log(LIGHTEVAL), None)


def test_exports():
    """inspect 0.3.285 read the first and gave the same vector; the hub's own writer the second."""
    with Grader() as grader:
        graded = grade_log(read_log(INSPECT), grader)
    rows = list(precomputed_scores(graded.attempts))
    assert "".join(row["value"] for row in rows) == "CCICCICCICIIICICCI"
    assert rows[1] == {
        "id": "2030-I-1",
        "epoch": 2,
        "value": "C",
        "answer": "73",
        "explanation": "correct",
    }
    figures = attempt_figures(graded.attempts)
    (entry,) = eval_results(figures, "org/set", "default", "2026-11-28", "graded by butwait")
    from huggingface_hub._eval_results import EvalResultEntry, eval_result_entries_to_yaml

    theirs = EvalResultEntry(
        dataset_id="org/set",
        task_id="default",
        value=55.5556,
        date="2026-11-28",
        notes="mean of 3 attempts at 6 questions, 95% CI [32.04, 76.58]; graded by butwait",
    )
    assert [entry] == eval_result_entries_to_yaml([theirs])


def rewritten(target: Path, change: Callable[[str, dict], dict | None]) -> Path:
    """inspect's log with members changed, or left out; packed by deflate."""
    with Archive(INSPECT) as archive, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as out:
        for name in archive.names:
            content = change(name, json.loads(archive.read(name)))
            if content is not None:
                out.writestr(name, json.dumps(content))
    return target


def lines(target: Path, change: Callable[[dict], dict | None]) -> Path:
    """lm-eval's log with lines changed, or left out."""
    rows = [change(json.loads(line)) for line in LM_EVAL.read_text().splitlines()]
    target.write_text("".join(json.dumps(row) + "\n" for row in rows if row is not None))
    return target


def details(target: Path, change: Callable[[dict], dict]) -> Path:
    """lighteval's log with rows changed."""
    rows = [change(row) for row in pq.read_table(LIGHTEVAL).to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows), target)
    return target


def without(row: dict, *names: str) -> dict:
    return {key: value for key, value in row.items() if key not in names}


def on_header(change: Callable[[dict], dict]) -> Callable[[str, dict], dict]:
    return lambda name, content: change(content) if name == "header.json" else content


def one_epoch_short(name: str, content: dict) -> dict | None:
    return None if name == "samples/2030-I-2_epoch_2.json" else content


def no_samples(name: str, content: dict) -> dict | None:
    return None if name.startswith("samples/") else content


def no_text(name: str, content: dict) -> dict:
    if name.startswith("samples/"):
        content["output"] = {"choices": []}
    return content


BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "cut zip": (
        lambda f: f.write_bytes(INSPECT.read_bytes()[:20_000]) and f.rename(f.parent / "a.eval"),
        "is no whole archive",
    ),
    "not a log": (lambda f: f.write_text("hello\n") and f, "is no log of an evaluation"),
    "bytes": (lambda f: f.write_bytes(bytes(range(256))) and f, "is no log of an evaluation"),
    "empty": (lambda f: (f.touch(), f)[1], "is no log of an evaluation"),
    "nothing": (lambda f: f, "cannot be read (No such file or directory)"),
    "empty folder": (lambda f: (f.mkdir(), f)[1], "holds no log of an evaluation"),
    "several logs": (lambda f: LOGS / "inspect", "holds several logs (2026-"),
    "results": (
        lambda f: next((LOGS / "lm_eval" / "org__small").glob("results_*.json")),
        "holds the results of an evaluation and no single answer",
    ),
    "other archive": (
        lambda f: rewritten(f, lambda n, c: c if n == "summaries.json" else None),
        "holds no header.json (no log)",
    ),
    "aborted": (
        lambda f: rewritten(f, lambda n, c: None if n == "header.json" else c),
        "holds no header.json (the evaluation did not finish)",
    ),
    "error": (
        lambda f: rewritten(
            f, on_header(lambda h: h | {"status": "error", "error": {"message": "no\nmemory"}})
        ),
        "did not finish (error: no)",
    ),
    "cancelled": (
        lambda f: rewritten(f, on_header(lambda h: h | {"status": "cancelled"})),
        "did not finish (cancelled)",
    ),
    "older schema": (
        lambda f: rewritten(f, on_header(lambda h: h | {"version": 1})),
        "has the log schema 1, and 2 is read here",
    ),
    "no eval": (
        lambda f: rewritten(f, on_header(lambda h: without(h, "eval"))),
        "has no field 'eval'",
    ),
    "epoch missing": (lambda f: rewritten(f, one_epoch_short), "has the epochs [1, 3]"),
    "no samples": (lambda f: rewritten(f, no_samples), "run the evaluation with log_samples on"),
    "no texts": (lambda f: rewritten(f, no_text), "keeps no texts"),
    "a field missing": (
        lambda f: lines(f.with_suffix(".jsonl"), lambda r: without(r, "resps")),
        "line 1 has no field 'resps'",
    ),
    "a number for a list": (
        lambda f: lines(f.with_suffix(".jsonl"), lambda r: r | {"resps": 3}),
        "has another kind of value in its field 'resps'",
    ),
    "log-likelihoods": (
        lambda f: lines(f.with_suffix(".jsonl"), lambda r: r | {"resps": [[["-1", "False"]]] * 4}),
        "holds no generated text",
    ),
    "two runs": (
        lambda f: lines(f.with_suffix(".jsonl"), lambda r: r | {"filter": "boxed"}),
        "stands twice with the filter 'boxed'",
    ),
    "unequal repeats": (
        lambda f: lines(
            f.with_suffix(".jsonl"),
            lambda r: r | {"resps": [r["resps"][0][:2]]} if r["doc_id"] == 2 else r,
        ),
        "holds 2 attempts at the question '2030-I-3' and 3 at others",
    ),
    "no JSON": (
        lambda f: (f := f.with_suffix(".jsonl")).write_text('{"doc_id": 1,\n') and f,
        "line 1 is no JSON",
    ),
    "no details": (
        lambda f: details(f, lambda r: without(r, "model_response") | {"predictions": ["1"]}),
        "has no column 'model_response'",
    ),
    "cut Parquet": (
        lambda f: f.write_bytes(LIGHTEVAL.read_bytes()[:5_000]) and f,
        "is no readable Parquet file",
    ),
    "no generation": (
        lambda f: details(f, lambda r: r | {"model_response": {"text": [], "input": ""}}),
        "row 1 holds no generated text",
    ),
    "no such choice": (
        lambda f: details(f, lambda r: r | {"doc": r["doc"] | {"gold_index": 9}}),
        "gold_index names none of its choices",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_log_is_told_in_a_sentence(case, tmp_path):
    make, told = BROKEN[case]
    with pytest.raises(UserError) as refused, Grader() as grader:
        grade_log(read_log(make(tmp_path / "log")), grader)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_damaged_member_is_named(tmp_path):
    data = bytearray(INSPECT.read_bytes())
    with zipfile.ZipFile(INSPECT) as archive:
        start = archive.getinfo("samples/2030-I-3_epoch_2.json").header_offset
    data[start + 500 : start + 520] = bytes(20)
    (tmp_path / "log.eval").write_bytes(data)
    with pytest.raises(UserError, match=r"member samples/2030-I-3_epoch_2\.json cannot"):
        read_log(tmp_path / "log.eval")


def test_a_member_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("butwait.evaluation.logs.archives.MOST_BYTES", 5_000)
    with pytest.raises(UserError, match=r"samples/2030-I-1_epoch_1.json cannot be read \(it unpa"):
        read_log(INSPECT)


def test_a_failed_sample_counts_neither_way(tmp_path):
    def fail(name: str, content: dict) -> dict:
        if name == "samples/2030-I-1_epoch_1.json":
            content["error"] = {"message": "timeout"}
        return content

    assert vector(rewritten(tmp_path / "log.eval", fail)).startswith("ucw cc-")


def test_a_question_whose_samples_all_failed_has_no_verdict(tmp_path):
    """It hides neither the log's other verdicts nor where they differ from butwait's."""

    def fail(name: str, content: dict) -> dict:
        if name.startswith("samples/2030-I-1_"):
            content |= {"error": {"message": "timeout"}, "scores": None}
        return content

    log = read_log(rewritten(tmp_path / "log.eval", fail))
    assert log.attempt_scores("math")["2030-I-1"] == (None, None, None)
    theirs = attempt_figures(score_log(log, "math").attempts)
    assert theirs["excluded"]["problems"] == ["2030-I-1"]
    assert theirs["n"] == 5
    with Grader() as grader:
        graded = grade_log(log, grader)
    assert [d["id"] for d in disagreements(graded, "math")] == ["2030-I-3"]


def test_parts_attachments_and_strange_characters_are_read(tmp_path):
    def change(name: str, content: dict) -> dict:
        if name == "samples/2030-I-1_epoch_1.json":
            parts = [
                {"type": "reasoning", "reasoning": r"\boxed{1}"},
                {"type": "text", "text": "\ud800\x00 so \\boxed{73}"},
            ]
            content["output"] = {"choices": [{"message": {"content": parts}}]}
        if name == "samples/2030-I-1_epoch_2.json":
            content["output"]["completion"] = "attachment://ab"
            content["attachments"] = {"ab": r"it is \boxed{74}"}
        return content

    log = rewritten(tmp_path / "log.eval", change)
    assert vector(log).startswith("cww cc-")
    first, second, _ = read_log(log).questions[0].attempts
    assert (first.text, second.text) == ("?\x00 so \\boxed{73}", r"it is \boxed{74}")


def test_one_log_in_a_folder_is_found(tmp_path):
    shutil.copy(INSPECT, tmp_path / "only.eval")
    assert read_log(tmp_path).path == tmp_path / "only.eval"


def test_a_log_in_json_is_found_in_a_folder_by_what_it_holds(tmp_path):
    (results,) = (LOGS / "lm_eval" / "org__small").glob("results_*.json")
    (tmp_path / "results.json").write_bytes(results.read_bytes())
    (tmp_path / "empty.json").touch()
    with pytest.raises(UserError, match="holds no log of an evaluation"):
        read_log(tmp_path)
    (tmp_path / "inner").mkdir()
    shutil.copy(INSPECT_JSON, tmp_path / "inner" / "one.json")
    assert read_log(tmp_path).path == tmp_path / "inner" / "one.json"
    shutil.copy(INSPECT_JSON, tmp_path / "two.json")
    with pytest.raises(UserError, match=r"several logs \(inner/one.json, two.json\); name one"):
        read_log(tmp_path)
    shutil.copy(INSPECT, tmp_path / "only.eval")
    assert read_log(tmp_path).path == tmp_path / "only.eval"

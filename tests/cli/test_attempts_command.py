"""`butwait attempts` and `butwait examples`."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from butwait.records import Attempt, AttemptTokens, Example, Span

QUESTIONS = {"p0": ("1 + 1?", "2"), "p1": ("2 + 2?", "4")}


@pytest.fixture
def run(own_folder: Path) -> Path:
    """runs/mine with an evaluation of two questions (one in a shard, one not yet) and examples."""
    from butwait.evaluation.storage import write_shard
    from butwait.synthesis.dataset import save_examples

    run = own_folder / "runs" / "mine"
    folder = run / "base" / "attempts" / "test" / "plain"
    (folder / ".spool").mkdir(parents=True)
    (run / "problems").mkdir()
    rows = [{"id": i, "question": q, "answer": a} for i, (q, a) in QUESTIONS.items()]
    (run / "problems" / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    first = [
        Attempt("p0", 0, "so\n\\boxed{2}", "box", "2", "correct", 5, 0, 5, 0),
        Attempt("p0", 1, "\x1b[2Jlong [bold]", "length", None, "truncated", 9, 0, 9),
    ]
    second = [
        Attempt("p1", 0, "\\boxed{5}", "box", "5", "wrong", 4, 0, 4, 1),
        Attempt("p1", 1, "\\boxed{5}", "box", "5", "wrong", 4, 0, 4, 1),
    ]
    write_shard(folder / "shard-00000.parquet", [first])
    write_shard(folder / ".spool" / "00000000.parquet", [first])  # its shard was made meanwhile
    write_shard(folder / ".spool" / "00000001.parquet", [second])
    spans = (Span("mistake", 0, 2, "1 + 1 = 3"), Span("recovery", 2, 5, "no: \\boxed{2}"))
    mask = np.array([False, False, True, True, True])
    ids = np.arange(5, dtype=np.int32)
    asked = [{"role": "user", "content": "1 + 1?"}]
    made = Example("p0", ids[:1], ids, mask, spans, asked, "1 + 1 = 3no: \\boxed{2}", "f")
    save_examples(run / "data" / "dataset", [made])
    for name, kind in (("base", "evaluate"), ("data", "backtrack")):
        record = {"fingerprint": "f", "status": "running", "seconds": 1.0, "kind": kind}
        (run / name / "stage.json").write_text(json.dumps(record))
    return run


def test_a_list_of_questions_or_of_stages(run: Path, command) -> None:
    code, out, _ = command("attempts", "mine/base")
    assert code == 0
    assert "test by plain: 4 attempts at 2 questions: 1 correct, 2 wrong, 1 truncated" in out
    assert "p0       1 of 2  2     2, –     1 + 1?" in out
    assert "p1       0 of 2  4     5 x2     2 + 2?" in out
    code, out, _ = command("attempts", run)
    assert "mine/base  (evaluate, running)" in out
    assert command("attempts")[1] == out.replace(str(run), "runs/mine")


def test_the_tokens_of_a_chosen_question_as_json(run: Path, command) -> None:
    from butwait.evaluation.storage import write_shard

    tokens = AttemptTokens(np.array([2, 0, 7], np.int32), np.array([-0.5, np.nan, -2], np.float16))
    row = Attempt("p0", 0, "so\\boxed{", "length", None, "truncated", 3, 0, 3, by_token=tokens)
    write_shard(run / "base/attempts/test/plain/shard-00000.parquet", [[row]])
    options = ("attempts", run / "base", "--problem", "p0", "--json")
    (found,) = json.loads(command(*options)[1])
    assert found["token_characters"] == [2, 0, 7]
    assert found["token_logprobs"] == [-0.5, None, -2]
    listed = json.loads(command("attempts", run / "base", "--json")[1])
    assert "token_logprobs" not in listed[0]


def test_texts_of_a_choice(run: Path, command) -> None:
    _, out, _ = command("attempts", run / "base", "--problem", "p0")
    assert "p0  (test by plain)\n  1 + 1?\n  gold answer: 2\n" in out
    assert "  attempt 1 of 2: correct, answer 2, 5 tokens, ended by box\n" in out
    assert "    (only the answer is verified, the steps are not)\n" in out
    assert "    so\n    \\boxed{2}\n" in out
    assert "    \\x1b[2Jlong [bold]\n" in out  # nothing in a text is obeyed
    assert "p1" not in out
    _, out, _ = command("attempts", run / "base", "--wrong")
    assert "attempt 2 of 2: truncated, 9 tokens, ended by length" in out
    assert "attempt 1 of 2: wrong, answer 5" in out
    assert "correct," not in out
    assert "has no such attempt" in command("attempts", run / "base", "--status", "no_answer")[1]


def test_attempts_as_json(run: Path, command) -> None:
    rows = json.loads(command("attempts", run / "base", "--json")[1])
    assert [(row["problem_id"], row["sample"], row["status"]) for row in rows] == [
        ("p0", 0, "correct"), ("p0", 1, "truncated"), ("p1", 0, "wrong"), ("p1", 1, "wrong"),
    ]  # fmt: skip
    assert rows[0] == {
        "set": "test", "method": "plain", "problem_id": "p0", "question": "1 + 1?", "gold": "2",
        "sample": 0, "text": "so\n\\boxed{2}", "finish": "box", "answer": "2", "status": "correct",
        "tokens": 5, "reward_tokens": 0, "length": 5, "answer_class": 0, "score": None,
    }  # fmt: skip
    chosen = command("attempts", run / "base", "--status", "wrong", "--problem", "p1", "--json")[1]
    assert json.loads(chosen) == rows[2:]
    assert json.loads(command("attempts", run / "base", "--status", "no_answer", "--json")[1]) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--problem", "P0"], "no problem 'P0' among its 2; did you mean p0?"),
        (["--status", "right"], "--status: 'right' is none of correct, wrong, no_answer"),
        (["--status", "wrong", "--wrong"], "--wrong and --status are two choices"),
        (["--method", "filter"], "--method: runs/mine/base has no 'filter' (it has plain)"),
        (["--problems", "train"], "--problems: runs/mine/base has no 'train' (it has test)"),
    ],
)
def test_mistakes_of_a_choice(run: Path, command, words: list[str], told: str) -> None:
    code, out, error = command("attempts", "mine/base", *words)
    assert (code, out) == (2, "")
    assert told in error


def test_places_without_attempts(run: Path, command) -> None:
    for place, told in (
        ("mine/data", "the stage runs/mine/data (kind backtrack, running) holds no attempts"),
        ("nowhere", "nowhere holds no attempts: give RUN/STAGE, or RUN for a list"),
    ):
        code, _, error = command("attempts", place)
        assert code == 2
        assert told in error


def test_examples(run: Path, command) -> None:
    _, out, _ = command("examples", "mine/data")
    assert "runs/mine/data: 1 examples of 1 questions, 3 tokens with loss" in out
    assert "p0       1       5       3          mistake, recovery  1 + 1 = 3no" in out
    _, out, _ = command("examples", "mine/data", "--wrong")
    assert "p0  (example 1 of 1)\n  1 + 1?\n  gold answer: 2\n" in out
    assert "  mistake: 2 tokens, 0 with loss\n    1 + 1 = 3\n" in out
    assert "  recovery: 3 tokens, 3 with loss\n    no: \\boxed{2}\n" in out
    (row,) = json.loads(command("examples", "mine/data", "--json")[1])
    assert (row["gold"], row["loss_tokens"]) == ("2", 3)
    assert row["spans"][0] == {
        "role": "mistake", "start": 0, "end": 2, "loss_tokens": 0, "text": "1 + 1 = 3",
    }  # fmt: skip
    code, _, error = command("examples", "mine/data", "--role", "doubt")
    assert code == 2
    assert "no example of runs/mine/data has 'doubt' (they have mistake, recovery)" in error


def test_an_example_stands_beside_the_question_that_it_answers(run: Path, command) -> None:
    """Other sets have its id for other questions, before and after it in the order of names."""

    def asked(**questions: str) -> None:
        for name, question in questions.items():
            row = {"id": "p0", "question": question, "answer": name}
            (run / "problems" / f"{name}.jsonl").write_text(json.dumps(row) + "\n")

    def told() -> tuple[str | None, str | None]:
        (row,) = json.loads(command("examples", "mine/data", "--json")[1])
        return row["question"], row["gold"]

    asked(a="7 + 7?", test="1 + 1?", z="9 + 9?")
    assert told() == ("1 + 1?", "test")
    assert "1 + 1?\n  gold answer: test" in command("examples", "mine/data", "--all")[1]
    asked(a="+ 1?")  # a part of the prompt too
    assert told() == ("1 + 1?", "test")
    asked(a="7 + 7?", test="2 + 2?")
    assert told() == (None, None)  # none of three that it could be
    asked(a="7 + 7?", test="7 + 7?", z="7 + 7?")
    assert told()[0] == "7 + 7?"


def test_a_terminal_has_a_pager(run: Path, command, monkeypatch: pytest.MonkeyPatch) -> None:
    paged = run / "paged.txt"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("PAGER", f"tee {paged}")
    code, _, _ = command("attempts", "mine/base")
    assert code == 0
    assert "test by plain: 4 attempts" in paged.read_text()
    monkeypatch.setenv("PAGER", "true")  # it is left at once
    assert command("attempts", "mine/base", "--all")[0] == 0
    monkeypatch.setenv("PAGER", "no-such-pager")
    code, _, error = command("attempts", "mine/base")
    assert code == 2
    assert "PAGER: no-such-pager does not start" in error

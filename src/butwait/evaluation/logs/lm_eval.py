"""lm-eval's ``samples_TASK_TIME.jsonl``: a line for every question and filter (0.4.13)."""

from pathlib import Path
from typing import Any

from butwait.evaluation.logs.records import (
    Log,
    LoggedAttempt,
    LoggedQuestion,
    as_text,
    held,
    number,
)
from butwait.problems.answers import read_gold
from butwait.records import UserError
from butwait.running.json_lines import Row, numbered_rows, parsed

_QUESTIONS = ("question", "problem", "query", "input", "prompt")


def read_lm_eval(path: Path) -> Log:
    """The log. All filters of a question look at the same texts, which are read once; their scores
    are kept apart, as ``metric,filter``.

    With repeats, lm-eval keeps one number a question and filter, of the first text or of all.

    Raises UserError for a file that lacks a field, holds two runs, or has no texts.
    """
    questions: dict[str, LoggedQuestion] = {}
    scores: dict[str, dict[str, tuple[float | None, ...]]] = {}
    rows = numbered_rows(path)
    ids = _ids(rows, path)
    seen, prompts = set(), False
    for line, row in rows.items():
        where = f"{path}, line {line}"
        name, chosen = ids[line], str(row.get("filter", "none"))
        if (name, chosen) in seen:
            raise UserError(
                f"{where}: the question {name!r} stands twice with the filter {chosen!r}; two runs "
                "were written to one file, keep one of them"
            )
        seen.add((name, chosen))
        question, whole = _question(row, name, where)
        prompts = prompts or whole
        known = questions.setdefault(name, question)
        if known.attempts != question.attempts or known.golds != question.golds:
            raise UserError(f"{where}: the filters of the question {name!r} hold different texts")
        for metric in row.get("metrics") or ():
            score = (number(row.get(str(metric))),)
            scores.setdefault(f"{metric},{chosen}", {})[name] = score
    task, model = _names(path)
    return Log(path, "lm-eval", task, model, tuple(questions.values()), scores, prompts)


def _ids(rows: dict[int, Row], path: Path) -> dict[int, str]:
    """Line -> the question's own id where the documents have one that tells them apart, else its
    number in the task."""
    numbers = {
        line: held(r, "doc_id", (int, str), f"{path}, line {line}") for line, r in rows.items()
    }
    own = {line: row["doc"].get("id") if isinstance(row.get("doc"), dict) else None
           for line, row in rows.items()}  # fmt: skip
    pairs = {(numbers[line], own[line]) for line in rows if isinstance(own[line], str | int)}
    told = len(pairs) == len(set(numbers.values())) == len({name for _, name in pairs})
    return {line: str(own[line] if told else numbers[line]) for line in rows}


def _question(row: Row, name: str, where: str) -> tuple[LoggedQuestion, bool]:
    """The question of a line; and whether its text is the whole prompt."""
    document = held(row, "doc", dict, where)
    target = as_text(row.get("target"), f"{where}, target")
    requests = held(row, "resps", list, where)
    texts: Any = requests[0] if len(requests) == 1 else None
    if not (isinstance(texts, list) and texts and all(isinstance(t, str) for t in texts)):
        raise UserError(
            f"{where} holds no generated text: tasks that compare log-likelihoods of choices "
            "cannot be graded again, and --theirs needs one answer a question too"
        )
    asked = {key.lower(): value for key, value in document.items() if isinstance(value, str)}
    text = next((asked[key] for key in _QUESTIONS if asked.get(key)), None)
    prompt = text is None
    if text is None:
        arguments = held(row, "arguments", dict, where)
        text = (arguments.get("gen_args_0") or {}).get("arg_0")
    attempts = tuple(LoggedAttempt(as_text(t, where)) for t in texts)
    question = as_text(text, f"{where}, arguments")
    return LoggedQuestion(name, question, (read_gold(target),), attempts), prompt


def _names(path: Path) -> tuple[str, str]:
    """The task, by the file's name; the model, which stands in ``results_TIME.json`` beside it."""
    task, _, time = path.stem.removeprefix("samples_").rpartition("_")
    results = path.with_name(f"results_{time}.json")
    model: Any = None
    if results.is_file():
        try:
            content = parsed(results.read_text(encoding="utf-8"))
        except (ValueError, OSError):
            content = None
        model = content.get("model_name") if isinstance(content, dict) else None
    return task or path.stem, str(model or path.absolute().parent.name.replace("__", "/"))

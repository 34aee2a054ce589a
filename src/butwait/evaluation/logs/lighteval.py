"""lighteval's ``details_TASK_TIME.parquet``: a row a question (0.13)."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

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

_COLUMNS = ("doc", "metric", "model_response")


def read_lighteval(path: Path) -> Log:
    """The log. lighteval keeps the mean over a question's samples and not which were right, so it
    is of one number a question; the text of a question is the whole prompt.

    Raises UserError for a file of other columns or without texts.
    """
    try:
        names = pq.read_schema(path).names
        if missing := [name for name in _COLUMNS if name not in names]:
            raise UserError(
                f"{path} is no file of details of lighteval 0.10 or later: it has no column "
                f"{missing[0]!r} (it has {', '.join(names[:12])}); run the evaluation with a later "
                "version and save_details"
            )
        rows = pq.read_table(path, columns=list(_COLUMNS)).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path} is no readable Parquet file ({str(error).splitlines()[0]}); copy it again"
        ) from error
    questions, task = [], ""
    scores: dict[str, dict[str, tuple[float | None, ...]]] = {}
    for place, row in enumerate(rows, 1):
        where = f"{path}, row {place}"
        document = held(row, "doc", dict, where)
        task = str(document.get("task_name") or task)
        question = _question(document, held(row, "model_response", dict, where), where)
        questions.append(question)
        for metric, value in (row["metric"] or {}).items():
            scores.setdefault(str(metric), {})[question.id] = (number(value),)
    if all(question.id.isdecimal() for question in questions):
        questions.sort(key=lambda question: int(question.id))
    task = task.partition("|")[0] or path.stem
    return Log(path, "lighteval", task, _model(path), tuple(questions), scores, prompts=True)


def _question(document: dict[str, Any], response: dict[str, Any], where: str) -> LoggedQuestion:
    name = as_text(document.get("id"), f"{where}, doc.id")
    choices = held(document, "choices", list, f"{where}, doc")
    right = document.get("gold_index")
    places: list[Any] = right if isinstance(right, list) else [right]
    if not places or not all(isinstance(i, int) and 0 <= i < len(choices) for i in places):
        raise UserError(f"{where}, doc: gold_index names none of its choices")
    golds = tuple(read_gold(as_text(choices[i], f"{where}, doc.choices")) for i in places)
    texts = response.get("text") or []
    if not texts:
        raise UserError(
            f"{where} holds no generated text: tasks that compare log-likelihoods of choices "
            "cannot be graded again"
        )
    tokens = response.get("output_tokens") or []
    most = document.get("generation_size")
    attempts = []
    for sample, text in enumerate(texts):
        length = len(tokens[sample] or ()) if len(tokens) == len(texts) else None
        cut = length is not None and isinstance(most, int) and 0 < most <= length
        attempts.append(LoggedAttempt(as_text(text, where), cut, length))
    query = as_text(document.get("query"), f"{where}, doc.query")
    return LoggedQuestion(name, query, golds, tuple(attempts))


def _model(path: Path) -> str:
    """``details/MODEL/TIME/details_...``: the folders between."""
    parts = path.absolute().parent.parent.parts
    if "details" not in parts:
        return path.stem
    return "/".join(parts[len(parts) - parts[::-1].index("details") :]) or path.stem

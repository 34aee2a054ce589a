"""Questions as a program gives them: texts, ``Problem``s, a source, a problem set of a recipe."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from butwait.api.objects import Verifier, plain, text_of, verifier_place
from butwait.api.question import Given, written
from butwait.problems.answers import answer_kind, read_gold, without_blanks
from butwait.problems.kinds.kept import SUFFIX
from butwait.problems.overlap import text_id
from butwait.problems.settings import ProblemSetSettings
from butwait.records import AnswerKind, Problem, UserError
from butwait.records.settings import Settings
from butwait.running.expected import nearest
from butwait.running.files import atomic_path
from butwait.running.identity import fingerprint
from butwait.running.json_lines import dump_rows

Problems = str | Path | Given | Sequence[str | Problem]
"""A recipe's ``source``, a whole problem set of a recipe, or questions."""
ProblemSets = Problems | Mapping[str, Problems]
"""Or several sets by name."""


def problem_of(
    question: str | Problem, gold: str | float | None = None, verified: bool = False
) -> Problem:
    """A question with its gold answer, if it has one: of a whole solution the answer it ends in,
    but where a verifier judges (``verified``). UserError for what is no question."""
    if isinstance(question, Problem):
        _check_fields(question)
        verified = verified or question.verifier is not None
        if gold is None:
            return question if verified or question.answer_kind == "text" else _read(question)
        gold = _gold(gold, verified)
        return replace(question, answer=gold, also=(), answer_kind=answer_kind(gold))
    if isinstance(question, Mapping | tuple):
        raise UserError(
            f"a question is a text, or a butwait.Problem(id, question, answer), and this is "
            f"{question!r:.80}; make a Problem of it"
        )
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"a question is a text, and this is {question!r:.80}")
    found = None if gold is None else _gold(gold, verified)
    kind = "math" if found is None else answer_kind(found)
    return Problem(text_id(question), question, found, kind)


def _check_fields(problem: Problem) -> None:
    """UserError for fields that no file could hold, before anything is computed."""
    told = f"problems: of Problem(id={problem.id!r:.60}, ...)"
    for name in ("id", "question"):
        if not isinstance(value := getattr(problem, name), str) or not value.strip():
            raise UserError(f"{told} {name} must be a text, not {value!r:.60}")
    for name in ("answer", "solution", "verifier"):
        if not isinstance(value := getattr(problem, name), str | None):
            raise UserError(f"{told} {name} must be a text or None, not {value!r:.60}")
    for gold in problem.also:
        if not isinstance(gold, str):
            raise UserError(f"{told} also must hold texts, not {gold!r:.60}")
    if problem.answer_kind not in get_args(AnswerKind):
        kinds = ", ".join(get_args(AnswerKind))
        raise UserError(
            f"{told} answer_kind must be one of {kinds}, not {problem.answer_kind!r:.60}"
        )
    try:
        written = json.dumps(problem.metadata, default=str)
    except Exception as error:  # a class of the caller's own may fail at anything
        raise UserError(f"{told} metadata cannot be written as JSON ({error})") from error
    if not written.startswith("{"):
        raise UserError(f"{told} metadata must be a dict, not {problem.metadata!r:.60}")


def _gold(gold: str | float, verified: bool) -> str:
    text = text_of(gold, "gold")
    return text if verified else read_gold(text)


def _read(problem: Problem) -> Problem:
    golds = tuple(read_gold(gold) for gold in problem.golds)
    if golds == problem.golds:
        return problem
    return replace(problem, answer=golds[0], also=golds[1:])


def problems_of(questions: Any) -> list[Problem]:
    """Questions of a program. UserError for what is none, and for one that stands there twice."""
    if not isinstance(questions, Iterable) or hasattr(questions, "columns"):
        raise UserError(
            f"problems: questions are a list of texts or Problems, or a source, and this is a "
            f"{type(questions).__name__}"
        )
    asked = [problem_of(question) for question in questions]
    if not asked:
        raise UserError("problems: there is no question")
    twice = [name for name, times in Counter(p.id for p in asked).items() if times > 1]
    if twice:
        told = next(p.question for p in asked if p.id == twice[0])
        raise UserError(f"a question stands there twice: {told[:80]!r}")
    return asked


def by_name(problems: ProblemSets) -> dict[str | None, Problems]:
    """Problem sets by name; None is the name of one that was given without."""
    if not isinstance(problems, Mapping):
        return {None: problems}
    keys = list(ProblemSetSettings.model_fields)
    if any(nearest(key, keys) in keys[:1] or key in keys for key in problems):
        return {None: problems}
    return {str(name): given for name, given in problems.items()}


def set_content(problems: Problems, run: Path, verifier: Verifier | None) -> dict[str, Any]:
    """A problem set as a recipe in this run writes it. Questions go to a file of the run."""
    content: dict[str, Any]
    if isinstance(problems, str | Path):
        content = {"source": str(problems)}
    elif isinstance(problems, Mapping | Settings):
        content = written(problems, "problems", stored=True)
    else:
        asked = problems_of(problems)
        for problem in asked:
            if verifier is None and not without_blanks(problem).judged:
                raise UserError(
                    f"problems: {problem.question[:80]!r} has no gold answer, which a stage on "
                    "disk needs; give Problem(id, question, answer), or a verifier"
                )
        content = {"source": str(_stored(asked, run))}
    if verifier is not None:
        content["verifier"] = verifier_place(verifier, stored=True)
    return content


def set_name(content: Mapping[str, Any]) -> str:
    """What a problem set is called that nobody named: after its source, and its split."""
    source = str(content.get("source", ""))
    if source.endswith(SUFFIX):
        return "questions"
    last = source.rstrip("/").rpartition("/")[2]
    if not source.startswith("gym:"):
        last = last.partition(".")[0] or last
    words = (last, content.get("split"))
    parts = (re.sub(r"[^\w-]+", "-", str(word)).strip("-") for word in words if word)
    return "-".join(filter(None, parts)) or "questions"


def _stored(problems: list[Problem], run: Path) -> Path:
    """The file of these problems, called by their content."""
    rows = [plain(problem.row(), "problems", stored=True) for problem in problems]
    file = run / "problems" / "given" / f"{fingerprint(dump_rows(rows))}{SUFFIX}"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as path:
            path.write_text(dump_rows(rows), encoding="utf-8")
    return file

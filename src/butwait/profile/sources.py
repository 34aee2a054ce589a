"""Solutions to look at: a stage of a run, a file, or a data set of the hub."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from butwait.problems.cells import NOTHING, cell, number_text, text_of, whole
from butwait.problems.kinds.files import Row, read_rows
from butwait.problems.kinds.hub import read_hub_rows
from butwait.problems.overlap import text_id
from butwait.problems.settings import ProblemSetSettings
from butwait.records import COMPLETE, UserError
from butwait.running.files import expanded
from butwait.running.stages import Stage, read_stage
from butwait.running.tables import names_file, suffixes

SOLUTION_COLUMNS = ("solution", "completion", "response", "text")
"""Columns that may hold the solutions, the first that a file has."""

_HUB = re.compile(r"(?P<source>[\w.-]+/[\w.-]+)(?::(?P<subset>[\w.-]*)(?::(?P<split>.+))?)?")


@dataclass(frozen=True, slots=True)
class SourceSolution:
    """Attributes:
    question: names the question; equal in two sources where the question is the same.
    text: the solution.
    answer: the gold answer, where the source tells it.
    tokens: length in the tokens of the model that wrote it, where the source tells it.
    """

    question: str
    text: str
    answer: str | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A named set of solutions.

    Attributes:
        name: its name.
        solutions: what it holds.
        skipped: rows that had no solution.
        model: the model of the run that it comes from; its tokens are this model's. None for a
            file.
    """

    name: str
    solutions: list[SourceSolution]
    skipped: int = 0
    model: str | None = None


def read_source(spec: str, column: str | None = None) -> list[Source]:
    """The sources of ``NAME=PATH`` or ``PATH``.

    One source, or one for each problem set and method of an evaluation that has several.

    Args:
        spec: PATH is RUN/STAGE, a table's file (``running.tables``), or a data set of the hub:
            ``owner/name``, ``owner/name:subset`` or ``owner/name:subset:split``; an empty subset
            is the set's own default, and the split is ``train`` by default.
        column: the column of a file's solutions; None: the first of ``SOLUTION_COLUMNS``.

    Raises UserError for what is not there, cannot be read or holds no solution.
    """
    name, equals, place = spec.partition("=")
    if not equals:
        name, place = "", spec
    elif not name or not place:
        raise UserError(f"{spec!r} names no source; write NAME=PATH")
    path = expanded(place)
    if path.is_dir():
        sources = _of_stage(path, name)
    elif names_file(place):
        sources = [_of_rows(name or path.stem, read_rows(path), place, column)]
    elif (found := _HUB.fullmatch(place)) and not path.exists() and not path.parent.is_dir():
        given = {key: value for key, value in found.groupdict().items() if value}
        rows = read_hub_rows(ProblemSetSettings.model_validate(given))
        sources = [_of_rows(name or place, rows, place, column)]
    else:
        raise UserError(
            f"{place} is no source of solutions; give RUN/STAGE, a file that ends in {suffixes()}, "
            "or a data set of the hub (owner/name or owner/name:subset:split)"
        )
    for source in sources:
        if not source.solutions:
            raise UserError(f"{place} holds no solution that says something")
    return sources


def _of_rows(name: str, rows: list[Row], place: str, column: str | None) -> Source:
    there = dict.fromkeys(key for row in rows for key in row)
    wanted = (column,) if column else SOLUTION_COLUMNS
    held = next((key for key in wanted if any(cell(row, key) is not NOTHING for row in rows)), None)
    if held is None:
        sought = repr(column) if column else f"of solutions ({', '.join(SOLUTION_COLUMNS)})"
        raise UserError(
            f"{place} has no column {sought}; it has {', '.join(there)} (choose with --column)"
        )
    texts = [
        _text(cell(row, held), f"{place}: row {number}", held)
        for number, row in enumerate(rows, start=1)
    ]
    kept = [
        SourceSolution(_question(row, number), text, _answer(row))
        for number, (row, text) in enumerate(zip(rows, texts, strict=True), start=1)
        if text is not None
    ]
    return Source(name, kept, len(rows) - len(kept))


def _question(row: Row, number: int) -> str:
    for key in ("question", "problem"):
        if isinstance(row.get(key), str) and row[key].strip():
            return text_id(row[key])
    return str(row.get("problem_id") or row.get("id") or f"row {number}")


def _text(value: Any, place: str, column: str) -> str | None:
    """A solution as it is written, with its white space; None where there is none."""
    text = text_of(value, place, column)
    return whole(value) if text is not None and isinstance(value, str) else text


def _answer(row: Row) -> str | None:
    """The gold answer, where it is a text or a number."""
    answer = row.get("answer")
    return answer if isinstance(answer, str) else number_text(answer) or None


def _of_stage(path: Path, name: str) -> list[Source]:
    stage = read_stage(path)
    if stage is None:
        raise UserError(f"{path} is no stage of a run (it has no stage.json); give RUN/STAGE")
    if not stage.complete:
        raise UserError(f"the stage {path} is not finished; run its recipe first")
    name, folder = name or path.name, path.parent / "problems"
    if (path / "attempts").is_dir():
        sources = _attempts(stage, name, folder)
    elif (path / "trees").is_dir():
        sources = [Source(name, list(_finished_paths(path, _problems(folder, *_sets(stage)))))]
    elif (path / "dataset").is_dir():
        sources = [Source(name, list(_examples(path, _problems(folder, *_sets(stage)))))]
    else:
        kind = stage.record.get("kind")
        raise UserError(f"{path} is a stage of kind {kind}: it holds no solutions")
    return [replace(source, model=_model(stage)) for source in sources]


def _sets(stage: Stage) -> set[str]:
    """The problem sets of a stage, or of those that it takes from, as far as they name any."""
    if own := stage.record.get("settings", {}).get("problems"):
        return {own}
    above = (read_stage(stage.path.parent / source) for source in stage.record.get("from", ()))
    return set().union(*(_sets(source) for source in above if source))


def _model(stage: Stage) -> str | None:
    """The recipe's model, whose tokenizer every stage of the run shares."""
    model = stage.record.get("settings", {}).get("recipe", {}).get("model", {})
    name, revision = model.get("name"), model.get("revision")
    return f"{name}@{revision}" if revision else name


def _attempts(stage: Stage, name: str, problem_sets: Path) -> list[Source]:
    from butwait.evaluation.storage import read_attempts

    root = stage.path / "attempts"
    folders = sorted(shard.parent for shard in root.glob("*/*/shard-00000.parquet"))
    sources = []
    for folder in folders or [root]:
        label = name if len(folders) == 1 else f"{name}/{folder.relative_to(root)}"
        rows, problems = read_attempts(folder), _problems(problem_sets, folder.parent.name)
        kept = [
            _solution(row.problem_id, row.text, row.length, problems)
            for row in rows
            if row.text.strip()
        ]
        sources.append(Source(label, kept, len(rows) - len(kept)))
    return sources


def _finished_paths(path: Path, problems: dict[str, Row]) -> Iterator[SourceSolution]:
    """Every finished final particle, each once, of a search's trees."""
    from butwait.search.storage import read_trees

    for tree in read_trees(path / "trees"):
        for leaf in sorted({int(leaf) for leaf in tree.leaves}):
            text = tree.path_text(leaf)
            if tree.nodes[leaf].finish in COMPLETE and text.strip():
                yield _solution(tree.problem_id, text, len(tree.path_tokens(leaf)), problems)


def _examples(path: Path, problems: dict[str, Row]) -> Iterator[SourceSolution]:
    from butwait.synthesis.dataset import load_examples

    for row in load_examples(path / "dataset"):
        yield _solution(row.problem_id, row.text, len(row.completion_ids), problems)


def _solution(problem: str, text: str, tokens: int, problems: dict[str, Row]) -> SourceSolution:
    row: dict[str, Any] = problems.get(problem, {"id": problem})
    return SourceSolution(_question(row, 0), text, _answer(row), tokens)


def _problems(folder: Path, *sets: str) -> dict[str, Row]:
    """The run's problems by id, of some sets or of all; empty where it keeps none."""
    return {
        str(row.get("id")): row
        for file in sorted(folder.glob("*.jsonl"))
        if not sets or file.stem in sets
        for row in read_rows(file)
    }

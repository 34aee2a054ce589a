"""Attempts of an evaluation for the page: a table of all, their texts in chunks."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from butwait.records import UserError
from butwait.view.folders import Folder, Part, parquet, unreadable
from butwait.view.questions import Questions
from butwait.view.script import Names, clip, numbers

CHUNK = 16
"""Attempts whose texts are sent together, of one file at most."""
QUESTION = 2000
"""Characters of a question in the table."""

_COLUMNS = ("problem_id", "sample", "finish", "answer", "status", "tokens", "length")
_SCORE = "score"
_CHUNK_ID = re.compile(r"(\d{1,4})-(\d{1,4})-(s?\d{1,9})-(\d{1,9})")
_PARAGRAPH = ("\n\n",)


def attempt_table(folder: Folder, stage: str) -> dict[str, Any]:
    """All attempts of a stage that are on disk, one entry an attempt in each column."""
    questions = Questions(folder, stage)
    sets, methods = _named(folder, stage)
    names = {name: Names() for name in ("status", "answer", "finish")}
    problems: dict[tuple[str, str], int] = {}
    columns: dict[str, list] = {
        name: [] for name in ("problem", "sample", "set", "method", "length", "tokens", "score")
    }
    columns |= {name: [] for name in names}
    chunks: list[dict[str, Any]] = []
    notes: list[str] = []
    for s, problem_set in enumerate(sets):
        for m, method in enumerate(methods):
            seen: set[str] = set()
            for part in _parts(folder, stage, problem_set, method):
                try:
                    rows = folder.digest(part.path, "attempts", _digest)
                except (UserError, OSError):
                    notes.append(unreadable(part.path))
                    continue
                own = set(rows["problem_id"])
                if own & seen:  # in a shard by now, and the spool is being emptied
                    continue
                seen |= own
                chunks += _chunks(f"{s}-{m}-{part.name}", len(columns["set"]), len(rows["sample"]))
                columns["set"] += [s] * len(rows["sample"])
                columns["method"] += [m] * len(rows["sample"])
                columns["problem"] += [
                    problems.setdefault((problem_set, problem), len(problems))
                    for problem in rows["problem_id"]
                ]
                for name in ("sample", "length", "tokens", "score"):
                    columns[name] += rows[name]
                for name, known in names.items():
                    columns[name] += [known.place(text) for text in rows[name]]
    asked = [(s, problem, questions.of(problem, s)) for s, problem in problems]
    scored = any(score is not None for score in columns["score"])
    return {
        "stage": stage,
        "notes": notes,
        "problems": [
            {"id": p, "question": clip(known.question, QUESTION), "gold": known.gold, "set": s}
            for s, p, known in asked
        ],
        "sets": sets,
        "methods": methods,
        "statuses": names["status"].texts,
        "answers": names["answer"].texts,
        "finishes": names["finish"].texts,
        "chunks": chunks,
        **columns,
        "score": numbers(columns["score"]) if scored else None,
    }


def attempt_texts(folder: Folder, stage: str, chunk: str) -> dict[str, Any]:
    """The texts of some attempts, step by step. Raises KeyError for what is no id of a chunk,
    UserError where there is none (any more)."""
    found = _CHUNK_ID.fullmatch(chunk)
    if found is None:
        raise KeyError(chunk)
    sets, methods = _named(folder, stage)
    s, m, number = int(found[1]), int(found[2]), int(found[4])
    gone = UserError(f"{stage} has no attempts {chunk} (any more): look at the table again")
    if s >= len(sets) or m >= len(methods):
        raise gone
    parts = _parts(folder, stage, sets[s], methods[m])
    part = next((part for part in parts if part.name == found[3]), None)
    if part is None:
        raise gone
    texts = _texts(part.path, number * CHUNK)
    if not texts:
        raise gone
    delimiters = _delimiters(folder, stage, methods[m])
    return {"texts": [{"steps": steps(text, delimiters)} for text in texts]}


def steps(text: str, delimiters: Iterable[str]) -> list[str]:
    """A text cut after each of its delimiters; joined again they are the text."""
    ends = "|".join(re.escape(each) for each in delimiters if each)
    if not ends:
        return [text]
    found, start = [], 0
    for end in re.finditer(ends, text):
        found.append(text[start : end.end()])
        start = end.end()
    return [*found, text[start:]] if start < len(text) or not found else found


def _parts(folder: Folder, stage: str, problem_set: str, method: str) -> list[Part]:
    return folder.parts(folder.path / stage / "attempts" / problem_set / method)


def _named(folder: Folder, stage: str) -> tuple[list[str], list[str]]:
    """Problem sets and methods: in the settings' order, then what else has a folder."""
    attempts = folder.stage(stage) / "attempts"
    settings = folder.record(stage).get("settings")
    settings = settings if isinstance(settings, dict) else {}
    there = {p.name: _folders(p) for p in attempts.glob("*") if p.is_dir()}
    sets = _texts_of(settings.get("problems"))
    methods = _texts_of(settings.get("methods"))
    sets += sorted(there.keys() - set(sets))
    methods += sorted({name for names in there.values() for name in names} - set(methods))
    return sets, methods


def _folders(path: Path) -> list[str]:
    return [held.name for held in path.glob("*") if held.is_dir()]


def _texts_of(names: Any) -> list[str]:
    known = names if isinstance(names, list | dict) else []
    return [name for name in known if isinstance(name, str) and "/" not in name and name != ".."]


def _chunks(part: str, start: int, count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"{part}-{n}", "from": start + n * CHUNK, "count": min(CHUNK, count - n * CHUNK)}
        for n in range(-(-count // CHUNK))
    ]


def _digest(path: Path) -> dict[str, list]:
    with parquet(path) as file:
        scored = _SCORE in file.schema_arrow.names
        wanted = [*_COLUMNS, _SCORE] if scored else list(_COLUMNS)
        table = file.read(columns=wanted, use_threads=False)
        if missing := set(wanted) - set(table.column_names):
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        columns = {name: table[name].to_pylist() for name in wanted}
    return {_SCORE: [None] * len(columns["sample"])} | columns


def _texts(path: Path, start: int) -> list[str]:
    """Those of a chunk; the other texts of the file are passed by, a few at a time."""
    at, found = 0, []
    with parquet(path) as file:
        for batch in file.iter_batches(CHUNK, columns=["text"], use_threads=False):
            first, last = max(start - at, 0), min(start + CHUNK - at, batch.num_rows)
            if first < last:
                found += batch["text"].slice(first, last - first).to_pylist()
            at += batch.num_rows
            if at >= start + CHUNK:
                break
    return found


def _delimiters(folder: Folder, stage: str, method: str) -> tuple[str, ...]:
    """What ended a step of this method's; a blank line where no step was asked for."""
    at: Any = folder.record(stage).get("settings")
    for key in ("methods", method, "sampler", "step", "delimiters"):
        at = at.get(key) if isinstance(at, Mapping) else None
    found = tuple(d for d in at if isinstance(d, str) and d) if isinstance(at, list) else ()
    return found or _PARAGRAPH

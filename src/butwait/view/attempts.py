"""Attempts of an evaluation for the page: a table of all, their texts in chunks."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from butwait.evaluation.storage import TOKEN_NAMES
from butwait.records import UserError
from butwait.view.folders import Folder, Part, UnknownNameError, parquet, unreadable
from butwait.view.questions import Questions
from butwait.view.script import Names, clip, numbers

CHUNK = 16
"""Attempts whose texts are sent together, of one file at most."""
QUESTION = 2000
"""Characters of a question in the table."""

_NAMED = ("problem_id", "finish", "answer", "status")
_COUNTED = ("sample", "tokens", "length")
_SCORE = "score"
_ONE_UNIT = 0xFFFF
"""Characters beyond are two units of UTF-16."""
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
                own = rows.texts["problem_id"]
                if not seen.isdisjoint(own):  # in a shard by now, and the spool is being emptied
                    continue
                seen.update(own)
                count = len(rows.columns["sample"])
                chunks += _chunks(f"{s}-{m}-{part.name}", len(columns["set"]), count, rows.tokens)
                columns["set"] += [s] * count
                columns["method"] += [m] * count
                asked = [problems.setdefault((problem_set, p), len(problems)) for p in own]
                columns["problem"] += np.array(asked)[rows.columns["problem_id"]].tolist()
                for name in ("sample", "length", "tokens", "score"):
                    columns[name] += rows.columns[name].tolist()
                for name, known in names.items():
                    # The last place is that of no text, which is numbered -1.
                    places = np.array([*(known.place(text) for text in rows.texts[name]), -1])
                    columns[name] += places[rows.columns[name]].tolist()
    listed = [(s, problem, questions.of(problem, s)) for s, problem in problems]
    score = numbers(columns.pop("score"))
    return {
        "stage": stage,
        "made": folder.made(stage),
        "notes": notes,
        "problems": [
            {
                "id": p,
                "question": clip(known.question, QUESTION),
                "gold": known.gold,
                "set": s,
                "same": known.same,
            }
            for s, p, known in listed
        ],
        "sets": sets,
        "methods": methods,
        "statuses": names["status"].texts,
        "answers": names["answer"].texts,
        "finishes": names["finish"].texts,
        "chunks": chunks,
        **columns,
        "score": score if any(known is not None for known in score) else None,
    }


def attempt_texts(folder: Folder, stage: str, chunk: str) -> dict[str, Any]:
    """The texts of some attempts, step by step. Raises as ``_located``."""
    path, method, first = _located(folder, stage, chunk)
    delimiters = _delimiters(folder, stage, method)
    texts = _rows(path, first, ["text"])["text"].to_pylist()
    return {"texts": [{"steps": steps(text, delimiters)} for text in texts]}


def attempt_tokens(folder: Folder, stage: str, chunk: str) -> dict[str, Any]:
    """The tokens of some attempts: of each their lengths in its text, in UTF-16 units as a page
    counts them, and log-probabilities in nats; null where they were not stored. Raises as
    ``_located``."""
    path, _, first = _located(folder, stage, chunk)
    rows = _rows(path, first, ["text", *TOKEN_NAMES])
    columns = (rows[name] for name in TOKEN_NAMES if name in rows.column_names)
    by_token = list(zip(*columns, strict=True)) or [()] * rows.num_rows
    texts = rows["text"].to_pylist()
    return {"tokens": [_tokens(*row) for row in zip(texts, by_token, strict=True)]}


def _tokens(text: str, by_token: tuple[pa.Scalar, ...]) -> dict[str, list] | None:
    if not by_token or not all(column.is_valid for column in by_token):
        return None
    characters, logprobs = (c.values.to_numpy(zero_copy_only=False) for c in by_token)
    ends = np.cumsum(characters, dtype=np.int64)
    whole = len(ends) == len(logprobs) and (characters >= 0).all()
    if not whole or (int(ends[-1]) if len(ends) else 0) != len(text):
        raise ValueError("an attempt's tokens are not those of its text")
    if not text.isascii():
        wide = np.frombuffer(text.encode("utf-32-le"), np.uint32) > _ONE_UNIT
        ends += np.concatenate([[0], np.cumsum(wide)])[ends]
    return {"lengths": np.diff(ends, prepend=0).tolist(), "logprobs": numbers(logprobs, 3)}


def _located(folder: Folder, stage: str, chunk: str) -> tuple[Path, str, int]:
    """Of a chunk: its file, its method, and the row that it begins with. Raises UnknownNameError
    for what is no id of a chunk, UserError where there is none (any more)."""
    found = _CHUNK_ID.fullmatch(chunk)
    if found is None:
        raise UnknownNameError(chunk)
    sets, methods = _named(folder, stage)
    s, m, number = int(found[1]), int(found[2]), int(found[4])
    if s < len(sets) and m < len(methods):
        for part in _parts(folder, stage, sets[s], methods[m]):
            if part.name == found[3]:
                rows = folder.digest(part.path, "attempts", _digest).columns["sample"]
                if number * CHUNK < len(rows):
                    return part.path, methods[m], number * CHUNK
    raise UserError(f"{stage} has no attempts {chunk} (any more): look at the table again")


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


def _chunks(part: str, start: int, count: int, tokens: bool) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{part}-{n}",
            "from": start + n * CHUNK,
            "count": min(CHUNK, count - n * CHUNK),
            "tokens": tokens,
        }
        for n in range(-(-count // CHUNK))
    ]


class _Digest(NamedTuple):
    """The attempts of a file without their texts: ``columns`` of (n,) numbers, which of ``_NAMED``
    are places in ``texts``, -1 for none; and whether the file has their tokens. A few dozen bytes
    an attempt: a stage may have half a million."""

    columns: dict[str, np.ndarray]
    texts: dict[str, list[str]]
    tokens: bool


def _digest(path: Path) -> _Digest:
    columns: dict[str, np.ndarray] = {}
    texts: dict[str, list[str]] = {}
    with parquet(path) as file:
        table = file.read(columns=[*_NAMED, *_COUNTED, _SCORE], use_threads=False)
        if missing := {*_NAMED, *_COUNTED} - set(table.column_names):
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        for name in _NAMED:
            named = table[name].combine_chunks().dictionary_encode()
            texts[name] = named.dictionary.to_pylist()
            columns[name] = named.indices.fill_null(-1).to_numpy()
        for name in _COUNTED:
            columns[name] = table[name].to_numpy().astype(np.int64)
        has_tokens = set(TOKEN_NAMES) <= set(file.schema_arrow.names)
        scores = table[_SCORE].to_numpy() if _SCORE in table.column_names else None
    none = np.full(table.num_rows, np.nan, np.float32)
    columns[_SCORE] = none if scores is None else scores.astype(np.float32)
    return _Digest(columns, texts, has_tokens)


def _rows(path: Path, first: int, columns: list[str]) -> pa.Table:
    """A chunk's, of those columns that the file has. Row groups before it are not read; others of
    its own are passed by, a few at a time."""
    at, found = 0, []
    with parquet(path) as file:
        here = [name for name in columns if name in file.schema_arrow.names]
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if at + count <= first:
                at += count
                continue
            batches = file.iter_batches(CHUNK, row_groups=[group], columns=here, use_threads=False)
            for batch in batches:
                begin, end = max(first - at, 0), min(first + CHUNK - at, batch.num_rows)
                if begin < end:
                    found.append(batch.slice(begin, end - begin))
                at += batch.num_rows
                if at >= first + CHUNK:
                    break
            if at >= first + CHUNK:
                break
        return pa.Table.from_batches(found, pa.schema([file.schema_arrow.field(n) for n in here]))


def _delimiters(folder: Folder, stage: str, method: str) -> tuple[str, ...]:
    """What ended a step of this method's; a blank line where no step was asked for."""
    at: Any = folder.record(stage).get("settings")
    for key in ("methods", method, "sampler", "step", "delimiters"):
        at = at.get(key) if isinstance(at, Mapping) else None
    found = tuple(d for d in at if isinstance(d, str) and d) if isinstance(at, list) else ()
    return found or _PARAGRAPH

"""Training examples for the page, and what of each tree went into them.

Read from the Arrow files of a data set batch by batch; the library that wrote them takes seconds
to import.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from butwait.records import UserError
from butwait.view.folders import Folder, unreadable
from butwait.view.questions import Asked, Questions, asked_in
from butwait.view.script import Names, clip, flat

CHUNK = 16
"""Examples whose texts are sent together."""
QUESTION = 2000
_DATA = "dataset"

Table = dict[str, Any]


def has_examples(folder: Folder, stage: str) -> bool:
    """Whether a stage has a data set of examples."""
    return bool(_files(folder, stage))


def example_list(folder: Folder, stage: str) -> dict[str, Any]:
    """All examples of a stage, one entry an example in each column."""
    folder.stage(stage)
    table = _table(folder, stage)
    problems: dict[tuple[str, Asked], int] = {}
    asked = _asked(folder, stage, table["problem"])
    places = [
        problems.setdefault(each, len(problems))
        for each in zip(table["problem"], asked, strict=True)
    ]
    return {
        "stage": stage,
        "kind": folder.record(stage).get("kind"),
        "made": folder.made(stage),
        "chunk": CHUNK,
        "problems": [
            {"id": problem, "question": clip(known.question, QUESTION), "gold": known.gold}
            for problem, known in problems
        ],
        "problem": places,
        "tokens": table["tokens"],
        "loss_tokens": table["loss_tokens"],
        "spans": table["spans"],
        "roles": table["roles"],
        "counts": table["counts"],
        "facts": flat(folder.json(folder.path / stage / "statistics.json")),
    }


def example_texts(folder: Folder, stage: str, chunk: int) -> dict[str, Any]:
    """Prompts, spans and provenance of some examples. UserError where there are none."""
    folder.stage(stage)
    start, found = chunk * CHUNK, []
    wanted = ("prompt", "spans", "loss_mask", "provenance")
    for at, batch in _batches(_files(folder, stage), wanted):
        first, last = max(start - at, 0), min(start + CHUNK - at, batch.num_rows)
        if first < last:
            found += batch.slice(first, last - first).to_pylist()
    if not found:
        raise UserError(f"{stage} has no examples from number {start} on")
    return {"from": start, "examples": [_shown(row) for row in found]}


def taken(folder: Folder, stage: str, shard: str, row: int) -> list[dict[str, Any]]:
    """The stretches of one tree that examples of the run were made of: ``stage``, ``kind``,
    ``example``, ``role`` and ``nodes`` of each."""
    found = []
    for name in folder.stages():
        try:
            made_of = _table(folder, name)["made_of"].get((stage, shard, row), ())
        except (UserError, OSError):
            continue
        kind = folder.record(name).get("kind")
        found += [
            {"stage": name, "kind": kind, "example": example, "role": role, "nodes": nodes}
            for example, role, nodes in made_of
        ]
    return found


def _asked(folder: Folder, stage: str, problems: Sequence[str]) -> list[Asked]:
    """The question of each example. Prompts are read where an id is of several."""
    questions = Questions(folder, stage)
    known = {problem: questions.named(problem) for problem in dict.fromkeys(problems)}
    prompts = [""] * len(problems)
    if any(len(named) > 1 for named in known.values()):
        prompts = [
            "\n".join(str(turn.get("content")) for turn in prompt or ())
            for _, batch in _batches(_files(folder, stage), ("prompt",))
            for prompt in batch["prompt"].to_pylist()
        ]
    pairs = zip(problems, prompts, strict=True)
    return [asked_in(prompt, known[problem]) for problem, prompt in pairs]


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    provenance = _provenance(row["provenance"])
    pieces = _pieces(provenance)
    spans, mask = [], np.asarray(row["loss_mask"], bool)
    for place, span in enumerate(row["spans"]):
        spans.append(
            {
                "role": span["role"],
                "loss": bool(mask[span["start"] : span["end"]].any()),
                "tokens": span["end"] - span["start"],
                "text": span["text"],
                "pieces": [_piece(pieces[place])] if place < len(pieces) else [],
            }
        )
    facts = {key: value for key, value in provenance.items() if key != "pieces"}
    told = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()
    }
    return {"prompt": row["prompt"], "spans": spans, "facts": told}


def _piece(piece: dict[str, Any]) -> dict[str, Any]:
    place = _tree_of(piece)
    inserted = piece.get("text")
    return {
        "tree": None if place is None else {"stage": place[0], "id": _id(place[1], place[2])},
        "nodes": _nodes(piece) if place else [],
        "text": inserted if isinstance(inserted, str) else None,
    }


def _id(shard: str, row: int) -> str:
    """The id of a tree in the list of trees."""
    number = shard.removeprefix("shard-").removesuffix(".parquet")
    return f"{int(number)}-{row}" if number.isdigit() else f"{shard}-{row}"


def _table(folder: Folder, stage: str) -> Table:
    """What the list tells of every example, and which trees they were made of."""
    files = _files(folder, stage)
    if not files:
        raise UserError(f"{stage} has no examples (yet)")
    parts = [folder.digest(path, "examples", _digest) for path in files]
    roles, whole = Names(), parts[0]
    if len(parts) == 1:
        return whole
    whole = {name: [] for name in ("problem", "tokens", "loss_tokens", "spans")}
    made_of: dict[tuple, list] = {}
    counts: Counter[str] = Counter()
    for part in parts:
        offset = len(whole["problem"])
        for name in ("problem", "tokens", "loss_tokens"):
            whole[name] += part[name]
        places = [roles.place(role) for role in part["roles"]]
        whole["spans"] += [[places[i] for i in spans] for spans in part["spans"]]
        counts.update(part["counts"])
        for place, uses in part["made_of"].items():
            made_of.setdefault(place, []).extend((offset + i, *rest) for i, *rest in uses)
    return whole | {"roles": roles.texts, "counts": dict(counts), "made_of": made_of}


def _digest(path: Path) -> Table:
    roles = Names()
    found: Table = {name: [] for name in ("problem", "tokens", "loss_tokens", "spans")}
    counts: Counter[str] = Counter()
    made_of: dict[tuple, list] = {}
    for at, batch in _batches([path], ("problem_id", "loss_mask", "spans", "provenance")):
        masks = batch["loss_mask"]
        found["problem"] += batch["problem_id"].to_pylist()
        found["tokens"] += pc.list_value_length(masks).to_pylist()
        found["loss_tokens"] += [int(mask.values.true_count) for mask in masks]
        for spans in batch["spans"].to_pylist():
            found["spans"].append([roles.place(span["role"]) for span in spans])
            for span in spans:
                counts[span["role"]] += span["end"] - span["start"]
        for example, text in enumerate(batch["provenance"].to_pylist(), at):
            for piece in _pieces(_provenance(text)):
                if (place := _tree_of(piece)) is not None:
                    use = (example, str(piece.get("role") or ""), _nodes(piece))
                    made_of.setdefault(place, []).append(use)
    return found | {"roles": roles.texts, "counts": dict(counts), "made_of": made_of}


def _files(folder: Folder, stage: str) -> list[Path]:
    data = folder.path / stage / _DATA
    return [path for path in sorted(data.glob("data-*.arrow")) if folder.is_file(path)]


def _batches(files: list[Path], columns: tuple[str, ...]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(place of the first example, some of the examples), never all of them at once."""
    at = 0
    for path in files:
        try:
            with pa.OSFile(str(path)) as source, pa.ipc.open_stream(source) as stream:
                for batch in stream:
                    yield at, batch.select(list(columns))
                    at += batch.num_rows
        except (pa.ArrowException, OSError, KeyError) as error:
            raise UserError(unreadable(path)) from error


def _provenance(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _pieces(provenance: dict[str, Any]) -> list[dict[str, Any]]:
    pieces = provenance.get("pieces")
    return [p if isinstance(p, dict) else {} for p in pieces] if isinstance(pieces, list) else []


def _tree_of(piece: dict[str, Any]) -> tuple[str, str, int] | None:
    stage, shard, row = (piece.get(name) for name in ("stage", "shard", "row"))
    if isinstance(stage, str) and isinstance(shard, str) and isinstance(row, int):
        return stage, shard, row
    return None


def _nodes(piece: dict[str, Any]) -> list[int]:
    nodes = piece.get("nodes")
    return [n for n in nodes if isinstance(n, int)] if isinstance(nodes, list) else []

"""What is known of models and problem sets without a network: what ships with butwait
(``facts.json``), folders, and the hub's cache."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from butwait.engines.settings import ModelSettings
from butwait.planning.shapes import ModelShape, shape_of
from butwait.problems.settings import ProblemSetSettings
from butwait.problems.source import kind_of
from butwait.records import UserError
from butwait.running.files import expanded
from butwait.running.tables import read_table

UNKNOWN_SIZE = 1000
"""Problems of a set that nobody knows the size of and that has no ``limit``."""
QUESTION, LONGEST = 120, 800
"""Tokens of a question of an unknown set, and of its longest one."""
LARGEST_READ = 64 << 20
"""Bytes of a file whose rows are counted; a larger one would take too long."""


@cache
def facts() -> dict[str, Any]:
    """``facts.json``: models and problem sets by name, with sources."""
    held: dict[str, Any] = json.loads(
        (files("butwait.planning") / "facts.json").read_text(encoding="utf-8")
    )
    return held


@dataclass(frozen=True, slots=True)
class SetFacts:
    """Of a problem set: its ``problems``, tokens of a question on average and of the longest one;
    and what of it was assumed (None: nothing)."""

    problems: int
    question: int
    longest: int
    assumed: str | None = None


def find_shape(model: ModelSettings) -> ModelShape | str:
    """The sizes of a model, or a sentence that says which facts are missing."""
    try:
        config = _config(model)
        return _missing(model.name) if config is None else shape_of(config, model.name)
    except UserError as error:
        return str(error)


def _config(model: ModelSettings) -> dict[str, Any] | None:
    if model.name == "tiny":
        return _read(Path(str(files("butwait"))) / "models" / "tiny" / "config.json")
    folder = expanded(model.name)
    if folder.is_dir():
        file = folder / "config.json"
        if not file.is_file():
            raise UserError(
                f"the folder {model.name!r} holds no config.json, so its sizes are unknown"
            )
        return _read(file)
    shipped = facts()["models"].get(model.name)
    if shipped is not None:
        return dict(shipped["config"])
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        kept = try_to_load_from_cache(model.name, "config.json", revision=model.revision)
    except HFValidationError:
        return None
    return _read(Path(kept)) if isinstance(kept, str) else None


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}), so its sizes are unknown") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} holds no configuration, so its sizes are unknown")
    return config


def _missing(name: str) -> str:
    return (
        f"the model {name!r} is not at hand (no folder of that name, not in the hub's cache): its "
        "layers, heads, sizes and context are missing, so what depends on them is left out; fetch "
        f"them with: hf download {name} config.json"
    )


def set_facts(name: str, settings: ProblemSetSettings) -> SetFacts:
    """How many problems a set gives, and how long its questions are, without reading more of it
    than a local file's rows."""
    known = facts()["sets"].get(settings.source)
    limit = settings.limit
    if known is not None:
        size = known.get("splits", {}).get(settings.split or "", known["problems"])
        if kind_of(settings.source).generated:
            given = settings.params.get("size")
            size = given if isinstance(given, int) else settings.offset + (limit or size)
        question, longest, assumed = (
            known["question_tokens"],
            known["longest_question_tokens"],
            None,
        )
    else:
        question, longest = QUESTION, LONGEST
        counted = _rows(settings.source)
        given = settings.params.get("size")
        size = counted if counted is not None else given
        assumed = f"questions of {name!r}: {QUESTION} tokens, the longest {LONGEST}"
        if not isinstance(size, int):
            size = UNKNOWN_SIZE + settings.offset
            if limit is None:
                assumed = f"{name!r} has {UNKNOWN_SIZE} problems (its size is not known); {assumed}"
            else:
                size = settings.offset + limit
    left = max(0, int(size) - settings.offset)
    return SetFacts(left if limit is None else min(left, limit), question, longest, assumed)


def _rows(source: str) -> int | None:
    """Of a local JSONL, CSV or Parquet file; None where they cannot be counted quickly."""
    path = expanded(source)
    try:
        if path.suffix == ".parquet" and path.is_file():
            from pyarrow.parquet import read_metadata

            return int(read_metadata(path).num_rows)
        if path.suffix not in (".jsonl", ".csv", ".tsv") or path.stat().st_size > LARGEST_READ:
            return None
        if path.suffix != ".jsonl":  # a quoted cell may have several lines
            return len(read_table(path)) if path.is_file() else None
        with path.open("rb") as file:
            return sum(bool(line.strip()) for line in file)
    except (OSError, ValueError, UserError):
        return None

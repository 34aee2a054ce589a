"""What a result depends on, as a fingerprint: settings by their marks, files by their content.

The same function names a stage's result and the work whose checkpoints may be gone on from
(``docs/identity.md`` has the table).
"""

import hashlib
import json
import os
from collections.abc import Mapping
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

from butwait.records import UserError
from butwait.records.settings import Mark, Settings
from butwait.running.files import expanded
from butwait.running.plugins import PLUGIN, source_file

SHIPPED = ("tiny", "smollm2")  # found by their names, whatever folders there are


def identity(*parts: Any) -> str:
    """The fingerprint of what ``parts`` say about a result: settings without their resources, at
    any depth, and everything else as it is."""
    return fingerprint(what_counts(parts))


def fingerprint(value: Any) -> str:
    """16 hex digits of the SHA-256 of ``value`` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def what_counts(value: Any) -> Any:
    """What of a value a result depends on, as JSON knows it. ``value``: settings, or mappings and
    sequences that may hold some."""
    if isinstance(value, Settings):
        return _of_settings(value)
    if isinstance(value, Mapping):
        return {str(key): what_counts(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [what_counts(item) for item in value]
    plain = isinstance(value, str | int | None) or (isinstance(value, float) and isfinite(value))
    return value if plain else str(value)


def is_deterministic(value: Any) -> bool:
    """Whether any settings in ``value`` ask for fixed shapes."""
    return '"deterministic": true' in json.dumps(what_counts(value))


def _of_settings(settings: Settings) -> dict[str, Any]:
    shapes = getattr(settings, "deterministic", False)
    left_out = {Mark.RESOURCE} if shapes else {Mark.RESOURCE, Mark.SHAPE}
    found = {}
    for name, mark in marks(type(settings)).items():
        value = getattr(settings, name)
        field = type(settings).model_fields[name]
        if name in settings.later and value == field.get_default(call_default_factory=True):
            continue
        own = name == "kind" and ":" in str(value)
        if isinstance(value, str) and (mark is Mark.CONTENT or own):
            value = content(value)
        elif isinstance(value, str) and mark is Mark.DEVICE:
            value = device_kind(value)
        if mark not in left_out:
            found[name] = what_counts(value)
    return found


@cache
def marks(settings: type[Settings]) -> dict[str, Mark | None]:
    """Field -> its mark; None where it has none. A kind counts, and by its content where it may be
    somebody's own (``module:NAME``)."""
    found = {
        name: next((m for m in field.metadata if isinstance(m, Mark)), None)
        for name, field in settings.model_fields.items()
    }
    if "kind" in found:
        found["kind"] = Mark.RESULT
    return found


def content(name: str) -> Any:
    """What a name stands for: a file's bytes, a folder's files (hidden ones aside), the module of
    ``module:function``, each as a fingerprint that does not tell where they are; the name itself
    where it is none of these."""
    if PLUGIN.fullmatch(name):
        source = source_file(name)
        return [name.partition(":")[2], file_digest(source)] if source else name
    path = expanded(name)
    if name in SHIPPED or not os.path.exists(path):
        return name
    if path.is_file():
        return file_digest(path)
    found = [*path.glob("*"), *path.glob("additional_chat_templates/*")]
    files = {file.relative_to(path).as_posix(): file for file in found if file.is_file()}
    return {name: file_digest(file) for name, file in files.items() if "/." not in f"/{name}"}


def file_digest(path: Path) -> str:
    """Hex SHA-256 of a file, which is read again only if its size or time changes. Raises
    UserError for one that cannot be read."""
    try:
        state = path.stat()
        return _digest(path.absolute(), state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error


@cache
def _digest(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def device_kind(device: str) -> str:
    """``cpu`` or ``cuda``: ``auto`` is CUDA where there is one, and a number does not matter."""
    if device != "auto":
        return device.partition(":")[0]
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"

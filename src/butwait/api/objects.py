"""What a program holds, as a recipe writes it: plain values, and ``module:NAME`` for functions and
records of one's own. Imports no torch."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from butwait.problems.cells import number_text
from butwait.problems.verifying import Verify
from butwait.records import UserError
from butwait.records.settings import Settings
from butwait.running.kinds import name_of
from butwait.running.plugins import load_plugin

Verifier = str | Verify
"""``module:function``, or the function."""

_HELD = "in_memory"
"""The module of what no module holds; it is in no file."""


def plain(value: Any, argument: str, *, stored: bool) -> Any:
    """The value as a recipe writes it: settings as mappings, tuples as lists, paths as texts,
    functions and records as ``module:NAME``.

    Args:
        value: what was given.
        argument: its name, for sentences.
        stored: whether a recipe on disk shall hold it. Else whatever this process holds will do.

    Raises UserError for what has no such form, and where ``stored`` for a function or a record that
    stands in no module.
    """
    if isinstance(value, Settings):
        kind = {"kind": value.kind} if hasattr(value, "kind") else {}
        return value.model_dump(mode="json", by_alias=True, exclude_unset=True) | kind
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str | int | float | None):
                raise UserError(
                    f"{argument or 'the recipe'}: the key {key!r:.60} cannot be written into a "
                    "recipe; give a text"
                )
        return {
            key: plain(inner, f"{argument}.{key}" if argument else str(key), stored=stored)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner, argument, stored=stored) for inner in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy's, whose float64 is a float as well
        return value.tolist()
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, str):
        return str(value)
    if _is_record(value):
        return place_of(value, argument, stored=stored)
    if callable(value) and hasattr(value, "__qualname__"):
        return place_of(value, argument, stored=stored)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise UserError(
        f"{argument}: {_shown(value)} cannot be written into a recipe; give settings "
        "(a mapping), a text, numbers, or what stands in a module"
    )


def text_of(value: Any, argument: str) -> str:
    """A text, or a number as text, NaN as "". Raises UserError for anything else."""
    text = value if isinstance(value, str) else number_text(value)
    if text is None:
        raise UserError(f"{argument} is a text or a number, and this is {value!r:.60}")
    return text


def place_of(thing: Any, argument: str, *, stored: bool) -> str:
    """``module:NAME`` of a function or a record; the kind's name of a record that ships with
    butwait. What stands in no module is held by this process under a name of its own.

    Raises UserError where ``stored``, for what no other process could find.
    """
    if _is_record(thing) and thing.settings.model_fields["kind"].annotation is not str:
        return name_of(thing)
    for module in _modules_of(thing):
        for name, held in list(vars(module).items()):
            if held is thing and not name.startswith("_"):
                if module.__name__ == "__main__" and stored:
                    break
                return f"{module.__name__}:{name}"
    if stored:
        raise UserError(
            f"{argument}: {_shown(thing)} stands in no module that a recipe could name, and a "
            "stage on disk needs that: put it in a file of its own, at the top, and import it from "
            "there"
        )
    module = sys.modules.setdefault(_HELD, ModuleType(_HELD))
    name = f"{_name(thing)}_{len(vars(module))}"
    setattr(module, name, thing)
    return f"{_HELD}:{name}"


def verifier_place(verifier: Verifier, *, stored: bool) -> str:
    """``module:function`` of a verifier. UserError for what is none, or, where ``stored``, for a
    function that stands in no module."""
    if isinstance(verifier, str):
        if not verifier.startswith("gym:"):
            load_plugin(verifier, "verifier")
        return verifier
    if not callable(verifier) or isinstance(verifier, type):
        raise UserError(f"verifier: it is module:function or a function, not {verifier!r:.60}")
    return place_of(verifier, "verifier", stored=stored)


def is_held(place: str) -> bool:
    """Whether a ``module:NAME`` is of this process alone."""
    return place.startswith((f"{_HELD}:", "__main__:"))


def _is_record(value: Any) -> bool:
    settings = getattr(value, "settings", None)
    return isinstance(settings, type) and issubclass(settings, Settings)


def _modules_of(thing: Any) -> list[ModuleType]:
    """Where it may stand."""
    owners = [thing, *(getattr(thing, part, None) for part in ("settings", "run", "start"))]
    names = dict.fromkeys(getattr(owner, "__module__", None) for owner in owners)
    found = [sys.modules[name] for name in names if name in sys.modules]
    held = sys.modules.get(_HELD)
    return [*found, *([held] if held else []), sys.modules["__main__"]]


def _name(thing: Any) -> str:
    name = str(getattr(thing, "__name__", type(thing).__name__))
    return name if name.isidentifier() else "function"


def _shown(thing: Any) -> str:
    name = getattr(thing, "__name__", None)
    return f"{type(thing).__name__} {name}" if name else f"a {type(thing).__name__}"

"""The nouns: what every layer speaks of. No work is done here, and each noun's module is imported
when it is first spoken of: commands that need none of their numbers begin without numpy."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from butwait.records.attempt import Attempt, AttemptTokens
    from butwait.records.errors import UserError
    from butwait.records.example import Example, Span
    from butwait.records.grade import Grade, Status
    from butwait.records.keys import Key
    from butwait.records.problem import AnswerKind, Problem
    from butwait.records.tree import (
        COMPLETE,
        OPEN,
        Counts,
        Finish,
        Node,
        Population,
        SearchTree,
        Timings,
    )

_MODULES = {
    "attempt": ("Attempt", "AttemptTokens"),
    "errors": ("UserError",),
    "example": ("Example", "Span"),
    "grade": ("Grade", "Status"),
    "keys": ("Key",),
    "problem": ("AnswerKind", "Problem"),
    "tree": (
        *("COMPLETE", "OPEN", "Counts", "Finish"),
        *("Node", "Population", "SearchTree", "Timings"),
    ),
}
_PLACES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "COMPLETE",
    "OPEN",
    "AnswerKind",
    "Attempt",
    "AttemptTokens",
    "Counts",
    "Example",
    "Finish",
    "Grade",
    "Key",
    "Node",
    "Population",
    "Problem",
    "SearchTree",
    "Span",
    "Status",
    "Timings",
    "UserError",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)

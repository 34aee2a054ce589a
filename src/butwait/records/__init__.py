"""The nouns: what every layer speaks of. No work is done here."""

from butwait.records.attempt import Attempt
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

__all__ = [
    "COMPLETE",
    "OPEN",
    "AnswerKind",
    "Attempt",
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

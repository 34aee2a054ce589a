"""What a kind of problem source is: its record. The kinds are the modules of ``problems.kinds``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from butwait.records import Problem
from butwait.running.json_lines import Row
from butwait.running.kinds import records_in


class Asked(Protocol):
    """What a source reads of a problem set's settings; ``ProblemSetSettings`` says what each is."""

    source: str
    subset: str | None
    split: str | None
    revision: str | None
    params: dict[str, Any]


def _none(source: str) -> None:
    return None


@dataclass(frozen=True)
class Source:
    """A kind of problem source.

    Attributes:
        matches: whether the setting ``source`` names one of this kind.
        load: its rows (column name -> value), by their places ("line 3") where they have any, or
            finished problems. UserError where there are none to be had.
        takes: settings that have a meaning for it beside those that all kinds take.
        generated: whether questions are made on demand: they share their wording, and the
            parameter ``size`` is ``offset`` + ``limit`` where it is not given.
        rank: kinds of a lower rank are asked first.
        remote: whether it must be fetched: it is asked for, and not read, to check a recipe.
        verifier: of the setting ``source``: the verifier of its own answers, where it has one.
        keeps: columns that its problems always keep as metadata, for the verifier.
    """

    matches: Callable[[str], bool]
    load: Callable[[Asked], Sequence[Row] | Mapping[str, Row] | Sequence[Problem]]
    takes: frozenset[str]
    generated: bool = False
    rank: int = 0
    remote: bool = False
    verifier: Callable[[str], str | None] = _none
    keeps: tuple[str, ...] = ()


COLUMNS = frozenset(
    {
        "columns",
        "answer_kind",
        "answer_after",
        "answer_separator",
        "accept_any",
        "drop_answers",
        "repeated_ids",
    }
)
"""Settings that have a meaning for every kind that gives rows."""
PARTICULAR = COLUMNS | {"subset", "split", "revision", "params"}
"""Settings that some kinds of source do not take."""


@cache
def kind_of(source: str) -> Source:
    """The kind of a source."""
    kinds = sorted(records_in("butwait.problems.kinds", Source), key=lambda kind: kind.rank)
    return next(kind for kind in kinds if kind.matches(source))

"""Figures of others beside the run's own: read from the record of the report stage, shown with
their sources, compared with nothing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from butwait.report import formats
from butwait.report.collect import Evaluation, Record, of_kind

Published = dict[str, dict[str, Any]]
"""Evaluation's key -> what ``PublishedSettings`` holds, as JSON has it."""


def published(stages: Iterable[Record]) -> Published:
    """The figures of the run's report stages; the later one counts."""
    found: Published = {}
    for stage in of_kind(stages, "report"):
        found |= (stage.get("settings") or {}).get("published") or {}
    return found


def cell(figure: dict[str, Any]) -> str:
    """What stands in the table, with the digits that were published: "19.17 %, @8 43.33 %"."""
    first = figure.get("pass_at_1")
    parts = [] if first is None else [_percent(first)]
    several = sorted((figure.get("pass_at_k") or {}).items(), key=lambda entry: int(entry[0]))
    return ", ".join(parts + [f"@{k} {_percent(share)}" for k, share in several])


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"


@dataclass(frozen=True, slots=True)
class Source:
    """One published figure with what it is of and where it stands."""

    key: str
    figure: str
    size: str
    source: str
    note: str


def sources(rows: Sequence[Evaluation], known: Published) -> list[Source]:
    """The figures that stand beside one of the rows, in the order of the table."""
    return [
        Source(row.key, cell(figure), _size(figure), figure["source"], figure.get("note") or "")
        for row in rows
        if (figure := known.get(row.key))
    ]


def _size(figure: dict[str, Any]) -> str:
    """ "30 questions, 8 samples of each"; what was not said is left out."""
    n, k = figure.get("n"), figure.get("k")
    parts = [f"{formats.count(n)} questions"] if n else []
    return ", ".join(parts + ([f"{formats.count(k)} samples of each"] if k else []))

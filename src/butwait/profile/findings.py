"""The profile of several sources as plain data, and what to read from it."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from butwait.profile.figures import (
    Measured,
    diversity,
    duplicate_share,
    length_histograms,
    place_histogram,
    spread_of,
)
from butwait.profile.ratios import ratios, shared_questions
from butwait.records import Key


def findings(measured: Sequence[Measured], seed: int) -> dict[str, Any]:
    """All figures, ready for JSON. The first source is the baseline of every ratio.

    Returns ``unit``, ``sentences`` (one for each other source), ``sources`` (name, n, questions,
    skipped, duplicates, diversity, figures by name, place of each habit, histograms of the lengths
    and of these places), ``length_edges`` of the histograms and ``ratios``.
    """
    key = Key.of(seed, "profile")
    distinct = diversity([m.source for m in measured], key.derive("diversity"))
    edges, lengths = length_histograms(measured)
    compared = [_compared(m, measured[0], key.derive("ratio", m.source.name)) for m in measured[1:]]
    return {
        "unit": measured[0].unit,
        "seed": seed,
        "sentences": [_sentence(row, measured[0].unit) for row in compared],
        "length_edges": edges,
        "sources": [_of(*parts) for parts in zip(measured, distinct, lengths, strict=True)],
        "ratios": compared,
    }


def _of(measured: Measured, distinct: float | None, lengths: list[int]) -> dict[str, Any]:
    source = measured.source
    return {
        "name": source.name,
        "n": len(source.solutions),
        "questions": len({solution.question for solution in source.solutions}),
        "skipped": source.skipped,
        "duplicates": duplicate_share(source),
        "diversity": distinct,
        "figures": {name: asdict(spread_of(x)) for name, x in measured.columns.items()},
        "places": {habit: asdict(spread_of(at)) for habit, at in measured.habits.items()},
        "length_counts": lengths,
        "place_counts": {habit: place_histogram(at) for habit, at in measured.habits.items()},
    }


def _compared(measured: Measured, baseline: Measured, key: Key) -> dict[str, Any]:
    return {
        "source": measured.source.name,
        "baseline": baseline.source.name,
        "shared_questions": shared_questions(measured, baseline),
        "figures": {name: asdict(row) for name, row in ratios(measured, baseline, key).items()},
    }


def _sentence(row: dict[str, Any], unit: str) -> str:
    length = row["figures"]["length"]
    head = f"{row['source']}'s solutions are "
    tail = f" as long as {row['baseline']}'s (mean {unit})."
    if length["ratio"] is None:
        return f"The lengths of {row['source']} and {row['baseline']} cannot be compared."
    times = f"{length['ratio']:.2f} x"
    if length["interval"] is None:
        return f"{head}{times}{tail} The data are too few for an interval."
    low, high = length["interval"]
    return f"{head}{times} [{low:.2f}, {high:.2f}]{tail}"

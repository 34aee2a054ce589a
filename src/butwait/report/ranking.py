"""Arms in the order of their rates, and which of them the run tells apart."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from butwait.evaluation.compare import ALPHA
from butwait.report.collect import Evaluation
from butwait.report.formats import finite


@dataclass(frozen=True, slots=True)
class Ranked:
    """One arm.

    Attributes:
        arm: its name; that of the stage where it has no seeds of its own, as the base.
        seeds: how many.
        pass_at_1, interval: over questions and seeds.
        seed_rates: of each seed.
        better_than, worse_than: arms that it differs from, by Holm's p below ``ALPHA``.
        not_told_apart_from: the others that it was compared with.
    """

    arm: str
    seeds: int
    pass_at_1: float
    interval: list[float]
    seed_rates: list[float]
    better_than: list[str]
    worse_than: list[str]
    not_told_apart_from: list[str]


@dataclass(frozen=True, slots=True)
class Ranking:
    """All arms by one method on one set, the best first."""

    set: str
    method: str
    arms: list[Ranked]


def rankings(rows: Sequence[Evaluation], comparisons: Iterable[dict[str, Any]]) -> list[Ranking]:
    """A ranking for each set and method by which an arm with several seeds was evaluated.

    The order is that of the rates as they were measured. What it is worth stands in the lists:
    two arms next to each other may be in the order of chance.
    """
    against = _against(comparisons)
    places = dict.fromkeys((row.set, row.method) for row in rows if row.seeds)
    found = []
    for problem_set, method in places:
        members = [row for row in rows if (row.set, row.method) == (problem_set, method)]
        members = [row for row in members if row.figure("pass_at_1") is not None]
        members.sort(key=lambda row: -row.metrics["pass_at_1"])
        arms = [_ranked(row, members, against) for row in members]
        found.append(Ranking(problem_set, method, arms))
    return found


def _against(comparisons: Iterable[dict[str, Any]]) -> dict[tuple[str, str], int]:
    """(row, another) -> 1 where it is better, -1 where it is worse, 0 where they are not told
    apart; without those that were not compared."""
    found = {}
    for comparison in comparisons:
        p, delta = finite(comparison.get("p_holm")), finite(comparison.get("delta"))
        better = 0
        if p is not None and p < ALPHA and delta:
            better = 1 if delta > 0 else -1
        found[comparison["b"], comparison["a"]] = better
        found[comparison["a"], comparison["b"]] = -better
    return found


def _ranked(
    row: Evaluation, members: Sequence[Evaluation], against: Mapping[tuple[str, str], int]
) -> Ranked:
    by_result: dict[int, list[str]] = {1: [], -1: [], 0: []}
    for other in members:
        if (row.key, other.key) in against:
            by_result[against[row.key, other.key]].append(other.stage)
    return Ranked(
        arm=row.stage,
        seeds=max(1, len(row.seeds)),
        pass_at_1=row.metrics["pass_at_1"],
        interval=list(row.metrics.get("interval") or ()),
        seed_rates=list(row.metrics.get("seed_rates") or ()),
        better_than=by_result[1],
        worse_than=by_result[-1],
        not_told_apart_from=by_result[0],
    )

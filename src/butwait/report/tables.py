"""Table rows, formatted: evaluations, comparisons, costs, and what a stage recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from butwait.report import formats
from butwait.report.collect import Evaluation, Record, arm_of
from butwait.report.formats import finite
from butwait.report.published import Published, cell
from butwait.report.svg import series_variable
from butwait.report.verdict import is_evidence


@dataclass(frozen=True, slots=True)
class Bar:
    """An interval on a track from 0 to 100 %: its bounds and its middle, in percent."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """One evaluation, every cell as text."""

    stage: str
    colour: str
    method: str
    supervision: str
    n: str
    k: str
    rate: str
    interval: str
    bar: Bar | None
    pass_at_k: str
    maj_at_k: str
    truncated: str
    ungradable: str
    tokens: str
    reward_tokens: str
    published: str


@dataclass(frozen=True, slots=True)
class EvaluationGroup:
    """The evaluations on one problem set."""

    set: str
    n: str
    rows: list[EvaluationRow]


def evaluation_groups(
    rows: Sequence[Evaluation],
    colours: Mapping[str, int],
    supervision: Mapping[str, str],
    known: Published,
) -> list[EvaluationGroup]:
    """The evaluations by problem set, sets and rows in the order of the recipe; ``supervision`` and
    the published figures ``known`` are by the evaluation's key."""
    groups = []
    for name in dict.fromkeys(row.set for row in rows):
        members = [row for row in rows if row.set == name]
        n = formats.count(members[0].figure("n"))
        cells = [
            _evaluation_row(row, colours, supervision[row.key], cell(known.get(row.key, {})))
            for row in members
        ]
        groups.append(EvaluationGroup(name, n, cells))
    return groups


def _evaluation_row(
    row: Evaluation, colours: Mapping[str, int], supervision: str, published: str
) -> EvaluationRow:
    return EvaluationRow(
        stage=row.stage,
        colour=series_variable(colours[row.stage]),
        method=row.method,
        supervision=supervision,
        n=formats.count(row.figure("n")),
        k=formats.count(row.figure("k")),
        rate=formats.percent(row.figure("pass_at_1")),
        interval=formats.interval(row.metrics.get("interval")),
        bar=_bar(row),
        pass_at_k=_at_most_k(row.metrics.get("pass_at_k"), row.figure("k")),
        maj_at_k=_at_most_k(row.metrics.get("maj_at_k"), row.figure("k")),
        truncated=formats.percent(row.share("truncated")),
        ungradable=formats.percent(row.share("ungradable")),
        tokens=formats.compact(row.attempt_tokens or None),
        reward_tokens=formats.compact(row.attempt_reward_tokens or None),
        published=published,
    )


def _bar(row: Evaluation) -> Bar | None:
    rate, bounds = row.figure("pass_at_1"), row.metrics.get("interval")
    if rate is None or not bounds or None in bounds:
        return None
    return Bar(round(100 * bounds[0], 2), round(100 * rate, 2), round(100 * bounds[1], 2))


def _at_most_k(by_k: dict[str, Any] | None, attempts: float | None) -> str:
    """The entry of the largest k above 1; it names its k where that is not ``attempts``."""
    known = {int(k): finite(value) for k, value in (by_k or {}).items()}
    known = {k: value for k, value in known.items() if k > 1 and value is not None}
    if not known:
        return formats.MISSING
    k = max(known)
    named = "" if k == attempts else f" (k = {k})"
    return f"{formats.percent(known[k])}{named}"


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One comparison.

    ``strength`` is "better", "worse" or "none" (not evidence), by the p-value adjusted for the
    number of comparisons where there is one.
    """

    a: str
    b: str
    delta: str
    interval: str
    p: str
    p_holm: str
    test: str
    estimand: str
    counts: str
    sentence: str
    strength: str


def comparison_rows(comparisons: Sequence[dict[str, Any]]) -> list[ComparisonRow]:
    return [_comparison_row(comparison) for comparison in comparisons]


def _comparison_row(comparison: dict[str, Any]) -> ComparisonRow:
    delta = finite(comparison.get("delta"))
    wins, losses = finite(comparison.get("wins")), finite(comparison.get("losses"))
    holm = finite(comparison.get("p_holm"))
    strength = "none"
    if is_evidence(comparison if holm is None else {"p": holm}):
        strength = "better" if (delta or 0) > 0 else "worse"
    return ComparisonRow(
        a=str(comparison.get("a", "")),
        b=str(comparison.get("b", "")),
        delta=formats.points(delta),
        interval=formats.interval(comparison.get("interval")),
        p=formats.p_value(finite(comparison.get("p"))),
        p_holm="" if holm is None else formats.p_value(holm),
        test=str(comparison.get("test", "")),
        estimand=str(comparison.get("estimand", "")),
        counts="" if wins is None else f"{formats.count(wins)} : {formats.count(losses)}",
        sentence=str(comparison.get("sentence", "")),
        strength=strength,
    )


@dataclass(frozen=True, slots=True)
class CostRow:
    """What one stage cost; ``share`` is its part of the run's seconds, in percent."""

    name: str
    kind: str
    seconds: str
    share: float
    policy: str
    prefilled: str
    reward: str
    trained: str
    flops: str


_TOKENS = ("policy_tokens", "prefilled_tokens", "reward_tokens", "trained_tokens")
_FLOPS = ("policy_flops", "reward_flops")


def cost_rows(stages: Sequence[Record]) -> tuple[list[CostRow], CostRow]:
    """A row a stage, or for all seeds of an arm, and their sum."""
    stages = _by_arm(stages)
    seconds = [finite(stage.get("seconds")) or 0.0 for stage in stages]
    total = sum(seconds)
    rows = [
        _cost_row(stage, spent, spent / total if total else 0.0)
        for stage, spent in zip(stages, seconds, strict=True)
    ]
    sums = {
        name: sum(finite((stage.get("cost") or {}).get(name)) or 0 for stage in stages)
        for name in _TOKENS
    }
    counted = [stage["cost"] for stage in stages if _FLOPS[0] in (stage.get("cost") or {})]
    for name in _FLOPS if counted else ():
        known = [cost.get(name) for cost in counted]
        sums[name] = None if None in known else sum(known)  # type: ignore[assignment]
    whole: Record = {"name": "all stages", "kind": "", "cost": sums}
    return rows, _cost_row(whole, total, 1.0)


def _by_arm(stages: Sequence[Record]) -> list[Record]:
    """The records with one in place of an arm's seeds, whose seconds and costs are added up."""
    members: dict[str, list[Record]] = {}
    for stage in stages:
        members.setdefault(arm_of(stage) or stage["name"], []).append(stage)
    return [_together(arm, seeds) for arm, seeds in members.items()]


def _together(arm: str, seeds: Sequence[Record]) -> Record:
    if len(seeds) == 1:
        return seeds[0]
    costs = [stage.get("cost") or {} for stage in seeds]
    seconds = [finite(stage.get("seconds")) or 0.0 for stage in seeds]
    return seeds[0] | {
        "name": f"{arm} ({len(seeds)} seeds)",
        "seconds": sum(seconds),
        "cost": {name: _sum([cost.get(name) for cost in costs]) for name in costs[0]},
    }


def _sum(values: Sequence[float | None]) -> float | None:
    """Their sum; None where one is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _cost_row(stage: Record, seconds: float, share: float) -> CostRow:
    cost = stage.get("cost") or {}
    policy, prefilled, reward, trained = (
        formats.compact(finite(cost.get(name)) or None) for name in _TOKENS
    )
    return CostRow(
        name=stage["name"],
        kind=str(stage.get("kind", "")),
        seconds=formats.duration(seconds),
        share=round(100 * share, 1),
        policy=policy,
        prefilled=prefilled,
        reward=reward,
        trained=trained,
        flops=formats.flops([finite(cost.get(name)) for name in _FLOPS]),
    )


def scalar_facts(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value) of the plain numbers, texts and truth values among a stage's metrics."""
    facts = []
    for name, value in metrics.items():
        label = name.replace("_", " ")
        if isinstance(value, bool):
            facts.append((label, "yes" if value else "no"))
        elif isinstance(value, str):
            facts.append((label, value))
        elif (number := finite(value)) is not None:
            whole = number == round(number)
            facts.append((label, formats.count(number) if whole else f"{number:.4g}"))
    return facts

"""The first line of the page: what this run shows, and what it cannot show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from butwait.evaluation.compare import ALPHA
from butwait.evaluation.flags import flags
from butwait.report import formats
from butwait.report.collect import Evaluation, by_name
from butwait.report.formats import finite
from butwait.report.kinds import Record, Records, ReportedKinds, kind_of
from butwait.report.lineage import policy_stage, tell_apart
from butwait.report.loops import Rounds

SAME_RATE = 5e-4
"""Rates this near read the same on the page."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Attributes:
    sentence: the first line of the page.
    evidence: whether the headline comparison is significant at ``ALPHA``.
    comparison: the comparison that it tells, None where the run has none.
    caveats: what a careful reader must know beside it.
    """

    sentence: str
    evidence: bool
    comparison: dict[str, Any] | None
    caveats: list[str]


def judge(
    stages: Sequence[Record],
    rows: Sequence[Evaluation],
    comparisons: Sequence[dict[str, Any]],
    kinds: ReportedKinds,
) -> Verdict:
    """The verdict of a run.

    The headline is not the best comparison of the run, which would be chosen by its result, but
    the one that ``headline`` fixes beforehand.
    """
    records = by_name(stages, rows)
    by_key = {row.key: row for row in rows}
    others = [stage for stage in stages if kind_of(stage, kinds).gives != "report"]
    caveats = _caveats(others, rows, comparisons)
    chosen = headline(records, by_key, comparisons, kinds)
    if chosen is not None:
        a, b = by_key[chosen["a"]], by_key[chosen["b"]]
        first, second = tell_apart(a.stage, b.stage, records, kinds)
        rounds = Rounds(records, kinds)
        names = first + rounds.told(a.stage), second + rounds.told(b.stage)
        return Verdict(_sentence(a, b, chosen, names), is_evidence(chosen), chosen, caveats)
    if rows:
        solved = "; ".join(
            f"{row.stage}/{row.method} solves {_rate(row)} of {formats.count(row.figure('n'))} "
            f"questions of {row.set}"
            for row in rows[:2]
        )
        return Verdict(f"Nothing is compared in this run: {solved}.", False, None, caveats)
    sentence = "This run has no evaluation yet: nothing can be said about what its models solve."
    return Verdict(sentence, False, None, caveats)


def headline(
    records: Records,
    rows: Mapping[str, Evaluation],
    comparisons: Sequence[dict[str, Any]],
    kinds: ReportedKinds,
) -> dict[str, Any] | None:
    """The comparison the page opens with.

    By design, not by result: first those by the same method on the same set; among them a trained
    model against the base, then two models, then plain sampling, then the set with the most
    questions, scored or not, then the last round of a loop; the recipe's order decides what is
    left.
    """
    known = [c for c in comparisons if c.get("a") in rows and c.get("b") in rows]

    rounds = Rounds(records, kinds)

    def rank(comparison: dict[str, Any]) -> tuple[bool, bool, bool, bool, int, int]:
        a, b = rows[comparison["a"]], rows[comparison["b"]]
        unscored = (a.metrics.get("excluded") or {}).get("problems") or ()
        models = [policy_stage(row.stage, records, kinds) for row in (a, b)]
        trained = [model is not None for model in models]
        return (
            not (a.set == b.set and a.method == b.method),
            trained != [False, True],
            a.stage == b.stage,
            not b.plain,
            -int(a.figure("n") or 0) - len(unscored),
            -max(1, rounds.number(models[1]["name"] if models[1] else None)),
        )

    return min(known, key=rank, default=None)


def is_evidence(comparison: Mapping[str, Any]) -> bool:
    """Whether the comparison's p-value is below ``ALPHA``."""
    p = finite(comparison.get("p"))
    return p is not None and p < ALPHA


def strength(comparison: Mapping[str, Any]) -> str:
    """ "better", "worse" or "none" (not evidence), by the p-value adjusted for the number of
    comparisons where there is one."""
    holm = finite(comparison.get("p_holm"))
    if not is_evidence(comparison if holm is None else {"p": holm}):
        return "none"
    return "better" if (finite(comparison.get("delta")) or 0) > 0 else "worse"


def _sentence(
    a: Evaluation, b: Evaluation, comparison: Mapping[str, Any], names: tuple[str, str]
) -> str:
    first, second = names
    how = " at the first try" if b.plain else f" with {b.method}"
    if a.method != b.method:
        how, first, second = "", f"{first} with {a.method}", f"{second} with {b.method}"
    delta = finite(comparison.get("delta"))
    body = (
        f"{second} solves {_rate(b, comparison.get('rate_b'))} of "
        f"{formats.count(b.metrics.get('n'))} questions{how}, {first} "
        f"{_rate(a, comparison.get('rate_a'))}: {formats.points(delta)} "
        f"{formats.interval(comparison.get('interval'))}, {comparison.get('test', 'test')} "
        f"{formats.p_value(comparison.get('p'))}."
    )
    if not is_evidence(comparison):
        return f"NOT EVIDENCE of a difference: {body}"
    return f"WORSE: {body}" if (delta or 0.0) < 0 else body[0].upper() + body[1:]


def _rate(row: Evaluation, compared: float | None = None) -> str:
    """pass@1 with its interval; the rate that was compared, where it is another one (the
    comparison takes equally many attempts of both sides)."""
    rate = row.figure("pass_at_1")
    if compared is not None and (rate is None or abs(compared - rate) > SAME_RATE):
        return formats.percent(compared)
    return f"{formats.percent(rate)} {formats.interval(row.metrics.get('interval'))}".strip()


def _caveats(
    stages: Sequence[Record], rows: Sequence[Evaluation], comparisons: Sequence[dict[str, Any]]
) -> list[str]:
    unfinished = [s["name"] for s in stages if s.get("status") not in (None, "complete")]
    found = []
    if unfinished:
        found.append(f"Not finished: {', '.join(unfinished)}. This page shows the rest.")
    for comparison in comparisons:
        if extreme := comparison.get("extreme"):
            found.append(_extreme(str(extreme), comparison))
    once = {comparison.get("trained_once") for comparison in comparisons}
    for row in rows:
        found.extend(flags(row.key, row.metrics | {"trained_once": row.key in once}))
    return list(dict.fromkeys(found))


def _extreme(extreme: str, comparison: Mapping[str, Any]) -> str:
    solved = formats.percent(comparison.get("rate_a"))
    what = "this set cannot show a difference; an easier one can"
    if extreme == "ceiling":
        what = "this set has no room to show a gain; a harder one has"
    return (
        f"{extreme.capitalize()} effect: {comparison['a']} solves {solved} of "
        f"{formats.count(comparison.get('n'))} questions: {what}."
    )

"""A comparison in one honest sentence or two, for people who read nothing else."""

import math
from dataclasses import dataclass

from butwait.statistics import power
from butwait.statistics.intervals import Interval

FLOOR = 0.05
"""A baseline that solves at most this share is on the floor, one that fails at most this share
at the ceiling: the set is too hard or too easy to tell models apart."""

TYPICAL_SPREAD = 0.10
"""The standard deviation of true gains over problems that the advice assumes."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a comparison found; rates, delta and the interval's ends are fractions.

    Attributes:
        a, b: the baseline and what is compared with it.
        n: problems.
        k: attempts a problem that are compared, of each side.
        made: attempts a problem of the side that has more.
        rate_a, rate_b: shares of correct attempts.
        delta: rate_b - rate_a.
        interval: of delta, 95 %, estimand S.
        p: of the exact sign-flip test.
        significant: whether p is below the level.
        wins, losses: problems on which b has more, fewer correct attempts.
        lead: correct attempts of b minus those of a.
        variance: sampling variance of one attempt (an upper bound at k = 1).
    """

    a: str
    b: str
    n: int
    k: int
    made: int
    rate_a: float
    rate_b: float
    delta: float
    interval: Interval
    p: float
    significant: bool
    wins: int
    losses: int
    lead: int
    variance: float


def sentence(finding: Finding, extreme: str | None) -> str:
    """What was found; and where it is no evidence, what chance does and what evidence takes."""
    parts = [_found(finding)]
    if finding.significant:
        parts.append(f"{finding.b} is {'better' if finding.delta > 0 else 'worse'}.")
    else:
        parts += ["NOT EVIDENCE of a difference.", *_chance(finding), *_advice(finding, extreme)]
    return " ".join(parts)


def _found(f: Finding) -> str:
    low, high = (f"{100 * end:+.1f}" for end in f.interval)
    on = f" (on the first {f.k} of {f.made} attempts)" if f.made > f.k else ""
    return (
        f"{f.b} {_score(f.rate_b, f)} against {f.a} {_score(f.rate_a, f)}{on}, "
        f"{_plural(f.wins, 'win')} and {_plural(f.losses, 'loss', 'losses')}: "
        f"{100 * f.delta:+.1f} points, 95% CI [{low}, {high}], exact {p_text(f.p)}."
    )


def p_text(p: float) -> str:
    """``p = 1.00``, ``p = 0.035``, ``p < 0.0001``."""
    if p < 1e-4:
        return "p < 0.0001"
    return f"p = {p:.2f}" if p >= 0.1 else f"p = {p:.2g}"


def _score(rate: float, f: Finding) -> str:
    if f.k == 1:
        return f"{round(rate * f.n)}/{f.n}"
    return f"{100 * rate:.1f}% of {f.n} x {f.k}"


def _chance(f: Finding) -> list[str]:
    """How often chance alone gives such a lead, and the smallest results that are evidence."""
    if f.lead == 0:
        return []
    share = power.chance_of_lead(f.n, f.k, f.variance, abs(f.lead))
    bound = "up to " if f.k == 1 else ""
    said = [
        f"Of two identical models, a given one leads by at least as much in {bound}"
        f"{100 * share:.0f}% of runs."
    ]
    if f.k == 1:
        splits = ", ".join(f"{power.fewest_significant_wins(x)}-{x}" for x in range(3))
        said.append(f"Smallest significant splits of wins and losses: {splits}.")
    return said


def _advice(f: Finding, extreme: str | None) -> list[str]:
    if extreme == "floor":
        return [f"{f.a} solves {_score(f.rate_a, f)}: this set cannot show a difference."]
    if extreme == "ceiling":
        return [f"{f.a} solves {_score(f.rate_a, f)}: this set has no room to show a gain."]
    if f.lead == 0:
        return []
    delta, size = abs(f.delta), f"{100 * abs(f.delta):.1f} points"
    needed = power.attempts_to_detect(delta, f.n, f.variance)
    limit = power.minimum_detectable_effect(f.n, math.inf, f.variance, TYPICAL_SPREAD)
    said = (
        f"To detect {size}: about k = {needed} for a claim about these {f.n}; for problems like "
        f"them, if gains vary by {100 * TYPICAL_SPREAD:.0f} points, "
    )
    likely = power.attempts_to_detect(delta, f.n, f.variance, TYPICAL_SPREAD)
    if likely is not None:
        return [f"{said}about k = {likely}."]
    return [f"{said}even k = infinity on {f.n} stops at {100 * limit:.1f} points: add problems."]


def _plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"

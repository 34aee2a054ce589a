"""Two evaluations on the same problems: the difference, whether it is evidence, and both in an
honest sentence or two, for people who read nothing else.

Both sides are compared on the same number of attempts at a problem: the first m of each, m being
the smaller number that was graded. The sign-flip test needs that (with unequal numbers it would
reject far too often), and samples are exchangeable, so the first m are as good as any.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from butwait.evaluation.metrics import LIKE_THESE, THESE, ProblemOutcome, outcomes
from butwait.records import Attempt, UserError
from butwait.statistics import power
from butwait.statistics.equivalence import no_loss
from butwait.statistics.intervals import Interval
from butwait.statistics.multiplicity import holm
from butwait.statistics.paired import bonett_price, paired_t, sign_flip, stratified_permutation

ALPHA = 0.05
"""A difference with a p at or above it is called NOT EVIDENCE."""

FLOOR = 0.05
"""A baseline that solves at most this share is on the floor, one that fails at most this share
at the ceiling: the set is too hard or too easy to tell models apart."""

TYPICAL_SPREAD = 0.10
"""The standard deviation of true gains over problems that the advice assumes."""

Outcomes = Mapping[str, ProblemOutcome]
"""Of one evaluation, by problem id."""


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
        wins, losses: problems on which b has more, fewer correct attempts.
        variance: sampling variance of one attempt (an upper bound at k = 1); 0 where all attempts
            at every question came out alike, which says nothing of it.
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
    wins: int
    losses: int
    variance: float

    @property
    def lead(self) -> int:
        """Correct attempts of b minus those of a, of n * k each."""
        return round(self.delta * self.n * self.k)

    @property
    def significant(self) -> bool:
        return self.p < ALPHA


def compare(
    a: str,
    attempts_a: Iterable[Attempt],
    b: str,
    attempts_b: Iterable[Attempt],
    margin: float | None = None,
) -> dict[str, Any]:
    """How ``b`` does against the baseline ``a``, ready for JSON; ``docs/evaluation.md`` defines
    each number.

    Args:
        a, b: names of the evaluations, "stage/set/method".
        attempts_a, attempts_b: their attempts, in any order.
        margin: the greatest loss that does not matter, a fraction: ``no_loss`` then says whether
            there is none that does.

    Raises UserError where the two have different problems, one is incomplete, or nothing could
    be scored.
    """
    return compare_outcomes(a, outcomes(attempts_a), b, outcomes(attempts_b), margin)


def compare_outcomes(
    a: str, of_a: Outcomes, b: str, of_b: Outcomes, margin: float | None = None
) -> dict[str, Any]:
    """``compare`` of what ``metrics.outcomes`` made of the attempts."""
    sides = [of_a], [of_b]
    ((correct_a,), (correct_b,)), attempts, excluded = match(f"{a} and {b}", *sides)
    gains = correct_b - correct_a
    differences = gains / attempts
    k, wins, losses = int(attempts.max()), int(np.sum(gains > 0)), int(np.sum(gains < 0))
    rates = [float(np.mean(correct / attempts)) for correct in (correct_a, correct_b)]
    variances = [power.sampling_variance(correct, attempts) for correct in (correct_a, correct_b)]
    pooled = float(np.mean(rates))
    finding = Finding(
        a=a,
        b=b,
        n=len(gains),
        k=k,
        made=max(len(next(iter(side.values())).attempts) for (side,) in sides),
        rate_a=rates[0],
        rate_b=rates[1],
        delta=float(differences.mean()),
        interval=paired_t(differences) if k > 1 else bonett_price(wins, losses, len(gains)),
        p=sign_flip(gains, attempts),
        wins=wins,
        losses=losses,
        # At k = 1 a side that is all right shows none, though the other one be all wrong.
        variance=float(np.mean(variances)) if k > 1 else pooled * (1 - pooled),
    )
    variance, extreme = finding.variance, extreme_of(finding.rate_a, finding.significant)
    spread = power.gain_spread(differences, 2 * variance / k) if k > 1 else 0.0
    found, advice = _found(finding), " ".join([*_chance(finding), *_advice(finding, extreme)])
    label, told = _judged(finding)
    return {
        "a": a,
        "b": b,
        "n": finding.n,
        "k": k,
        "excluded": len(excluded),
        "rate_a": finding.rate_a,
        "rate_b": finding.rate_b,
        "delta": finding.delta,
        "interval": list(finding.interval),
        "p": finding.p,
        "estimand": LIKE_THESE,
        "test": "exact sign-flip",
        "p_these_problems": stratified_permutation(correct_a, correct_b, attempts),
        "test_these_problems": f"exact stratified permutation ({THESE})",
        "wins": wins,
        "losses": losses,
        "ties": finding.n - wins - losses,
        "minimum_detectable_effect": detectable(
            power.minimum_detectable_effect(finding.n, k, variance, spread)
        ),
        "extreme": extreme,
        "evidence": finding.significant,
        "verdict": f"{label}: {found}",
        "advice": "" if finding.significant else advice,
        "sentence": " ".join(filter(None, [found, told, "" if finding.significant else advice])),
        **({} if margin is None else {"no_loss": no_loss(differences, margin, k)}),
    }


def match(names: str, *sides: Sequence[Outcomes]) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
    """Evaluations on the same problems and numbers of attempts.

    Args:
        names: of the sides, for messages.
        sides: each has an evaluation for every seed.

    Returns:
        for each side int64 (seeds, n), the correct attempts among those compared; int64 (n,), the
        attempts compared: the first so many of each; ids of the problems that a side could not
        score.

    Raises UserError where they have different problems, or no problem is scored by all.
    """
    every = [evaluation for side in sides for evaluation in side]
    some, each = ("one", "both") if len(sides) == len(every) == 2 else ("some", "all")
    different = sorted(set().union(*every) - set(every[0]).intersection(*every))
    if different:
        raise UserError(
            f"{names} have different problems ({len(different)} stand in {some} of them only, "
            f"such as {different[0]!r}); compare evaluations of the same problem set"
        )
    scored = [name for name in every[0] if not any(e[name].excluded for e in every)]
    if not scored:
        raise UserError(f"{names} have no problem that {each} could score")
    attempts = {name: min(len(e[name].graded) for e in every) for name in scored}
    tables = [
        np.array([[e[name].first_correct(m) for name, m in attempts.items()] for e in side])
        for side in sides
    ]
    unscored = [name for name in every[0] if name not in attempts]
    return tables, np.array(list(attempts.values())), unscored


def with_holm(comparisons: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The comparisons with ``p_holm``: their p-values adjusted for being made together."""
    adjusted = holm([comparison["p"] for comparison in comparisons])
    return [
        {**comparison, "p_holm": float(p)}
        for comparison, p in zip(comparisons, adjusted, strict=True)
    ]


def extreme_of(rate: float, significant: bool) -> str | None:
    """``floor`` or ``ceiling`` where the baseline, of this rate, leaves the set nothing to show a
    difference with, and no difference shows."""
    if significant or FLOOR < rate < 1 - FLOOR:
        return None
    return "floor" if rate <= FLOOR else "ceiling"


def detectable(gain: float) -> float | None:
    """The gain that a comparison would find, a fraction, as far as that can be told: None of 0, as
    attempts that were all alike say nothing of noise, and of more than 100 points."""
    return gain if 0 < gain <= 1 else None


def _judged(finding: Finding) -> tuple[str, str]:
    """What the difference is called, before it is told and after."""
    if not finding.significant:
        return "NOT EVIDENCE", "NOT EVIDENCE of a difference."
    better = finding.delta > 0
    return (
        "IMPROVED" if better else "WORSE",
        f"{finding.b} is {'better' if better else 'worse'}.",
    )


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
    said = []
    if f.variance > 0:
        share = power.chance_of_lead(f.n, f.k, f.variance, abs(f.lead))
        told = f"{100 * share:.0f}%" if share > 0.01 else f"{100 * share:.1g}%"
        said.append(
            "Of two identical models, a given one leads by at least as much in "
            f"{'up to ' if f.k == 1 else ''}{told} of runs."
        )
    if f.k == 1:
        splits = ", ".join(f"{power.fewest_significant_wins(x)}-{x}" for x in range(3))
        said.append(f"Smallest significant splits of wins and losses: {splits}.")
    return said


def _advice(f: Finding, extreme: str | None) -> list[str]:
    if extreme == "floor":
        return [f"{f.a} solves {_score(f.rate_a, f)}: this set cannot show a difference."]
    if extreme == "ceiling":
        return [f"{f.a} solves {_score(f.rate_a, f)}: this set has no room to show a gain."]
    if f.lead == 0 or f.variance == 0:
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

"""Two evaluations on the same problems: the difference, and whether it is evidence.

Both sides are compared on the same number of attempts at a problem: the first m of each, m being
the smaller number that was graded. The sign-flip test needs that (with unequal numbers it would
reject far too often), and samples are exchangeable, so the first m are as good as any.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from butwait.evaluation.metrics import LIKE_THESE, THESE, ProblemOutcome, outcomes
from butwait.evaluation.verdict import FLOOR, Finding, sentence
from butwait.records import Attempt, UserError
from butwait.statistics import power
from butwait.statistics.intervals import Interval
from butwait.statistics.multiplicity import holm
from butwait.statistics.paired import bonett_price, paired_t, sign_flip, stratified_permutation

ALPHA = 0.05
"""A difference with a p at or above it is called NOT EVIDENCE."""


@dataclass(frozen=True, slots=True, eq=False)
class Matched:
    """Two evaluations on the same attempts: all arrays int64 (n,), one entry a problem.

    Attributes:
        correct_a, correct_b: correct attempts among the first ``attempts``.
        attempts: how many attempts of each side are compared.
        excluded: problems left out because a side could not score them.
    """

    correct_a: np.ndarray
    correct_b: np.ndarray
    attempts: np.ndarray
    excluded: int

    @property
    def differences(self) -> np.ndarray:
        """float64 (n,): rate of b minus rate of a."""
        return (self.correct_b - self.correct_a) / self.attempts

    @property
    def k(self) -> int:
        """Attempts a problem; the most, where ungradable ones leave some problems fewer."""
        return int(self.attempts.max())


def compare(
    a: str, attempts_a: Iterable[Attempt], b: str, attempts_b: Iterable[Attempt]
) -> dict[str, Any]:
    """How ``b`` does against the baseline ``a``, ready for JSON; ``docs/evaluation.md`` defines
    each number.

    Args:
        a, b: names of the evaluations, "stage/set/method".
        attempts_a, attempts_b: their attempts, in any order.

    Raises UserError where the two have different problems, one is incomplete, or nothing could
    be scored.
    """
    sides = outcomes(attempts_a), outcomes(attempts_b)
    matched = match(a, sides[0], b, sides[1])
    made = max(len(next(iter(side.values())).attempts) for side in sides)
    finding = _finding(a, b, matched, made)
    extreme = _extreme(finding)
    return {
        "a": a,
        "b": b,
        "n": finding.n,
        "k": finding.k,
        "excluded": matched.excluded,
        "rate_a": finding.rate_a,
        "rate_b": finding.rate_b,
        "delta": finding.delta,
        "interval": list(finding.interval),
        "p": finding.p,
        "estimand": LIKE_THESE,
        "test": "exact sign-flip",
        "p_these_problems": stratified_permutation(
            matched.correct_a, matched.correct_b, matched.attempts
        ),
        "test_these_problems": f"exact stratified permutation ({THESE})",
        "wins": finding.wins,
        "losses": finding.losses,
        "ties": finding.n - finding.wins - finding.losses,
        "minimum_detectable_effect": _detectable(matched, finding.variance),
        "extreme": extreme,
        "evidence": finding.significant,
        "sentence": sentence(finding, extreme),
    }


def match(
    a: str,
    outcomes_a: Mapping[str, ProblemOutcome],
    b: str,
    outcomes_b: Mapping[str, ProblemOutcome],
) -> Matched:
    """Both sides on the same problems and numbers of attempts.

    Raises UserError where they have different problems, or no problem is scored by both.
    """
    different = sorted(set(outcomes_a) ^ set(outcomes_b))
    if different:
        raise UserError(
            f"{a} and {b} have different problems ({len(different)} stand in one of them only, "
            f"such as {different[0]!r}); compare evaluations of the same problem set"
        )
    pairs = [(side, outcomes_b[name]) for name, side in outcomes_a.items()]
    scored = [(x, y) for x, y in pairs if not (x.excluded or y.excluded)]
    if not scored:
        raise UserError(f"{a} and {b} have no problem that both could score")
    counts = [_first_correct(x, y) for x, y in scored]
    correct_a, correct_b, attempts = np.array(counts, dtype=np.int64).T
    return Matched(correct_a, correct_b, attempts, len(pairs) - len(scored))


def with_holm(comparisons: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The comparisons with ``p_holm``: their p-values adjusted for being made together."""
    adjusted = holm([comparison["p"] for comparison in comparisons])
    return [
        {**comparison, "p_holm": float(p)}
        for comparison, p in zip(comparisons, adjusted, strict=True)
    ]


def _first_correct(x: ProblemOutcome, y: ProblemOutcome) -> tuple[int, int, int]:
    size = min(len(x.graded), len(y.graded))
    correct = [sum(row.status == "correct" for row in side.graded[:size]) for side in (x, y)]
    return correct[0], correct[1], size


def _finding(a: str, b: str, matched: Matched, made: int) -> Finding:
    gains = matched.correct_b - matched.correct_a
    p = sign_flip(gains)
    return Finding(
        a=a,
        b=b,
        n=len(gains),
        k=matched.k,
        made=made,
        rate_a=float(np.mean(matched.correct_a / matched.attempts)),
        rate_b=float(np.mean(matched.correct_b / matched.attempts)),
        delta=float(matched.differences.mean()),
        interval=_interval(matched),
        p=p,
        significant=p < ALPHA,
        wins=int(np.sum(gains > 0)),
        losses=int(np.sum(gains < 0)),
        lead=int(gains.sum()),
        variance=_sampling_variance(matched),
    )


def _interval(matched: Matched) -> Interval:
    if matched.k > 1:
        return paired_t(matched.differences)
    wins = int(np.sum(matched.correct_b > matched.correct_a))
    losses = int(np.sum(matched.correct_b < matched.correct_a))
    return bonett_price(wins, losses, len(matched.attempts))


def _sampling_variance(matched: Matched) -> float:
    """sigma^2, the mean of both sides."""
    sides = (matched.correct_a, matched.correct_b)
    return float(np.mean([power.sampling_variance(c, matched.attempts) for c in sides]))


def _detectable(matched: Matched, variance: float) -> float:
    noise = 2 * variance / matched.k
    spread = power.gain_spread(matched.differences, noise) if matched.k > 1 else 0.0
    return power.minimum_detectable_effect(len(matched.attempts), matched.k, variance, spread)


def _extreme(finding: Finding) -> str | None:
    """``floor`` or ``ceiling`` where the baseline leaves the set nothing to show a difference
    with, and no difference shows."""
    if finding.significant or FLOOR < finding.rate_a < 1 - FLOOR:
        return None
    return "floor" if finding.rate_a <= FLOOR else "ceiling"

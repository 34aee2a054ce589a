"""An arm: the same training with several seeds, each evaluated on the same problems.

Its rate is the mean over seeds, and two arms are compared over questions and seeds together:
``statistics.crossed`` says why questions alone are not enough.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from butwait.evaluation.compare import ALPHA
from butwait.evaluation.metrics import ProblemOutcome, outcomes, summarise
from butwait.evaluation.verdict import FLOOR, p_text
from butwait.records import Attempt, UserError
from butwait.statistics.crossed import CrossedEstimate, crossed_difference, crossed_mean
from butwait.statistics.intervals import normal_quantile, wilson

LIKE_THESE_TWO = "problems and trainings like these"
"""The estimand: problems and seeds are samples, both."""
POWER = 0.8

Outcomes = Mapping[str, ProblemOutcome]


def summarise_arm(evaluations: Sequence[Iterable[Attempt]]) -> dict[str, Any]:
    """The numbers of one arm, ready for JSON: those of ``summarise``, with the seeds in them.

    Args:
        evaluations: the attempts of each seed, by the same method on the same problems.

    ``pass_at_1`` is the mean over seeds, ``interval``, ``se`` and ``n_effective`` account for
    questions and seeds; ``seeds`` is their number, ``seed_rates`` their rates in order and
    ``seed_sd`` the standard deviation of those. ``pass_at_k``, ``maj_at_k``, lengths and tokens
    are means over seeds, statuses and exclusions are added up. Raises UserError as ``summarise``
    does, and where the seeds attempted different problems.
    """
    everything = [list(attempts) for attempts in evaluations]
    each = [summarise(attempts) for attempts in everything]
    tables, attempts, excluded = _tables({"its seeds": [outcomes(a) for a in everything]})
    (rates,) = tables
    estimate = crossed_mean(rates)
    n_effective = _n_effective(estimate, len(attempts), int(attempts.sum()) * len(rates))
    return _means(each) | {
        "n": len(attempts),
        "seeds": len(rates),
        "pass_at_1": estimate.mean,
        "interval": list(wilson(float(np.clip(estimate.mean, 0, 1)), n_effective)),
        "estimand": LIKE_THESE_TWO,
        "se": estimate.se,
        "se_these_problems": None,
        "n_effective": n_effective,
        "seed_rates": rates.mean(axis=1).tolist(),
        "seed_sd": float(rates.mean(axis=1).std(ddof=1)) if len(rates) > 1 else None,
        "excluded": {"problems": excluded, "status": _added(m["excluded"]["status"] for m in each)},
    }


def compare_arms(
    a: str,
    evaluations_a: Sequence[Iterable[Attempt]],
    b: str,
    evaluations_b: Sequence[Iterable[Attempt]],
) -> dict[str, Any]:
    """How the arm ``b`` does against the baseline ``a``, ready for JSON; ``docs/evaluation.md``
    defines each number.

    Args:
        a, b: names, "arm/set/method".
        evaluations_a, evaluations_b: the attempts of each seed. One evaluation is a model that no
            seed made, such as the base.

    Raises UserError where the problems differ, or nothing could be scored.
    """
    sides = {a: [outcomes(x) for x in evaluations_a], b: [outcomes(x) for x in evaluations_b]}
    (rates_a, rates_b), attempts, excluded = _tables(sides)
    pair = _Pair(a, b, rates_a, rates_b, attempts, crossed_difference(rates_a, rates_b))
    gains = pair.by_question
    return {
        "a": a,
        "b": b,
        "n": len(attempts),
        "k": pair.k,
        "seeds_a": len(rates_a),
        "seeds_b": len(rates_b),
        "excluded": len(excluded),
        "rate_a": float(rates_a.mean()),
        "rate_b": float(rates_b.mean()),
        "delta": pair.difference.mean,
        "interval": [float(np.clip(end, -1, 1)) for end in pair.difference.interval()],
        "p": pair.difference.p,
        "estimand": LIKE_THESE_TWO,
        "test": "t over questions and seeds",
        "p_these_trainings": crossed_difference(*pair.seedless).p,
        "test_these_trainings": "t over questions (these trainings)",
        "wins": int(np.sum(gains > 1e-9)),
        "losses": int(np.sum(gains < -1e-9)),
        "ties": int(np.sum(np.abs(gains) <= 1e-9)),
        "minimum_detectable_effect": pair.detectable,
        "extreme": pair.extreme,
        "evidence": pair.significant,
        "sentence": pair.sentence(),
    }


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """Two arms on the same problems; tables are (seeds, n), ``attempts`` (n,) a seed."""

    a: str
    b: str
    rates_a: np.ndarray
    rates_b: np.ndarray
    attempts: np.ndarray
    difference: CrossedEstimate

    @property
    def seedless(self) -> tuple[np.ndarray, np.ndarray]:
        """Both tables with one row, the mean over seeds: as if there were no other trainings."""
        return self.rates_a.mean(axis=0, keepdims=True), self.rates_b.mean(axis=0, keepdims=True)

    @property
    def by_question(self) -> np.ndarray:
        """(n,): rate of b minus rate of a, means over seeds."""
        a, b = self.seedless
        return (b - a)[0]

    @property
    def k(self) -> int:
        return int(self.attempts.max())

    @property
    def significant(self) -> bool:
        return self.difference.p < ALPHA

    @property
    def detectable(self) -> float:
        """The true gain that a comparison with this standard error finds with ``POWER``."""
        quantiles = normal_quantile(1 - ALPHA) + normal_quantile(2 * POWER - 1)
        return quantiles * self.difference.se

    @property
    def extreme(self) -> str | None:
        rate = float(self.rates_a.mean())
        if self.significant or FLOOR < rate < 1 - FLOOR:
            return None
        return "floor" if rate <= FLOOR else "ceiling"

    def sentence(self) -> str:
        low, high = (f"{100 * end:+.1f}" for end in self.difference.interval())
        found = (
            f"{self.b} {self._score(self.rates_b)} against {self.a} {self._score(self.rates_a)}: "
            f"{100 * self.difference.mean:+.1f} points, 95% CI [{low}, {high}], "
            f"{p_text(self.difference.p)}."
        )
        if self.significant:
            return f"{found} {self.b} is {'better' if self.difference.mean > 0 else 'worse'}."
        return (
            f"{found} NOT EVIDENCE of a difference. So many seeds and problems find a gain of "
            f"{100 * self.detectable:.1f} points in {100 * POWER:.0f}% of runs."
        )

    def _score(self, rates: np.ndarray) -> str:
        seeds = f", {len(rates)} seeds" if len(rates) > 1 else ""
        return f"{100 * rates.mean():.1f}% ({len(self.attempts)} x {self.k}{seeds})"


def _tables(
    sides: Mapping[str, Sequence[Outcomes]],
) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
    """Rates on the attempts that all evaluations have.

    Returns:
        for each side float64 (seeds, n); int64 (n,) attempts compared: the first so many of each;
        ids of the problems that a side could not score.
    """
    every = [evaluation for side in sides.values() for evaluation in side]
    different = sorted(set().union(*every) - set(every[0]).intersection(*every))
    if different:
        raise UserError(
            f"{' and '.join(sides)} have different problems ({len(different)} stand in some of "
            f"them only, such as {different[0]!r}); compare evaluations of the same problem set"
        )
    scored = [name for name in every[0] if not any(e[name].excluded for e in every)]
    if not scored:
        raise UserError(f"{' and '.join(sides)} have no problem that all could score")
    attempts = np.array([min(len(e[name].graded) for e in every) for name in scored])
    tables = [
        np.array([[_rate(e[name], m) for name, m in zip(scored, attempts, strict=True)] for e in s])
        for s in sides.values()
    ]
    return tables, attempts, [name for name in every[0] if name not in set(scored)]


def _rate(outcome: ProblemOutcome, attempts: int) -> float:
    correct = sum(row.status == "correct" for row in outcome.graded[:attempts])
    return correct / int(attempts)


def _n_effective(estimate: CrossedEstimate, n: int, answers: int) -> float:
    """The number of independent answers with this standard error, as in ``estimate_rate``."""
    p = estimate.mean
    if not 0 < p < 1:
        return float(n)
    half = estimate.interval()[1] - p
    return min(p * (1 - p) * (normal_quantile(0.95) / half) ** 2, float(answers))


def _means(each: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The metrics of several seeds: means of numbers, sums of counts."""
    first = each[0]
    costs = ("tokens_per_problem", "tokens_per_attempt", "reward_tokens_per_problem")
    return {
        "k": first["k"],
        **{name: float(np.mean([m[name] for m in each])) for name in costs},
        **{
            name: {key: float(np.mean([m[name][key] for m in each])) for key in first[name]}
            for name in ("pass_at_k", "maj_at_k", "length")
        },
        "status": _added(m["status"] for m in each),
    }


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total)

"""An arm: the same training with several seeds, each evaluated on the same problems.

Its rate is the mean over seeds, and two arms are compared over questions and seeds together:
``statistics.crossed`` says why questions alone are not enough.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from butwait.evaluation.compare import ALPHA, Outcomes, detectable, extreme_of, match, p_text
from butwait.evaluation.metrics import attempt_figures, outcomes
from butwait.records import Attempt
from butwait.statistics.crossed import CrossedEstimate, crossed_difference, crossed_mean
from butwait.statistics.intervals import normal_quantile, rate_interval

LIKE_THESE_TWO = "problems and trainings like these"
"""The estimand: problems and seeds are samples, both."""
POWER = 0.8


def arm_figures(evaluations: Sequence[Iterable[Attempt]]) -> dict[str, Any]:
    """The numbers of one arm, ready for JSON: those of ``attempt_figures``, with the seeds in them.

    Args:
        evaluations: the attempts of each seed, by the same method on the same problems.

    ``pass_at_1`` is the mean over seeds, ``interval``, ``se`` and ``n_effective`` account for
    questions and seeds; ``seeds`` is their number, ``seed_rates`` their rates in order and
    ``seed_sd`` the standard deviation of those. ``pass_at_k``, ``maj_at_k``, lengths and tokens
    are means over seeds, statuses and exclusions are added up. Raises UserError as
    ``attempt_figures`` does, and where the seeds attempted different problems.
    """
    everything = [list(attempts) for attempts in evaluations]
    each = [attempt_figures(attempts) for attempts in everything]
    rate, excluded = arm_rate([outcomes(a) for a in everything])
    status = _added(m["excluded"]["status"] for m in each)
    return _means(each) | rate | {"excluded": {"problems": excluded, "status": status}}


def arm_rate(seeds: Sequence[Outcomes]) -> tuple[dict[str, Any], list[str]]:
    """The rate of an arm with its interval and seeds, as ``arm_figures`` has them; and the problems
    that a seed could not score. Raises UserError as it does."""
    (correct,), attempts, excluded = match("its seeds", seeds)
    rates = correct / attempts
    estimate = crossed_mean(rates)
    n_effective = _n_effective(estimate, len(attempts), int(attempts.sum()) * len(rates))
    return {
        "n": len(attempts),
        "seeds": len(rates),
        "pass_at_1": estimate.mean,
        "interval": list(rate_interval(rates.mean(axis=0), attempts * len(rates), n_effective)),
        "estimand": LIKE_THESE_TWO,
        "se": estimate.se,
        "se_these_problems": None,
        "n_effective": n_effective,
        "seed_rates": rates.mean(axis=1).tolist(),
        "seed_sd": float(rates.mean(axis=1).std(ddof=1)) if len(rates) > 1 else None,
    }, excluded


def compare_arms(
    a: str,
    evaluations_a: Sequence[Iterable[Attempt]],
    b: str,
    evaluations_b: Sequence[Iterable[Attempt]],
    trained: Collection[str] = (),
) -> dict[str, Any]:
    """How the arm ``b`` does against the baseline ``a``, ready for JSON; ``docs/evaluation.md``
    defines each number.

    Args:
        a, b: names, "arm/set/method".
        evaluations_a, evaluations_b: the attempts of each seed. One evaluation is a model that no
            seed made, such as the base, unless it is ``trained``.
        trained: the names, of the two, whose model a training made. One of a single seed is told
            as ``trained_once`` and compared as ``crossed_difference`` does.

    Raises UserError where the problems differ, or nothing could be scored.
    """
    sides = [[outcomes(x) for x in evaluations] for evaluations in (evaluations_a, evaluations_b)]
    return compare_arm_outcomes(a, sides[0], b, sides[1], trained)


def compare_arm_outcomes(
    a: str,
    of_a: Sequence[Outcomes],
    b: str,
    of_b: Sequence[Outcomes],
    trained: Collection[str] = (),
) -> dict[str, Any]:
    """``compare_arms`` of what ``metrics.outcomes`` made of the attempts of each seed."""
    sides = of_a, of_b
    lone = [name for name, seeds in zip((a, b), sides, strict=True) if len(seeds) == 1]
    once = lone[0] if len(lone) == 1 and lone[0] in trained else None
    (correct_a, correct_b), attempts, excluded = match(f"{a} and {b}", *sides)
    rates_a, rates_b = correct_a / attempts, correct_b / attempts
    difference = crossed_difference(rates_a, rates_b, trained_once=once is not None)
    k = int(attempts.max())
    # As if there were no other trainings: one row a side, the mean over its seeds.
    means = rates_a.mean(axis=0, keepdims=True), rates_b.mean(axis=0, keepdims=True)
    gains = (means[1] - means[0])[0]
    significant = difference.p < ALPHA
    # The true gain that a comparison with this standard error finds with ``POWER``.
    z = normal_quantile(1 - ALPHA) + normal_quantile(2 * POWER - 1)
    gain = detectable(z * difference.se)
    low, high = (float(np.clip(end, -1, 1)) for end in difference.interval())
    found = (
        f"{b} {_score(rates_b, k)} against {a} {_score(rates_a, k)}: {100 * difference.mean:+.1f} "
        f"points, 95% CI [{100 * low:+.1f}, {100 * high:+.1f}], {p_text(difference.p)}."
    )
    finds = "few seeds and problems find no gain, however large,"
    if gain is not None:
        finds = f"many seeds and problems find a gain of {100 * gain:.1f} points"
    advice = f"So {finds} in {100 * POWER:.0f}% of runs."
    label, told = "NOT EVIDENCE", f"NOT EVIDENCE of a difference. {advice}"
    if significant:
        label = "IMPROVED" if difference.mean > 0 else "WORSE"
        told, advice = f"{b} is {'better' if difference.mean > 0 else 'worse'}.", ""
    return {
        "a": a,
        "b": b,
        "n": len(attempts),
        "k": k,
        "seeds_a": len(rates_a),
        "seeds_b": len(rates_b),
        "trained_once": once,
        "excluded": len(excluded),
        "rate_a": float(rates_a.mean()),
        "rate_b": float(rates_b.mean()),
        "delta": difference.mean,
        "interval": [low, high],
        "p": difference.p,
        "estimand": LIKE_THESE_TWO,
        "test": "t over questions and seeds",
        "p_these_trainings": crossed_difference(*means).p,
        "test_these_trainings": "t over questions (these trainings)",
        "wins": int(np.sum(gains > 1e-9)),
        "losses": int(np.sum(gains < -1e-9)),
        "ties": int(np.sum(np.abs(gains) <= 1e-9)),
        "minimum_detectable_effect": gain,
        "extreme": extreme_of(float(rates_a.mean()), significant),
        "evidence": significant,
        "verdict": f"{label}: {found}",
        "advice": advice,
        "sentence": f"{found} {told}",
    }


def _score(rates: np.ndarray, k: int) -> str:
    """In percent; ``rates`` is (seeds, n)."""
    seeds = f", {len(rates)} seeds" if len(rates) > 1 else ""
    return f"{100 * rates.mean():.1f}% ({rates.shape[1]} x {k}{seeds})"


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
    names = ["tokens_per_problem", "tokens_per_attempt", "reward_tokens_per_problem"]
    names += ["score"] if all("score" in m for m in each) else []
    return {
        "k": first["k"],
        **{name: float(np.mean([m[name] for m in each])) for name in names},
        **{
            name: {key: float(np.mean([m[name][key] for m in each])) for key in first[name]}
            for name in ("pass_at_k", "maj_at_k", "length")
        },
        "status": _added(m["status"] for m in each),
    }


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    each = list(counts)
    return {name: sum(one[name] for one in each) for name in each[0]}

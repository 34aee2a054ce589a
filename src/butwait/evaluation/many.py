"""Many evaluations of the same problems: every pair, adjusted for all of them, and the groups of
those that are not told apart."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from butwait.evaluation.arms import arm_rate, compare_arm_outcomes
from butwait.evaluation.compare import ALPHA, Outcomes, compare_outcomes, with_holm
from butwait.evaluation.metrics import ProblemOutcome, outcomes, status_counts
from butwait.records import Attempt, UserError
from butwait.statistics.intervals import estimate_rate
from butwait.statistics.multiplicity import indistinguishable

Seeds = Sequence[Outcomes]
"""Of an arm the evaluation of each seed; of any other one the only one."""


def compare_all(
    evaluations: Mapping[str, Iterable[Attempt]],
    margin: float | None = None,
    seeds: Mapping[str, Sequence[Iterable[Attempt]]] | None = None,
    trained: Collection[str] = (),
) -> dict[str, Any]:
    """All pairs of evaluations, ready for JSON; ``docs/compare.md`` defines each key.

    The figures at the top are those of the first two, a the baseline, which are fixed before
    anything is known; the verdict is of all of them where there are more.

    Args:
        evaluations: name -> attempts, the baseline first; at least two. Of an arm its first seed's.
        margin: as of ``compare.compare``.
        seeds: name of an arm -> the attempts of its other seeds.
        trained: names of those whose model a training made, where that is known (``compare_arms``).

    Raises UserError as ``compare.compare`` does, and for a margin where there is an arm.
    """
    others = seeds or {}
    if margin is not None and any(others.values()):
        raise UserError("--margin is of single evaluations, and an arm has several seeds")
    found = {
        name: [outcomes(one) for one in (attempts, *others.get(name, ()))]
        for name, attempts in evaluations.items()
    }
    # One set of questions for all: rates of different ones would rank wrongly.
    lost = {q for arm in found.values() for of_one in arm for q in of_one if of_one[q].excluded}
    scored = {
        name: [{q: one for q, one in of_one.items() if q not in lost} for of_one in arm]
        for name, arm in found.items()
    }
    pairs = [
        _pair(a, scored[a], b, scored[b], margin, trained) | {"excluded": len(lost)}
        for a, b in combinations(scored, 2)
    ]
    comparisons = with_holm(pairs)
    once = {comparison.get("trained_once") for comparison in comparisons}
    models = [
        {"name": name} | _figures(arm) | ({"trained_once": True} if name in once else {})
        for name, arm in scored.items()
    ]
    ranked = sorted(models, key=lambda model: -model["pass_at_1"])
    names = [model["name"] for model in ranked]
    apart = {(names.index(c["a"]), names.index(c["b"])) for c in comparisons if c["p_holm"] < ALPHA}
    groups = [[names[i] for i in group] for group in indistinguishable(len(names), apart)]
    first = comparisons[0]
    return {
        **first,
        "verdict": first["verdict"] if len(names) == 2 else _verdict(ranked, comparisons),
        "models": models,
        "ranking": names,
        "groups": groups,
        "comparisons": comparisons,
        "questions": _questions(found),
    }


def _pair(
    a: str, of_a: Seeds, b: str, of_b: Seeds, margin: float | None, trained: Collection[str]
) -> dict[str, Any]:
    if len(of_a) == len(of_b) == 1:
        return compare_outcomes(a, of_a[0], b, of_b[0], margin)
    return compare_arm_outcomes(a, of_a, b, of_b, trained)


def _figures(arm: Seeds) -> dict[str, Any]:
    """Of one evaluation, as ``attempt_figures`` has them, or of an arm, as ``arm_figures``; without
    maj@k, which takes longer than all of the comparisons."""
    scored = [outcome for found in arm for outcome in found.values() if not outcome.excluded]
    about = {
        "k": len(scored[0].attempts),
        "status": status_counts(attempt for o in scored for attempt in o.attempts),
    }
    if len(arm) > 1:
        return arm_rate(arm)[0] | about
    graded = [len(outcome.graded) for outcome in scored]
    estimate = estimate_rate([outcome.rate for outcome in scored], graded)
    return {
        "n": len(scored),
        "pass_at_1": estimate.rate,
        "interval": list(estimate.interval),
        "se": estimate.se,
        "se_these_problems": estimate.se_fixed,
    } | about


def _questions(found: Mapping[str, Seeds]) -> list[dict[str, Any]]:
    """Of every problem, the correct and the graded attempts of each evaluation, in its order, all
    seeds of an arm together, and what each but the first gains over it."""
    arms = list(found.values())
    return [
        {
            "id": name,
            "correct": [sum(of_one[name].first_correct() for of_one in arm) for arm in arms],
            "graded": [sum(len(of_one[name].graded) for of_one in arm) for arm in arms],
            "gains": [
                _gain([of_one[name] for of_one in arms[0]], [of_one[name] for of_one in arm])
                for arm in arms[1:]
            ],
        }
        for name in arms[0][0]
    ]


def _gain(first: Sequence[ProblemOutcome], other: Sequence[ProblemOutcome]) -> int | float | None:
    """Correct attempts more than the baseline's, of those compared, a mean over the seeds of an
    arm; None where one is unscored."""
    every = [*first, *other]
    if any(one.excluded for one in every):
        return None
    made = min(len(one.graded) for one in every)
    if len(every) == 2:
        return other[0].first_correct(made) - first[0].first_correct(made)
    sides = [[one.first_correct(made) for one in side] for side in (first, other)]
    return sum(sides[1]) / len(other) - sum(sides[0]) / len(first)


def _verdict(ranked: list[dict[str, Any]], comparisons: list[dict[str, Any]]) -> str:
    """What is known of the evaluation with the highest rate, in one sentence."""
    top, count = ranked[0], len(comparisons)
    leads = f"{top['name']} {100 * top['pass_at_1']:.1f}% leads"
    adjusted = f"{count} comparisons, p adjusted by Holm"
    told = {
        # Unequal numbers of attempts may rank otherwise than a pair does.
        other: c["p_holm"] < ALPHA and (c["delta"] > 0) == (c["b"] == top["name"])
        for c in comparisons
        for other in (c["a"], c["b"])
        if top["name"] in (c["a"], c["b"]) and other != top["name"]
    }
    behind = [name for name, apart in told.items() if apart]
    level = [name for name, apart in told.items() if not apart]
    if not behind:
        return f"NOT EVIDENCE: {leads}, and is told apart from none of the others ({adjusted})."
    if not level:
        return f"BEST: {leads}, and is better than each of the others ({adjusted})."
    return (
        f"EVIDENCE: {leads} and is better than {_listed(behind)}, but NOT told apart from "
        f"{_listed(level)} ({adjusted})."
    )


def _listed(names: list[str]) -> str:
    if len(names) > 4:
        return f"{len(names)} others"
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]

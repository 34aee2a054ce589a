"""Many evaluations of the same problems: every pair, adjusted for all of them, and the groups of
those that are not told apart."""

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

from butwait.evaluation.compare import ALPHA, Outcomes, compare_outcomes, with_holm
from butwait.evaluation.metrics import ProblemOutcome, outcomes, status_counts
from butwait.records import Attempt
from butwait.statistics.intervals import estimate_rate
from butwait.statistics.multiplicity import indistinguishable


def compare_all(
    evaluations: Mapping[str, Iterable[Attempt]], margin: float | None = None
) -> dict[str, Any]:
    """All pairs of evaluations, ready for JSON; ``docs/compare.md`` defines each key.

    The figures at the top are those of the first two, a the baseline, which are fixed before
    anything is known; the verdict is of all of them where there are more.

    Args:
        evaluations: name -> attempts, the baseline first; at least two.
        margin: as of ``compare.compare``.

    Raises UserError as ``compare.compare`` does.
    """
    found = {name: outcomes(attempts) for name, attempts in evaluations.items()}
    # One set of questions for all: rates of different ones would rank wrongly.
    lost = {q for of_one in found.values() for q, one in of_one.items() if one.excluded}
    scored = {
        name: {q: one for q, one in of_one.items() if q not in lost}
        for name, of_one in found.items()
    }
    pairs = [
        compare_outcomes(a, scored[a], b, scored[b], margin) | {"excluded": len(lost)}
        for a, b in combinations(scored, 2)
    ]
    comparisons = with_holm(pairs)
    models = [{"name": name} | _figures(of_one) for name, of_one in scored.items()]
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


def _figures(found: Outcomes) -> dict[str, Any]:
    """Of one evaluation, as ``attempt_figures`` has them; without maj@k, which takes longer than
    all of the comparisons."""
    scored = [outcome for outcome in found.values() if not outcome.excluded]
    graded = [len(outcome.graded) for outcome in scored]
    estimate = estimate_rate([outcome.rate for outcome in scored], graded)
    return {
        "n": len(scored),
        "k": len(scored[0].attempts),
        "pass_at_1": estimate.rate,
        "interval": list(estimate.interval),
        "se": estimate.se,
        "se_these_problems": estimate.se_fixed,
        "status": status_counts(attempt for o in scored for attempt in o.attempts),
    }


def _questions(found: Mapping[str, Outcomes]) -> list[dict[str, Any]]:
    """Of every problem, the correct and the graded attempts of each evaluation, in its order, and
    what each but the first gains over it."""
    first = next(iter(found.values()))
    return [
        {
            "id": name,
            "correct": [of_one[name].first_correct() for of_one in found.values()],
            "graded": [len(of_one[name].graded) for of_one in found.values()],
            "gains": [_gain(first[name], of_one[name]) for of_one in list(found.values())[1:]],
        }
        for name in first
    ]


def _gain(first: ProblemOutcome, other: ProblemOutcome) -> int | None:
    """Correct attempts more than the baseline's, of those compared; None where one is unscored."""
    if first.excluded or other.excluded:
        return None
    made = min(len(first.graded), len(other.graded))
    return other.first_correct(made) - first.first_correct(made)


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

"""What the attempts of one method on one problem set add up to."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from butwait.records import Attempt, Problem, Status, UserError
from butwait.statistics.intervals import estimate_rate
from butwait.statistics.passk import majority_at_k, pass_at_k

LIKE_THESE = "problems like these"
"""The estimand of every interval and headline p-value: the problems are a sample."""
THESE = "these problems"
"""The estimand where the problems are fixed and only the attempts vary."""


@dataclass(frozen=True, slots=True)
class ProblemOutcome:
    """The attempts at one problem, in the order of their samples.

    Attributes:
        problem_id: the problem.
        attempts: all k of them.
        graded: those with a verdict. An ``ungradable`` attempt counts neither as correct nor as
            wrong: rates are shares of the graded ones.
    """

    problem_id: str
    attempts: tuple[Attempt, ...]
    graded: tuple[Attempt, ...]

    def first_correct(self, attempts: int | None = None) -> int:
        """How many of the first so many graded attempts are correct; None: of all."""
        return sum(attempt.status == "correct" for attempt in self.graded[:attempts])

    @property
    def rate(self) -> float:
        """Share of the graded attempts that are correct."""
        return self.first_correct() / len(self.graded)

    @property
    def excluded(self) -> bool:
        """Whether the problem cannot be scored: there were answers and none of them could be
        graded. Then its gold answer is missing or unreadable, and attempts without an answer say
        nothing either."""
        statuses = {attempt.status for attempt in self.attempts}
        return "ungradable" in statuses and not statuses & {"correct", "wrong"}


def outcomes(attempts: Iterable[Attempt]) -> dict[str, ProblemOutcome]:
    """Problem id -> its outcome, in the order of first appearance.

    Raises UserError where a problem lacks a sample or has one twice, or two problems differ in
    their number of samples: such a set is incomplete.
    """
    by_problem: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        by_problem.setdefault(attempt.problem_id, []).append(attempt)
    if not by_problem:
        raise UserError("the evaluation has no attempts; run its stage to the end first")
    k = max(len(rows) for rows in by_problem.values())
    found = {}
    for problem_id, rows in by_problem.items():
        rows.sort(key=lambda attempt: attempt.sample)
        if [row.sample for row in rows] != list(range(k)):
            raise UserError(
                f"problem {problem_id!r} has the samples {[row.sample for row in rows]} where 0 to "
                f"{k - 1} are expected; the evaluation is incomplete, run its stage to the end"
            )
        graded = tuple(row for row in rows if row.status != "ungradable")
        found[problem_id] = ProblemOutcome(problem_id, tuple(rows), graded)
    return found


def clusters_of(problems: Iterable[Problem], column: str) -> dict[str, str]:
    """Problem id -> its cluster, by a column of its metadata.

    Raises UserError for a problem that has none.
    """
    found = {}
    for problem in problems:
        if problem.metadata.get(column) is None:
            raise UserError(
                f"clusters: problem {problem.id!r} has no {column!r}; name this column under "
                "columns.metadata of its problem set, or choose another"
            )
        found[problem.id] = str(problem.metadata[column])
    return found


def attempt_figures(
    attempts: Iterable[Attempt], groups: Mapping[str, Hashable] | None = None
) -> dict[str, Any]:
    """The numbers of one (set, method), ready for JSON; ``docs/evaluation.md`` defines each.

    Args:
        attempts: all attempts, in any order.
        groups: problem id -> cluster (a year, a template), for a clustered standard error.

    Raises UserError where attempts are missing, or no problem could be scored.
    """
    everything = outcomes(attempts)
    scored = [outcome for outcome in everything.values() if not outcome.excluded]
    excluded = [outcome for outcome in everything.values() if outcome.excluded]
    if not scored:
        raise UserError(
            "no problem of the set could be scored: its gold answers are missing or unreadable; "
            "check the column that `answer` is mapped to"
        )
    clusters = None if groups is None else [groups[outcome.problem_id] for outcome in scored]
    graded = [len(outcome.graded) for outcome in scored]
    estimate = estimate_rate([outcome.rate for outcome in scored], graded, clusters)
    rows = [attempt for outcome in scored for attempt in outcome.attempts]
    return {
        "n": len(scored),
        "k": len(scored[0].attempts),
        "pass_at_1": estimate.rate,
        "interval": list(estimate.interval),
        "estimand": LIKE_THESE,
        "se": estimate.se,
        "se_these_problems": estimate.se_fixed,
        "n_effective": estimate.n_effective,
        **_at_k(scored),
        **_mean_score(scored),
        "status": status_counts(rows),
        "excluded": {
            "problems": [outcome.problem_id for outcome in excluded],
            "status": status_counts(row for outcome in excluded for row in outcome.attempts),
        },
        **_cost(rows, len(scored)),
    }


def _sizes(most: int) -> list[int]:
    """Powers of two from 2 up to ``most``, and ``most``."""
    powers = [2**i for i in range(1, most.bit_length())]
    return sorted({*powers, most} - {1})


def _at_k(scored: Sequence[ProblemOutcome]) -> dict[str, dict[str, float]]:
    """pass@k and maj@k, means over problems. A problem with fewer than k graded attempts gives
    what all of its graded ones give."""
    sizes = _sizes(len(scored[0].attempts))
    pass_at: dict[str, float] = {}
    maj_at: dict[str, float] = {}
    for k in sizes:
        drawn = [(outcome, min(k, len(outcome.graded))) for outcome in scored]
        passes = [pass_at_k(len(o.graded), o.first_correct(), size) for o, size in drawn]
        majorities = [majority_at_k(*votes(o), size) for o, size in drawn]
        pass_at[str(k)] = float(np.mean(passes))
        maj_at[str(k)] = float(np.mean(majorities))
    return {"pass_at_k": pass_at, "maj_at_k": maj_at}


def _mean_score(scored: Sequence[ProblemOutcome]) -> dict[str, float]:
    """``score``, the mean over problems of what a verifier gave, where it gave more than 0 and
    1."""
    scores = [[a.score for a in o.graded if a.score is not None] for o in scored]
    if all(score in (0.0, 1.0) for of_one in scores for score in of_one):
        return {}
    return {"score": float(np.mean([np.mean(of_one) for of_one in scores if of_one]))}


def votes(outcome: ProblemOutcome) -> tuple[int, list[int], int]:
    """Sizes of the correct class, of the wrong classes, and the attempts without an answer."""
    classes = Counter(attempt.answer_class for attempt in outcome.graded)
    blank = classes.pop(None, 0)
    correct = classes.pop(0, 0)
    return correct, sorted(classes.values()), blank


def status_counts(attempts: Iterable[Attempt]) -> dict[str, int]:
    """How many attempts have each status."""
    counts = Counter(attempt.status for attempt in attempts)
    return {status: counts[status] for status in get_args(Status)}


def _cost(attempts: Sequence[Attempt], n: int) -> dict[str, Any]:
    lengths = np.array([attempt.length for attempt in attempts])
    tokens = sum(attempt.tokens for attempt in attempts)
    return {
        "length": {"mean": float(lengths.mean()), "median": float(np.median(lengths))},
        "tokens_per_problem": tokens / n,
        "tokens_per_attempt": tokens / len(attempts),
        "reward_tokens_per_problem": sum(attempt.reward_tokens for attempt in attempts) / n,
    }

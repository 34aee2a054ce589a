"""Does a reward model find the first wrong step? (ProcessBench, arXiv:2412.06559)

A solution's first error is predicted at the first step whose probability lies below a threshold;
where none does, the solution is predicted to be right. The F1 is the harmonic mean of two
accuracies: erroneous solutions whose first error is found exactly, and right solutions that are
left alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logit

from butwait.problems.cells import whole
from butwait.problems.kinds.files import Row
from butwait.records import Key, Problem, UserError
from butwait.reward_models.aggregate import probability
from butwait.reward_models.audit.bootstrap import Interval, interval_of, resamples

CANDIDATES = 200
"""Thresholds that are tried: quantiles of the least probability of each solution."""
NONE = -1


@dataclass(frozen=True, slots=True)
class LabelledSolution:
    """Attributes:
    problem: its question.
    subset: the set it comes from.
    steps: the solution's text.
    first_error: index of the first wrong step; -1 for none.
    """

    problem: Problem
    subset: str
    steps: tuple[str, ...]
    first_error: int


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Solutions with the model's logits.

    Attributes:
        question: int (n,), which solutions have the same question.
        first_error: int (n,); -1 for none.
        logits: float64 (n, steps), filled up with inf.
    """

    question: np.ndarray
    first_error: np.ndarray
    logits: np.ndarray

    def where(self, mask: np.ndarray) -> "Judged":
        """Those that a mask names."""
        return Judged(self.question[mask], self.first_error[mask], self.logits[mask])


def solution(row: Row, where: str) -> LabelledSolution:
    """From a row of ProcessBench (``problem``, ``steps``, ``label``) or of the same with
    ``question`` and ``first_error``. Raises UserError, naming the row, for another one."""
    question = row.get("problem", row.get("question"))
    steps = row.get("steps")
    label = row.get("label", row.get("first_error"))
    label = NONE if label is None else label
    if not isinstance(question, str) or not isinstance(steps, list) or not steps:
        raise UserError(f"{where} is no row of ProcessBench: it needs problem, steps and label")
    if not all(isinstance(step, str) for step in steps):
        raise UserError(f"{where}: steps must be a list of texts")
    if not isinstance(label, int) or isinstance(label, bool) or not NONE <= label < len(steps):
        raise UserError(f"{where}: label is {label!r}; it must be a step's index, or -1 for none")
    identity = str(row.get("id", where))
    subset = str(row.get("source") or identity.rpartition("-")[0] or "all")
    problem = Problem(whole(identity), whole(question), None)
    return LabelledSolution(problem, subset, tuple(map(whole, steps)), label)


def judged(solutions: Sequence[LabelledSolution], logits: Sequence[np.ndarray]) -> Judged:
    """Solutions and the logits of their steps, float64 (steps,) each."""
    width = max(map(len, logits))
    padded = np.full((len(logits), width), np.inf)
    for row, values in zip(padded, logits, strict=True):
        row[: len(values)] = values
    _, question = np.unique([s.problem.question for s in solutions], return_inverse=True)
    return Judged(question, np.array([s.first_error for s in solutions], np.int64), padded)


def predictions(logits: np.ndarray, threshold: float) -> np.ndarray:
    """int (n,): the first step with a probability below ``threshold``; -1 for none."""
    below = logits < logit(threshold)
    return np.where(below.any(1), below.argmax(1), NONE)


def first_error_figures(found: Judged, threshold: float, key: Key) -> dict[str, Any]:
    """``f1``, ``accuracy_erroneous`` and ``accuracy_correct``, each with ``*_interval`` (95 %,
    bootstrap over questions), ``threshold``, ``erroneous`` and ``correct`` (numbers of solutions).
    What cannot be computed is None."""
    hit = predictions(found.logits, threshold) == found.first_error
    wrong = found.first_error != NONE
    _, question = np.unique(found.question, return_inverse=True)
    # Per question: found and all of the erroneous, left alone and all of the right ones.
    sums = [np.bincount(question, x) for x in (hit & wrong, wrong, hit & ~wrong, ~wrong)]
    drawn = resamples(len(sums[0]), key)
    names = ("accuracy_erroneous", "accuracy_correct", "f1")
    values = _figures(*(np.array([s.sum()]) for s in sums))
    resampled = _figures(*(drawn @ s for s in sums))
    figures: dict[str, float | Interval] = {}
    for name, value, spread in zip(names, values, resampled, strict=True):
        known = not np.isnan(value[0])
        figures[name] = float(value[0]) if known else None
        figures[f"{name}_interval"] = interval_of(spread) if known else None
    counts = {"erroneous": int(wrong.sum()), "correct": int((~wrong).sum())}
    return {"threshold": threshold, **figures, **counts}


def chosen_threshold(found: Judged) -> float:
    """The threshold with the best F1 on these solutions, among quantiles of the solutions' least
    probabilities; 0.5 where there is no F1."""
    least = probability(found.logits.min(1))
    candidates = np.unique(np.quantile(least, np.linspace(0, 1, CANDIDATES)))
    wrong = found.first_error != NONE
    if wrong.all() or not wrong.any():
        return 0.5
    scores = []
    for threshold in candidates.tolist():
        hit = predictions(found.logits, threshold) == found.first_error
        scores.append(_harmonic(hit[wrong].mean(), hit[~wrong].mean()))
    return float(candidates[int(np.argmax(scores))])


def halves(found: Judged, key: Key) -> tuple[Judged, Judged]:
    """A random half of the questions with all their solutions, and the other one."""
    questions = int(found.question.max()) + 1
    first = np.argsort(key.uniforms(questions)) < questions // 2
    mask = first[found.question]
    return found.where(mask), found.where(~mask)


def _figures(
    found: np.ndarray, erroneous: np.ndarray, kept: np.ndarray, correct: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with np.errstate(invalid="ignore"):
        a, b = found / erroneous, kept / correct
    return a, b, _harmonic(a, b)


def _harmonic(a: Any, b: Any) -> Any:
    """2ab / (a + b); 0 where both are 0."""
    return 2 * a * b / np.where(a + b == 0, 1.0, a + b)

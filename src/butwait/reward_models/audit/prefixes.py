"""How far can a reward model be trusted? Ranking and calibration on held-out prefixes.

Every prefix carries the outcomes of the completions that were sampled through it, and every
outcome is one label: a prefix with 3 verified of 4 completions stands for three positive labels
and one negative, all with its one logit. Such a prefix ties with itself, so no model reaches an
AUC of 1 on soft labels.

The number that matters to a search is the *within-question* AUC: a filter only ever compares
paths of one question, while the overall AUC also rewards knowing which questions are easy.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from scipy.special import expit

from butwait.records import COMPLETE, Key, Node, SearchTree, UserError
from butwait.reward_models.audit.bootstrap import Interval, interval_of, ratio_interval, resamples

BINS = 10
DEEPEST = 10
"""Prefixes of this many steps and more are reported together."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoredPrefixes:
    """Held-out prefixes, each unique within its question; all arrays (m,).

    Attributes:
        question: int, index of the question.
        depth: int, number of steps.
        logit: float64, the reward model's log-odds.
        verified: int, completions through the prefix that verified.
        completions: int, completions through it that could be graded; at least 1.
    """

    question: np.ndarray
    depth: np.ndarray
    logit: np.ndarray
    verified: np.ndarray
    completions: np.ndarray

    @property
    def failed(self) -> np.ndarray:
        return self.completions - self.verified

    @property
    def numbered(self) -> np.ndarray:
        """int (m,): the questions numbered from 0 on."""
        return np.unique(self.question, return_inverse=True)[1]

    @property
    def rank(self) -> np.ndarray:
        """int (m,): of the logit; equal ones have equal ranks."""
        return np.unique(self.logit, return_inverse=True)[1]

    def where(self, mask: np.ndarray) -> "ScoredPrefixes":
        """Those that a mask or indices name."""
        return ScoredPrefixes(*(getattr(self, field.name)[mask] for field in fields(self)))


def tree_prefixes(trees: Iterable[tuple[SearchTree, np.ndarray]]) -> ScoredPrefixes:
    """Every scored node through which a gradable path goes.

    Args:
        trees: one per question, each with its nodes' logits, float64 (K,); NaN: not scored.

    A finished path counts once, however many particles stand on it, and also where it died in a
    later resampling. A truncated one counts as not verified; an ungradable one is no label.
    """
    rows: list[tuple[int, int, float, int, int]] = []
    for question, (tree, logits) in enumerate(trees):
        verified, completions = outcomes(tree)
        for node, depth in enumerate(_depths(tree.nodes).tolist()):
            if node and completions[node] and not np.isnan(logits[node]):
                counts = int(verified[node]), int(completions[node])
                rows.append((question, depth, float(logits[node]), *counts))
    columns = np.array(rows, np.float64).reshape(-1, 5).T
    questions, depths, _, good, total = columns.astype(np.int64)
    return ScoredPrefixes(questions, depths, columns[2], good, total)


def outcomes(tree: SearchTree) -> tuple[np.ndarray, np.ndarray]:
    """Verified and gradable paths that go through each node or end at it, int64 (K,) each."""
    verified = np.zeros(len(tree.nodes), np.int64)
    completions = np.zeros(len(tree.nodes), np.int64)
    for i, node in enumerate(tree.nodes):
        grade = tree.grades.get(i)
        verified[i] = grade is not None and grade.correct
        graded = node.finish in COMPLETE and grade is not None and grade.status != "ungradable"
        completions[i] = graded or node.finish == "length"
    for i in range(len(tree.nodes) - 1, 0, -1):
        verified[tree.nodes[i].parent] += verified[i]
        completions[tree.nodes[i].parent] += completions[i]
    return verified, completions


def _depths(nodes: list[Node]) -> np.ndarray:
    depths = np.zeros(len(nodes), np.int64)
    for i, node in enumerate(nodes[1:], start=1):
        depths[i] = depths[node.parent] + 1
    return depths


def audit(prefixes: ScoredPrefixes, key: Key) -> dict[str, Any]:
    """The audit as plain values for JSON; what cannot be computed is None.

    Keys: ``verdict`` (a sentence), ``particles`` (the most that this model can be expected to
    guide, None: no limit known), ``within_question_auc``, ``auc``, ``ece`` and ``base_rate`` with
    ``*_interval`` (95 %, bootstrap over questions), ``reliability`` (bins), ``auc_by_depth``
    (within question, equal depth: what a filter compares), ``questions``, ``prefixes``,
    ``completions``.

    Raises UserError where there is nothing to audit.
    """
    if len(prefixes.logit) == 0:
        raise UserError(
            "the reward model cannot be audited: no held-out prefix has a gradable completion; "
            "give the prm stage more problems"
        )
    within = within_question_auc(prefixes)
    interval = ratio_interval(*_wins_by_question(prefixes), key.derive("within"))
    verdict, particles = _verdict(within, interval)
    bins, question = reliability(prefixes), prefixes.numbered
    verified = np.bincount(question, prefixes.verified)
    completions = np.bincount(question, prefixes.completions)
    return {
        "verdict": verdict,
        "particles": particles,
        "within_question_auc": within,
        "within_question_auc_interval": interval,
        "auc": overall_auc(prefixes),
        "auc_interval": _overall_interval(prefixes, key.derive("overall")),
        "ece": _ece(bins),
        "ece_interval": _ece_interval(prefixes, key.derive("ece")),
        "reliability": bins,
        "auc_by_depth": auc_by_depth(prefixes, key.derive("depth")),
        "base_rate": float(verified.sum() / completions.sum()),
        "base_rate_interval": ratio_interval(verified, completions, key.derive("rate")),
        "questions": len(verified),
        "prefixes": len(prefixes.logit),
        "completions": int(completions.sum()),
    }


def overall_auc(prefixes: ScoredPrefixes) -> float | None:
    """P(logit of a verified completion > logit of a failed one), ties counting half; None where
    one of the two is missing."""
    wins, pairs = _wins(prefixes.rank, prefixes.verified, prefixes.failed)
    return wins / pairs if pairs else None


def within_question_auc(prefixes: ScoredPrefixes) -> float | None:
    """The share of pairs (a verified and a failed completion *of the same question*) that the
    logits rank rightly, ties counting half; None where no question has both outcomes.

    Pairs are pooled, so a question weighs as much as it has pairs.
    """
    wins, pairs = _wins_by_question(prefixes)
    return float(wins.sum() / pairs.sum()) if pairs.sum() else None


def auc_by_depth(prefixes: ScoredPrefixes, key: Key) -> list[dict[str, Any]]:
    """Per number of steps: {depth, or_deeper, auc (within question), interval, base_rate,
    prefixes}.

    The last row holds ``DEEPEST`` steps and more; its pairs, too, have equal depth.
    """
    rows = []
    for depth in range(1, min(int(prefixes.depth.max()), DEEPEST) + 1):
        last = depth == DEEPEST
        mask = prefixes.depth >= depth if last else prefixes.depth == depth
        part = prefixes.where(mask)
        if len(part.logit) == 0:
            continue
        wins, pairs = _wins_at_equal_depth(part)
        rows.append(
            {
                "depth": depth,
                "or_deeper": last,
                "auc": float(wins.sum() / pairs.sum()) if pairs.sum() else None,
                "interval": ratio_interval(wins, pairs, key.derive(depth)),
                "base_rate": float(part.verified.sum() / part.completions.sum()),
                "prefixes": len(part.logit),
            }
        )
    return rows


def reliability(prefixes: ScoredPrefixes) -> list[dict[str, Any]]:
    """Equal-width bins of the predicted probability that hold anything:
    {lo, hi, mean_predicted, mean_observed, n}, n in completions."""
    predicted, bins = _binned(prefixes)
    rows = []
    for b in np.unique(bins):
        inside = bins == b
        n = prefixes.completions[inside].sum()
        rows.append(
            {
                "lo": float(b / BINS),
                "hi": float((b + 1) / BINS),
                "mean_predicted": float((predicted * prefixes.completions)[inside].sum() / n),
                "mean_observed": float(prefixes.verified[inside].sum() / n),
                "n": int(n),
            }
        )
    return rows


def _ece(bins: list[dict[str, Any]]) -> float:
    """Expected calibration error (Naeini et al. 2015): the mean gap over completions."""
    total = sum(b["n"] for b in bins)
    return sum(b["n"] * abs(b["mean_predicted"] - b["mean_observed"]) for b in bins) / total


def _ece_interval(prefixes: ScoredPrefixes, key: Key) -> Interval:
    predicted, bins = _binned(prefixes)
    question = prefixes.numbered
    weights = np.bincount(question, prefixes.completions)
    # What every question adds to the gap of every bin, (questions, BINS).
    gaps = np.zeros((len(weights), BINS))
    np.add.at(gaps, (question, bins), predicted * prefixes.completions - prefixes.verified)
    drawn = resamples(len(weights), key)
    return interval_of(np.abs(drawn @ gaps).sum(1) / (drawn @ weights))


def _binned(prefixes: ScoredPrefixes) -> tuple[np.ndarray, np.ndarray]:
    """Predicted probabilities and the numbers of their bins, (m,) each."""
    predicted = expit(prefixes.logit)
    return predicted, np.minimum((predicted * BINS).astype(int), BINS - 1)


def _wins(rank: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> tuple[float, float]:
    """Rightly ranked pairs (ties half) and all pairs, from the ranks of the logits and how often
    each prefix counts as verified and as failed, all (m,)."""
    positive = np.bincount(rank, positive)
    negative = np.bincount(rank, negative)
    below = np.cumsum(negative) - negative
    wins = float((positive * (below + negative / 2)).sum())
    return wins, float(positive.sum() * negative.sum())


def _wins_by_question(prefixes: ScoredPrefixes) -> tuple[np.ndarray, np.ndarray]:
    """(wins, pairs), each (number of questions,)."""
    order = np.argsort(prefixes.question, kind="stable")
    starts = np.flatnonzero(np.diff(prefixes.question[order], prepend=-1))
    parts = map(prefixes.where, np.split(order, starts[1:]))
    wins, pairs = np.array([_wins(part.rank, part.verified, part.failed) for part in parts]).T
    return wins, pairs


def _wins_at_equal_depth(prefixes: ScoredPrefixes) -> tuple[np.ndarray, np.ndarray]:
    """(wins, pairs) of prefixes that have equally many steps too, each (number of questions,)."""
    question = prefixes.numbered
    # Questions and depths together name the groups; a group's question is that of its members.
    group = question * (int(prefixes.depth.max()) + 1) + prefixes.depth
    _, first = np.unique(group, return_index=True)
    wins, pairs = _wins_by_question(replace(prefixes, question=group))
    of = question[first]
    return np.bincount(of, wins), np.bincount(of, pairs)


def _overall_interval(prefixes: ScoredPrefixes, key: Key) -> Interval:
    rank, question = prefixes.rank, prefixes.numbered
    drawn = (times[question] for times in resamples(int(question.max()) + 1, key))
    found = [_wins(rank, prefixes.verified * n, prefixes.failed * n) for n in drawn]
    return interval_of([wins / pairs for wins, pairs in found if pairs])


def _verdict(auc: float | None, interval: Interval) -> tuple[str, int | None]:
    """A sentence and the most particles that the model can be expected to guide.

    Only the limit of 16 rests on a measurement (with a within-question AUC of 0.76, a filter
    with 64 particles did worse than one with 16); that of 64 is a cautious extrapolation.
    """
    if auc is None or interval is None:
        return "unknown: no held-out question has both verified and failed completions", 1
    figures = f"within-question AUC {auc:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"
    if interval[0] <= 0.5:
        return f"useless: {figures} cannot be told from chance; do not search with it", 1
    if auc < 0.8:
        return (
            f"weak: {figures}; with more than 16 particles the filter is likely to "
            "over-optimise it, and a vote is safer than taking the highest reward",
            16,
        )
    if auc < 0.9:
        return f"fair: {figures}; with more than 64 particles, compare against fewer first", 64
    return f"strong: {figures}", None

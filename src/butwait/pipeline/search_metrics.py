"""The figures of a search stage, from its trees, one in memory at a time."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from butwait.records import Counts, SearchTree
from butwait.search.weights import effective_sample_size
from butwait.statistics.intervals import wilson


def search_metrics(trees: Iterable[SearchTree]) -> tuple[dict[str, Any], dict[str, int]]:
    """(metrics, cost) of at least one tree.

    ``solved`` counts problems with at least one verified path, dead particles' included: what
    training data can be made from. It is no accuracy, which needs one answer a problem.
    """
    problems = solved = extinct = paths = correct = 0
    ess: list[float] = []
    counts = Counts()
    for tree in trees:
        verified = sum(grade.correct for grade in tree.grades.values())
        problems += 1
        solved += verified > 0
        extinct += tree.outcome == "extinct"
        paths += len(tree.grades)
        correct += verified
        counts += tree.counts
        weights = [population.log_weights for population in tree.populations]
        ess += [effective_sample_size(w) / len(w) for w in weights if np.isfinite(w).any()]
    share = solved / problems
    metrics = {
        "problems": problems,
        "solved": solved,
        "solved_share": share,
        "interval": list(wilson(share, problems)),
        "finished_paths": paths,
        "correct_paths": correct,
        "mean_ess_share": float(np.mean(ess)) if ess else None,
        "extinct": extinct,
    }
    cost = {
        "policy_tokens": counts.policy_tokens,
        "prefilled_tokens": counts.prefilled_tokens,
        "reward_tokens": counts.reward_tokens,
    }
    return metrics, cost

"""The figures of a search stage, from its trees' outlines, one in memory at a time."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np

from butwait.engines.flops import DecoderFlops
from butwait.records import Counts
from butwait.search.budget import node_costs
from butwait.search.outline import Outline
from butwait.search.weights import ess_share
from butwait.statistics.intervals import wilson


def search_metrics(
    trees: Iterable[Outline],
    policy: DecoderFlops | None = None,
    reward_model: DecoderFlops | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(metrics, cost) of at least one tree.

    ``solved`` counts problems with at least one verified path, dead particles' included: what
    training data can be made from. It is no accuracy, which needs one answer a problem.
    ``truncated_paths`` ended at a limit; ``too_long_paths`` of them at the reward model's.
    ``policy_flops`` and ``reward_flops`` are None where tokens were run by a model of unknown
    shape.
    """
    problems = solved = extinct = paths = correct = truncated = too_long = 0
    ess: list[float] = []
    counts = Counts()
    flops = {"policy": 0.0, "reward": 0.0}
    for tree in trees:
        verified = tree.grades.count("correct")
        problems += 1
        solved += verified > 0
        extinct += tree.outcome == "extinct"
        paths += len(tree.grades)
        correct += verified
        truncated += int(tree.truncated.sum())
        too_long += int(tree.too_long.sum())
        counts += tree.counts
        ess += [ess_share(w) for w in tree.populations() if np.isfinite(w).any()]
        costs = node_costs(tree, policy, reward_model)
        for kind, nodes in (("policy", costs.policy_flops), ("reward", costs.reward_flops)):
            flops[kind] += 0.0 if nodes is None else float(nodes.sum())
    share = solved / problems
    metrics = {
        "problems": problems,
        "solved": solved,
        "solved_share": share,
        "interval": list(wilson(share, problems)),
        "finished_paths": paths,
        "correct_paths": correct,
        "truncated_paths": truncated,
        "too_long_paths": too_long,
        "mean_ess_share": float(np.mean(ess)) if ess else None,
        "extinct": extinct,
    }
    policy_known = policy is not None or not counts.policy_tokens + counts.prefilled_tokens
    cost = {
        **asdict(counts),
        "policy_flops": flops["policy"] if policy_known else None,
        "reward_flops": flops["reward"] if reward_model or not counts.reward_tokens else None,
    }
    return metrics, cost

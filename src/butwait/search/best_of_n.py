"""Best-of-N: plain samples, weighted by a reward model's verdict on the whole solution.

With ``argmax`` it is best-of-N as Cobbe et al. (2021, arXiv 2110.14168) use it, with
``weighted_vote`` the verifier-weighted vote of Li et al. (2023, arXiv 2206.02336). The weights
are those of importance sampling from the policy: the mean weight is an unbiased estimate of the
normalising constant, of the same target as the particle filter's if ``aggregation`` is ``last``.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np

from butwait.engines.engine import Engine
from butwait.records import Key, Problem, SearchTree
from butwait.reward_models.reward_model import Path, RewardModel, Step
from butwait.search.builder import TreeBuilder
from butwait.search.frontier import Frontier, release_handles
from butwait.search.independent import grow, record
from butwait.search.settings import BestOfNSettings
from butwait.search.weights import log_mean_exp, tempered


async def best_of_n(
    problem: Problem,
    engine: Engine,
    reward_model: RewardModel | None,
    settings: BestOfNSettings,
    key: Key,
) -> SearchTree:
    """Draws N samples and weighs each by odds^alpha of its aggregated reward.

    A node's reward logit is the aggregate over the steps up to it; with the aggregation ``model``
    only leaves have one. All weights zero is the outcome ``extinct``.
    """
    assert reward_model is not None, "run_sampler sees to it"
    with Frontier(problem, engine, None, settings, key) as frontier:
        rounds = await grow(frontier, settings.samples)
    tree, leaves = frontier.tree, rounds[-1]
    if settings.aggregation == "model":
        await _score_whole(problem, reward_model, tree, leaves)
    else:
        aggregate = AGGREGATES[settings.aggregation]
        await _score_steps(problem, reward_model, tree, leaves, aggregate)
    log_weights = tempered(settings.alpha, tree.rewards(leaves))
    record(tree, rounds, log_weights)
    return tree.build(log_weights, log_mean_exp(log_weights))


def product_logit(logits: Sequence[float]) -> float:
    """The log-odds of the product of probabilities whose log-odds are given."""
    log_product = -float(np.sum(np.logaddexp(0.0, -np.asarray(logits))))
    return log_product - float(np.log(-np.expm1(log_product)))


AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {
    "last": lambda logits: logits[-1],
    "min": min,
    "prod": product_logit,
}
"""From the logits of a path's steps to one logit."""


async def _score_steps(
    problem: Problem,
    reward_model: RewardModel,
    tree: TreeBuilder,
    leaves: np.ndarray,
    aggregate: Callable[[Sequence[float]], float],
) -> None:
    """Scores all paths step by step, one call a depth, and records the aggregates."""
    paths = [tree.path(leaf) for leaf in leaves.tolist()]  # samples share no node but the root
    steps = [tuple(map(tree.step, path)) for path in paths]
    logits: list[list[float]] = [[] for _ in paths]
    handles = [None] * len(paths)
    try:
        for depth in range(max(map(len, paths))):
            rows = [row for row, path in enumerate(paths) if len(path) > depth]
            asked = time.monotonic()
            scores = await reward_model.score(
                problem, [Path(steps[row][: depth + 1], handles[row]) for row in rows]
            )
            tree.time_scoring([paths[row][depth] for row in rows], time.monotonic() - asked)
            release_handles(reward_model, [handles[row] for row in rows])
            for row, score in zip(rows, scores, strict=True):
                handles[row] = score.handle
                logits[row].append(score.logit)
                tree.set_reward(paths[row][depth], aggregate(logits[row]))
                tree.count_reward_tokens(paths[row][depth], score.tokens)
    finally:
        release_handles(reward_model, handles)


async def _score_whole(
    problem: Problem, reward_model: RewardModel, tree: TreeBuilder, leaves: np.ndarray
) -> None:
    """Scores every path once, as if it were a single step."""
    paths = [tuple(map(tree.step, tree.path(leaf))) for leaf in leaves.tolist()]
    whole = [
        Step(np.concatenate([s.token_ids for s in path]), "".join(s.text for s in path))
        for path in paths
    ]
    asked = time.monotonic()
    scores = await reward_model.score(problem, [Path((step,)) for step in whole])
    tree.time_scoring(leaves.tolist(), time.monotonic() - asked)
    for leaf, score in zip(leaves.tolist(), scores, strict=True):
        tree.set_reward(leaf, score.logit)
        tree.count_reward_tokens(leaf, score.tokens)
    release_handles(reward_model, [score.handle for score in scores])

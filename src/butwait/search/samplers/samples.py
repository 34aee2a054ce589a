"""Whole samples of the policy, judged afterwards if at all: plain samples, self-consistency and
best-of-N.

Best-of-N weighs plain samples by a reward model's verdict on the whole solution. With ``argmax``
it is best-of-N as Cobbe et al. (2021, arXiv 2110.14168) use it, with ``weighted_vote`` the
verifier-weighted vote of Li et al. (2023, arXiv 2206.02336). The weights are those of importance
sampling from the policy: the mean weight is an unbiased estimate of the normalising constant, of
the same target as the particle filter's if ``aggregation`` is ``last``.
"""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Literal

import numpy as np

from butwait.engines.engine import Engine
from butwait.engines.settings import StepRule
from butwait.records import Key, Population, Problem, SearchTree
from butwait.records.settings import Result
from butwait.reward_models.reward_model import Path, RewardModel, Step
from butwait.search.builder import ROOT, TreeBuilder
from butwait.search.frontier import Frontier, release_handles, score_nodes
from butwait.search.settings import (
    CommonSettings,
    Count,
    Exponent,
    Sampler,
    SelectionMethod,
    Unrewarded,
)
from butwait.search.weights import log_mean_exp, tempered

Aggregation = Literal["last", "min", "prod", "model"]


class IndependentSettings(CommonSettings):
    """Plain samples from the policy, without a reward model."""

    kind: Literal["independent"] = "independent"
    samples: Result[Count] = 1
    """How many."""
    step: Result[StepRule] = StepRule(delimiters=())
    """Where a path ends; with delimiters the tree shows the steps too."""
    selection: Result[Unrewarded] = "vote"
    """How the samples become one answer, where one is asked for; all have the same weight."""


class SelfConsistencySettings(CommonSettings):
    """Plain samples and a vote (Wang et al. 2023, arXiv 2203.11171)."""

    kind: Literal["self_consistency"] = "self_consistency"
    samples: Result[Count] = 16
    """How many."""
    step: Result[StepRule] = StepRule(delimiters=())
    """Where a path ends; with delimiters the tree shows the steps too."""
    selection: Result[Unrewarded] = "vote"
    """How the samples become one answer; all have the same weight."""


class BestOfNSettings(CommonSettings):
    """Plain samples, each scored by the reward model when it is whole."""

    kind: Literal["best_of_n"] = "best_of_n"
    samples: Result[Count] = 16
    """How many."""
    alpha: Result[Exponent] = 1.0
    """Final log-weights are alpha times the aggregated logit."""
    aggregation: Result[Aggregation] = "last"
    """How the steps' scores make one: the last; the lowest; the product of their probabilities;
    or ``model``: the reward model scores the whole solution once, as one step."""
    selection: Result[SelectionMethod] = "argmax"
    """How the samples become one answer; ``weighted_vote`` is the vote weighted by reward."""


async def independent(
    problem: Problem,
    engine: Engine,
    reward_model: RewardModel | None,
    settings: IndependentSettings | SelfConsistencySettings,
    key: Key,
) -> SearchTree:
    """Draws k independent samples of equal weight. The reward model is not asked.

    Sample i depends on ``key`` and i alone: the first j of k samples are those that a run with j
    samples gives.
    """
    with Frontier(problem, engine, None, settings, key) as frontier:
        rounds = await grow(frontier, settings.samples)
        log_weights = np.zeros(settings.samples)
        record(frontier.tree, rounds, log_weights)
        return frontier.tree.build(log_weights, None)


async def grow(frontier: Frontier, size: int) -> list[np.ndarray]:
    """Extends ``size`` particles until all paths have ended.

    Returns the nodes after every round, int32 (size,) each.
    """
    rounds = []
    nodes = np.full(size, ROOT, np.int32)
    for t in count(1):
        live = frontier.is_open(nodes)
        if not live.any():
            break
        nodes = await frontier.extend(nodes, live, t)
        rounds.append(nodes)
    return rounds


def record(tree: TreeBuilder, rounds: list[np.ndarray], log_weights: np.ndarray) -> None:
    """Adds one population a round; weights are equal until the last, which has ``log_weights``."""
    slots = np.arange(len(log_weights), dtype=np.int32)
    for nodes in rounds[:-1]:
        tree.add_population(Population(nodes, slots, np.zeros(len(slots)), False))
    tree.add_population(Population(rounds[-1], slots, log_weights, False))


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
    read = set(range(len(paths)))  # those that are not too long so far
    try:
        for depth in range(max(map(len, paths))):
            rows = [row for row in sorted(read) if len(paths[row]) > depth]
            if not rows:
                break
            nodes = [paths[row][depth] for row in rows]
            asked = [Path(steps[row][: depth + 1], handles[row]) for row in rows]
            scores = await score_nodes(problem, reward_model, tree, nodes, asked)
            release_handles(reward_model, [handles[row] for row in rows])
            for row, node, score in zip(rows, nodes, scores, strict=True):
                handles[row] = score.handle
                if score.too_long:
                    read.remove(row)
                    known = aggregate(logits[row]) if logits[row] else 0.0
                    tree.truncate(paths[row][-1], known)
                    continue
                logits[row].append(score.logit)
                tree.set_reward(node, aggregate(logits[row]))
    finally:
        release_handles(reward_model, handles)


async def _score_whole(
    problem: Problem, reward_model: RewardModel, tree: TreeBuilder, leaves: np.ndarray
) -> None:
    """Scores every path once, as if it were a single step."""
    paths = [tuple(map(tree.step, tree.path(leaf))) for leaf in leaves.tolist()]
    whole = [
        Path((Step(np.concatenate([s.token_ids for s in path]), "".join(s.text for s in path)),))
        for path in paths
    ]
    scores = await score_nodes(problem, reward_model, tree, leaves.tolist(), whole)
    release_handles(reward_model, [score.handle for score in scores])
    for leaf, score in zip(leaves.tolist(), scores, strict=True):
        if score.too_long:
            tree.truncate(leaf, 0.0)


def as_attempts(settings: IndependentSettings, k: int) -> IndependentSettings:
    """Plain samples that are k attempts. ValueError where the settings ask for others."""
    if settings.samples not in (1, k):
        raise ValueError(
            f"k = {k} and sampler.samples = {settings.samples} contradict each other; "
            f"set k alone: the samples of `{settings.kind}` are the attempts"
        )
    return settings.model_copy(update={"samples": k})


INDEPENDENT = Sampler(
    IndependentSettings,
    independent,
    needs_reward_model=False,
    as_attempts=as_attempts,
    apart=True,
    one_sweep=True,
)
SELF_CONSISTENCY = Sampler(
    SelfConsistencySettings, independent, needs_reward_model=False, apart=True, one_sweep=True
)
BEST_OF_N = Sampler(
    BestOfNSettings,
    best_of_n,
    paths=lambda settings: settings.samples,
    apart=True,
    one_sweep=True,
)

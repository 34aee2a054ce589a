"""Plain samples from the policy: independent attempts and self-consistency."""

from itertools import count

import numpy as np

from butwait.engines.engine import Engine
from butwait.records import Key, Population, Problem, SearchTree
from butwait.reward_models.reward_model import RewardModel
from butwait.search.builder import ROOT, TreeBuilder
from butwait.search.frontier import Frontier
from butwait.search.settings import IndependentSettings, SelfConsistencySettings


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


async def grow(frontier: Frontier, samples: int) -> list[np.ndarray]:
    """Extends ``samples`` particles until all paths have ended.

    Returns the nodes after every round, int32 (samples,) each.
    """
    rounds = []
    nodes = np.full(samples, ROOT, np.int32)
    for t in count(1):
        live = frontier.is_open(nodes)
        if not live.any():
            break
        nodes = await frontier.extend(nodes, live, t)
        rounds.append(nodes)
    return rounds


def record(tree: TreeBuilder, rounds: list[np.ndarray], log_weights: np.ndarray) -> None:
    """Adds one population a round; weights are equal until the last, which has ``log_weights``."""
    samples = len(log_weights)
    slots = np.arange(samples, dtype=np.int32)
    for nodes in rounds[:-1]:
        tree.add_population(Population(nodes, slots, np.zeros(samples), False))
    tree.add_population(Population(rounds[-1], slots, log_weights, False))

"""Diverse verifier tree search: many small greedy searches beside each other.

Beeching, Tunstall and Rush (2024, "Scaling test-time compute with open models"): N paths are cut
into N/M subtrees, and in each of them, whatever the others do, the best of M paths by the reward
model goes on in M ways after each step. So one path that the reward model likes too much cannot
take over the whole search. Departure: a finished path is kept even where it is not the best of
its subtree, and counts in the answer.
"""

import numpy as np

from butwait.engines.engine import Engine
from butwait.records import Key, Problem, SearchTree
from butwait.reward_models.reward_model import RewardModel
from butwait.search.ranked import keep_best, ranked_search
from butwait.search.settings import DVTSSettings


async def dvts(
    problem: Problem,
    engine: Engine,
    reward_model: RewardModel | None,
    settings: DVTSSettings,
    key: Key,
) -> SearchTree:
    """Runs DVTS on one problem. Places g M to (g + 1) M - 1 are subtree g. Final log-weights are
    alpha times the last logit."""
    size = settings.expansions

    def fork(places: np.ndarray, logits: np.ndarray) -> np.ndarray:
        subtrees = places // size
        chosen = [
            keep_best(places[subtrees == g], logits[subtrees == g], size)
            for g in np.unique(subtrees)
        ]
        return np.concatenate(chosen)

    return await ranked_search(problem, engine, reward_model, settings, key, settings.beams, fork)

"""Beam search over steps of reasoning.

Snell et al. (2024, "Scaling LLM test-time compute optimally", arXiv 2408.03314, section 5.1): of
N paths the best N/M by the reward model are kept after each step, and each goes on in M ways. Two
departures: a finished path is kept for good (it takes a place, so F finished ones leave N - F
places, of which ceil((N - F)/M) are kept), and rewards are compared only between paths of the
same number of steps, which open ones always have.
"""

import numpy as np

from butwait.engines.engine import Engine
from butwait.records import Key, Problem, SearchTree
from butwait.reward_models.reward_model import RewardModel
from butwait.search.ranked import keep_best, ranked_search
from butwait.search.settings import BeamSearchSettings


async def beam_search(
    problem: Problem,
    engine: Engine,
    reward_model: RewardModel | None,
    settings: BeamSearchSettings,
    key: Key,
) -> SearchTree:
    """Runs a beam search on one problem. Final log-weights are alpha times the last logit."""

    def fork(places: np.ndarray, logits: np.ndarray) -> np.ndarray:
        return keep_best(places, logits, settings.expansions)

    return await ranked_search(problem, engine, reward_model, settings, key, settings.beams, fork)

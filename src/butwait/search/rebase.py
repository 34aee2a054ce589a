"""REBASE: every open path goes on, in proportion to a softmax of its reward.

Wu et al. (2024, "Inference scaling laws", arXiv 2408.00724, section 3.2): the budget of N paths,
less those that finished, is allotted to the open ones by softmax(r / T) of their rewards, which
are probabilities. Between beam search (T near 0) and plain samples (T large).
"""

import numpy as np

from butwait.engines.engine import Engine
from butwait.records import Key, Problem, SearchTree
from butwait.reward_models.reward_model import RewardModel
from butwait.search.ranked import ranked_search
from butwait.search.settings import RebaseSettings


async def rebase(
    problem: Problem,
    engine: Engine,
    reward_model: RewardModel | None,
    settings: RebaseSettings,
    key: Key,
) -> SearchTree:
    """Runs REBASE on one problem. Final log-weights are alpha times the last logit."""

    def fork(places: np.ndarray, logits: np.ndarray) -> np.ndarray:
        return np.repeat(places, balanced_widths(logits, settings.temperature))

    return await ranked_search(problem, engine, reward_model, settings, key, settings.width, fork)


def balanced_widths(logits: np.ndarray, temperature: float) -> np.ndarray:
    """int64 (n,): how often each of n paths goes on; the sum is n.

    As the authors' code rounds: from the best path down, each gets its share of what is left,
    rounded up. A logit of -inf gets nothing while another path can take it.
    """
    left = len(logits)
    possible = logits > -np.inf
    if not possible.any():
        return np.ones(left, np.int64)
    rewards = 1 / (1 + np.exp(-logits))
    shares = np.where(possible, np.exp((rewards - rewards.max()) / temperature), 0.0)
    order = np.argsort(-logits, kind="stable")
    to_come = np.cumsum(shares[order][::-1])[::-1]
    widths = np.zeros(left, np.int64)
    for path, total in zip(order.tolist(), to_come.tolist(), strict=True):
        if left == 0:
            break
        widths[path] = min(left, int(np.ceil(left * shares[path] / total)))
        left -= int(widths[path])
    return widths

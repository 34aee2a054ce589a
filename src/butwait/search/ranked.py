"""Search by rank: N paths go on together, and a rule without chance says which of them fork.

Beam search, DVTS and REBASE are this loop with three rules. Their final weights are the odds of
the last reward, to the power alpha. They are no importance weights: the paths were not drawn from
any known law, so there is no evidence, and ``sample`` draws in proportion to the odds and not from
a posterior.
"""

from collections.abc import Callable
from itertools import count

import numpy as np

from butwait.engines.engine import Engine
from butwait.records import Key, Population, Problem, SearchTree
from butwait.reward_models.reward_model import RewardModel
from butwait.search.builder import ROOT
from butwait.search.frontier import Frontier
from butwait.search.settings import BeamSearchSettings, DVTSSettings, RebaseSettings
from butwait.search.weights import tempered

Fork = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From the places of the open paths, int (n,), ascending, and their logits, float64 (n,), to the
place that each of them goes on from, int (n,). A path of logit -inf is never gone on from while
there are others to choose."""


async def ranked_search(
    problem: Problem,
    engine: Engine,
    reward_model: RewardModel | None,
    settings: BeamSearchSettings | DVTSSettings | RebaseSettings,
    key: Key,
    places: int,
    fork: Fork,
) -> SearchTree:
    """Grows ``places`` paths from the root, a step at a time.

    A path that ended keeps its place and its reward to the end of the search, costs nothing more
    and competes with nobody; the open ones share the other places. So the search costs at most
    ``places`` whole paths. An open path of logit -inf gives its place to another one; all paths of
    logit -inf is the outcome ``extinct``.
    """
    nodes = np.full(places, ROOT, np.int32)
    logits = np.zeros(places)
    with Frontier(problem, engine, reward_model, settings, key) as frontier:
        tree = frontier.tree
        live = unfinished = frontier.is_open(nodes)
        for t in count(1):
            ancestors = np.arange(places, dtype=np.int32)
            if t > 1:
                ancestors[unfinished] = fork(np.flatnonzero(unfinished), logits[unfinished])
            nodes = await frontier.extend(nodes[ancestors], live[ancestors], t)
            logits = tree.rewards(nodes)
            forked = bool(np.any(ancestors != np.arange(places)))
            log_weights = tempered(settings.alpha, logits)
            tree.add_population(Population(nodes, ancestors, log_weights, forked))
            unfinished = frontier.is_open(nodes)
            live = unfinished & (logits > -np.inf)
            if not live.any() or t == settings.max_steps:
                break
        return tree.build(log_weights, None)


def keep_best(places: np.ndarray, logits: np.ndarray, expansions: int) -> np.ndarray:
    """The best ceil(n / expansions) of n places, each as often as ``expansions``, best first; the
    last of them less often where n is no multiple. Of equals, the first places are kept."""
    kept = np.argsort(-logits, kind="stable")[: -(-len(places) // expansions)]
    kept = kept[logits[kept] > -np.inf]
    if not len(kept):
        return places
    return np.resize(np.repeat(places[kept], expansions), len(places))

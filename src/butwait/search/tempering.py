"""Parallel tempering over the exponent of the reward.

Chains at rising exponents each run particle Gibbs; after every sweep neighbours may swap their
references, by the rule of Metropolis (Geyer 1991, "Markov chain Monte Carlo maximum likelihood";
swaps of even and odd pairs by turns as in Syed et al. 2022, "Non-reversible parallel tempering").
A low exponent moves as the policy does, so that the chain at the target gets out of a region that
its own filter would not leave.
"""

from collections.abc import Sequence

import numpy as np

from butwait.engines.engine import Engine
from butwait.records import Key, Population, Problem, SearchTree
from butwait.reward_models.reward_model import RewardModel
from butwait.search.builder import TreeBuilder
from butwait.search.frontier import Frontier
from butwait.search.particle_gibbs import Chain, average
from butwait.search.settings import TemperingSettings
from butwait.search.sweep import RESTART, run
from butwait.search.weights import normalise, tempered


async def tempering(
    problem: Problem,
    engine: Engine,
    reward_model: RewardModel | None,
    settings: TemperingSettings,
    key: Key,
) -> SearchTree:
    """Runs parallel tempering on one problem.

    The tree holds the populations of all chains: first those of the first sweep, from the lowest
    exponent to the target's, then those of the second. Its leaves are the last chain's, weighted
    as in particle Gibbs.

    Raises:
        ScoringUnsupportedError: ancestor sampling, and the engine cannot score given tokens.
    """
    chains = [
        Chain(settings.chain(alpha), key.derive("chain", c))
        for c, alpha in enumerate(settings.alphas)
    ]
    of_target = []
    with Frontier(problem, engine, reward_model, settings, key) as frontier:
        for iteration in range(settings.iterations):
            sweeps = [chain.sweep(iteration) for chain in chains]
            await run(frontier, sweeps, iteration)
            for chain, sweep in zip(chains, sweeps, strict=True):
                chain.move(sweep, iteration, frontier.tree)
            of_target.append(sweeps[-1])
            swap(chains, frontier.tree, iteration, key)
        return average(of_target[settings.burn_in :], frontier.tree)


def swap_rates(tree: SearchTree, settings: TemperingSettings) -> list[float]:
    """How often each chain swaps with the next: probabilities, averaged over the sweeps after
    which it was the pair's turn; NaN where it never was.

    They are expectations over the draws of the two references, given the populations, so that a
    few sweeps say something. A rate near 0 asks for more exponents in between.
    """
    starts = [i for i, p in enumerate(tree.populations) if p.ancestors[0] == RESTART]
    ends = [tree.populations[end - 1] for end in [*starts, len(tree.populations)]]
    chains = len(settings.alphas)
    rates: list[list[float]] = [[] for _ in range(chains - 1)]
    for iteration in range(settings.iterations):
        for pair in _pairs(iteration, chains):
            low, high = ends[iteration * chains + pair :][:2]
            if np.isfinite(low.log_weights).any() and np.isfinite(high.log_weights).any():
                alphas = (settings.alphas[pair], settings.alphas[pair + 1])
                rates[pair].append(_expected_swap(tree, low, high, alphas))
    return [float(np.mean(known)) if known else float("nan") for known in rates]


def _expected_swap(
    tree: SearchTree, low: Population, high: Population, alphas: tuple[float, float]
) -> float:
    """The probability of a swap between particles of two populations, drawn by their weights."""
    (below, l_below), (above, l_above) = (_weighted_logits(tree, p) for p in (low, high))
    pairs = np.repeat(l_below, len(l_above)), np.tile(l_above, len(l_below))
    accepted = np.exp(np.minimum(_log_ratio(*alphas, *pairs), 0.0))
    return float(np.outer(below, above).ravel() @ accepted)


def _weighted_logits(tree: SearchTree, population: Population) -> tuple[np.ndarray, np.ndarray]:
    """Weights and logits, as ``_logit`` has them, of the particles that have a weight."""
    weights = np.exp(normalise(population.log_weights))
    paths = [tree.path(node) for node in population.nodes[weights > 0].tolist()]
    logits = [_logit(np.array([tree.nodes[i].reward_logit for i in path])) for path in paths]
    return weights[weights > 0], np.array(logits)


def swap(chains: Sequence[Chain], tree: TreeBuilder, iteration: int, key: Key) -> None:
    """Lets the pairs whose turn it is swap references."""
    for pair in _pairs(iteration, len(chains)):
        low, high = chains[pair], chains[pair + 1]
        if low.reference is None or high.reference is None:
            continue
        logits = [_logit(tree.rewards(np.array(chain.reference))) for chain in (low, high)]
        alphas = (low.settings.final_alpha, high.settings.final_alpha)
        ratio = _log_ratio(*alphas, *np.array(logits)[:, None])
        uniform = key.derive("swap").at(iteration=iteration, particle=pair).uniforms(1)
        if uniform[0] < np.exp(ratio[0]):
            low.reference, high.reference = high.reference, low.reference


def _pairs(iteration: int, chains: int) -> range:
    """The lower chains of the pairs whose turn it is: even and odd ones alternate."""
    return range(iteration % 2, chains - 1, 2)


def _logit(logits: np.ndarray) -> float:
    """What a path with these logits counts in a target: the last of them, or -inf where one of
    them is, since its weight was zero there."""
    return -np.inf if (logits == -np.inf).any() else float(logits[-1])


def _log_ratio(low: float, high: float, l_low: np.ndarray, l_high: np.ndarray) -> np.ndarray:
    """log of (targets after a swap / targets before) = (low - high) (l_high - l_low), float64 (n,)
    in nats, for n pairs of paths of positive weight where they are."""
    after = tempered(low, l_high) + tempered(high, l_low)
    return after - tempered(low, l_low) - tempered(high, l_high)

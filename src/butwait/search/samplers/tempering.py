"""Parallel tempering over the exponent of the reward.

Chains at rising exponents each run particle Gibbs; after every sweep neighbours may swap their
references, by the rule of Metropolis (Geyer 1991, "Markov chain Monte Carlo maximum likelihood";
swaps of even and odd pairs by turns as in Syed et al. 2022, "Non-reversible parallel tempering").
A low exponent moves as the policy does, so that the chain at the target gets out of a region that
its own filter would not leave.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, field_validator

from butwait.engines.engine import Engine
from butwait.records import Key, Problem, SearchTree
from butwait.records.settings import Result
from butwait.reward_models.reward_model import RewardModel
from butwait.search.builder import TreeBuilder
from butwait.search.frontier import Frontier
from butwait.search.samplers.particle_filter import run
from butwait.search.samplers.particle_gibbs import (
    Chain,
    ConditionalSettings,
    ParticleGibbsSettings,
    average,
)
from butwait.search.settings import Exponent, Sampler
from butwait.search.weights import tempered


class TemperingSettings(ConditionalSettings):
    """Parallel tempering: particle Gibbs at several exponents, which swap their paths
    (``docs/chains.md``)."""

    kind: Literal["tempering"] = "tempering"
    alphas: Result[Annotated[tuple[Exponent, ...], Field(min_length=2)]] = (0.25, 0.5, 1.0)
    """The chains' exponents, rising; the last is the target's. All chains run side by side, so
    that as many times ``particles`` paths are in flight."""

    @field_validator("alphas")
    @classmethod
    def _rise(cls, alphas: tuple[float, ...]) -> tuple[float, ...]:
        if any(low >= high for low, high in pairwise(alphas)):
            raise ValueError(f"alphas must rise from each chain to the next; {alphas} do not")
        return alphas

    def chain(self, alpha: float) -> ParticleGibbsSettings:
        """The settings of the chain at one exponent."""
        shared = {name: getattr(self, name) for name in type(self).model_fields}
        del shared["kind"], shared["alphas"]
        return ParticleGibbsSettings(**shared, alpha=alpha)


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


def swap(chains: Sequence[Chain], tree: TreeBuilder, iteration: int, key: Key) -> None:
    """Lets the pairs whose turn it is swap references: even and odd pairs alternate."""
    for pair in range(iteration % 2, len(chains) - 1, 2):
        low, high = chains[pair], chains[pair + 1]
        if low.reference is None or high.reference is None:
            continue
        logits = [_final_logit(tree.rewards(np.array(chain.reference))) for chain in (low, high)]
        ratio = _log_ratio(low.settings.final_alpha, high.settings.final_alpha, *logits)
        uniform = key.derive("swap").at(iteration=iteration, particle=pair).uniforms(1)
        if uniform[0] < np.exp(ratio[0]):
            low.reference, high.reference = high.reference, low.reference


def _final_logit(logits: np.ndarray) -> np.ndarray:
    """float64 (1,): what a path with these logits counts in a target: the last of them, or -inf
    where one of them is, since its weight was zero there."""
    return np.full(1, -np.inf) if (logits == -np.inf).any() else logits[-1:]


def _log_ratio(low: float, high: float, l_low: np.ndarray, l_high: np.ndarray) -> np.ndarray:
    """log of (targets after a swap / targets before) = (low - high) (l_high - l_low), float64 (1,)
    in nats, for two paths of positive weight where they are."""
    after = tempered(low, l_high) + tempered(high, l_low)
    return after - tempered(low, l_low) - tempered(high, l_high)


TEMPERING = Sampler(
    TemperingSettings, tempering, paths=lambda settings: settings.particles * len(settings.alphas)
)

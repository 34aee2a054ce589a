"""Particle Gibbs: a Markov chain of conditional sweeps, with the filter's target as its own.

After Andrieu, Doucet and Holenstein (2010, "Particle Markov chain Monte Carlo methods", section
2.4.3), with ancestor sampling (Lindsten, Jordan and Schön 2014) if asked for. ``docs/chains.md``
derives both. Unlike a single filter, whose average has a bias of O(1/N), the chain is exact at any
N >= 2 once it has forgotten its start.
"""

from collections.abc import Sequence

import numpy as np

from butwait.engines.engine import Engine
from butwait.records import Key, Problem, SearchTree
from butwait.reward_models.reward_model import RewardModel
from butwait.search.builder import TreeBuilder
from butwait.search.frontier import Frontier
from butwait.search.settings import ParticleGibbsSettings
from butwait.search.sweep import Sweep, record, run
from butwait.search.weights import normalise


class Chain:
    """A chain of sweeps at one target.

    Args:
        settings: of its sweeps.
        key: of the chain.

    Attributes:
        reference: the chain's state, nodes of a path without the root; None until a sweep has
            ended with a weight above zero.
    """

    def __init__(self, settings: ParticleGibbsSettings, key: Key) -> None:
        self.settings = settings
        self.reference: Sequence[int] | None = None
        self._key = key

    def sweep(self, iteration: int) -> Sweep:
        """The next sweep, at its beginning: conditional on the reference where there is one."""
        return Sweep(self.settings, self._key, iteration, self.reference)

    def move(self, sweep: Sweep, iteration: int, tree: TreeBuilder) -> None:
        """Takes a new reference from a sweep that has ended, which goes into the tree."""
        record(sweep, tree)
        if not sweep.extinct:
            key = self._key.derive("reference").at(iteration=iteration)
            self.reference = sweep.draw(key, tree)


async def particle_gibbs(
    problem: Problem,
    engine: Engine,
    reward_model: RewardModel | None,
    settings: ParticleGibbsSettings,
    key: Key,
) -> SearchTree:
    """Runs a particle Gibbs chain on one problem.

    The tree holds the populations of all sweeps, one after another; see ``average`` for its
    leaves. There is no evidence: that of a conditional sweep is biased. A first sweep whose
    weights are all zero is begun anew by the next; if all are, the search is ``extinct``.

    Raises:
        ScoringUnsupportedError: ancestor sampling, and the engine cannot score given tokens.
    """
    chain, sweeps = Chain(settings, key), []
    with Frontier(problem, engine, reward_model, settings, key) as frontier:
        for iteration in range(settings.iterations):
            sweep = chain.sweep(iteration)
            await run(frontier, [sweep], iteration)
            chain.move(sweep, iteration, frontier.tree)
            sweeps.append(sweep)
        return average(sweeps[settings.burn_in :], frontier.tree)


def average(sweeps: Sequence[Sweep], tree: TreeBuilder) -> SearchTree:
    """The tree whose leaves are the final particles of all these sweeps. Each sweep has the same
    weight, divided among its particles by their weights in it."""
    log_weights = np.concatenate([normalise(sweep.log_weights) for sweep in sweeps])
    return tree.build(log_weights, None, np.concatenate([sweep.nodes for sweep in sweeps]))

"""Particle Gibbs: a Markov chain of conditional sweeps, with the filter's target as its own.

After Andrieu, Doucet and Holenstein (2010, "Particle Markov chain Monte Carlo methods", section
2.4.3), with ancestor sampling (Lindsten, Jordan and Schön 2014) if asked for. ``docs/chains.md``
derives both. Unlike a single filter, whose average has a bias of O(1/N), the chain is exact at any
N >= 2 once it has forgotten its start.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from butwait.engines.engine import Engine
from butwait.records import Key, Problem, SearchTree
from butwait.records.settings import Result, refuse_all
from butwait.reward_models.reward_model import RewardModel
from butwait.search.builder import TreeBuilder
from butwait.search.frontier import Frontier
from butwait.search.resampling import CONDITIONAL_RESAMPLERS, ConditionalResampling
from butwait.search.samplers.ancestors import sample_ancestor
from butwait.search.samplers.particle_filter import Sweep, record, run
from butwait.search.settings import Count, FilterSettings, PopulationSettings, Sampler
from butwait.search.weights import normalise, reweight


class ConditionalSettings(PopulationSettings):
    """What chains of conditional sweeps have."""

    particles: Result[Annotated[int, Field(ge=2)]] = 16
    """Size N of the population, the reference included."""
    iterations: Result[Count] = 4
    """Sweeps of every chain. The first is a plain filter, the others are conditional."""
    burn_in: Result[Annotated[int, Field(ge=0)]] = 0
    """Sweeps at the beginning that are kept in the tree and left out of the final weights."""
    resampling: Result[ConditionalResampling] = "multinomial"
    """How ancestors are drawn given the reference's."""
    ancestor_sampling: Result[bool] = False
    """Whether the reference draws a new past wherever the population is resampled. The engine has
    to score given tokens, and the policy has to be sampled as it is."""

    @field_validator("resampling", mode="before")
    @classmethod
    def _has_a_conditional_form(cls, chosen: object) -> object:
        if chosen in ("stratified", "residual"):
            raise ValueError(
                f"{chosen} resampling has no conditional form here, and keeping the reference by "
                "force would bias the chain; choose multinomial or systematic"
            )
        return chosen

    @model_validator(mode="after")
    def _a_chain_can_be_made(self) -> Self:
        refuse_all(self._misfits())
        return self

    def _misfits(self) -> Iterator[str]:
        if self.burn_in >= self.iterations:
            yield (
                f"a burn_in of {self.burn_in} leaves none of {self.iterations} iterations; make "
                "it smaller, or iterations larger"
            )
        how = self.sampling
        if self.ancestor_sampling and (how.temperature, how.top_p, how.top_k) != (1, 1, 0):
            yield (
                "ancestor_sampling needs temperature 1, top_p 1 and top_k 0: engines score given "
                "tokens under the policy as it is; set these, or ancestor_sampling to false"
            )


class ParticleGibbsSettings(ConditionalSettings, FilterSettings):
    """Particle Gibbs: a chain of filters, each conditional on a path of the one before
    (``docs/chains.md``)."""

    kind: Literal["particle_gibbs"] = "particle_gibbs"


class ConditionalSweep(Sweep):
    """A sweep with slot 0 held on a path that is given, the reference (Andrieu, Doucet and
    Holenstein 2010). It leaves the target invariant (``docs/chains.md``).

    Args:
        settings: size, exponents, resampling.
        key: as for a plain sweep. The reference's ancestor of step t is drawn at
            ``key.derive("ancestor").at(step=t)``, at the iteration.
        iteration: number of this sweep in its chain, from 0.
        reference: nodes of a path, the root left out.

    Attributes:
        reference: as given, or with another past since then (ancestor sampling).
    """

    def __init__(
        self, settings: ParticleGibbsSettings, key: Key, iteration: int, reference: Sequence[int]
    ) -> None:
        super().__init__(settings, key, iteration)
        self.reference = reference
        self._chain = settings
        self._ancestry_key = key.derive("ancestor").at(iteration=iteration)

    @property
    def growing(self) -> np.ndarray:
        """bool (N,): as in a plain sweep, but for the reference, whose steps are there already."""
        growing = super().growing
        growing[0] = False
        return growing

    def weigh(self, nodes: np.ndarray, frontier: Frontier) -> None:
        """Takes the reference a step on too."""
        nodes[0] = self.reference[min(len(self.populations) + 1, len(self.reference)) - 1]
        super().weigh(nodes, frontier)

    async def _draw_ancestors(
        self, frontier: Frontier, weights: np.ndarray, generator: np.random.Generator, step: int
    ) -> np.ndarray:
        first = 0
        if self._chain.ancestor_sampling:
            past = reweight(self.log_weights, self._tilt, np.zeros(len(weights)))
            first, self.reference = await sample_ancestor(
                frontier,
                self._chain,
                self.reference,
                self.nodes,
                np.where(self.live, past, -np.inf),
                step,
                self._ancestry_key,
            )
        return CONDITIONAL_RESAMPLERS[self._chain.resampling](weights, first, generator)


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
        if self.reference is None:
            return Sweep(self.settings, self._key, iteration)
        return ConditionalSweep(self.settings, self._key, iteration, self.reference)

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


PARTICLE_GIBBS = Sampler(
    ParticleGibbsSettings, particle_gibbs, paths=lambda settings: settings.particles
)

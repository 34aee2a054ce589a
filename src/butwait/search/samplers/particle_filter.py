"""The particle filter: one sweep of sequential Monte Carlo over steps of reasoning, a population
on its way from the root to its end.

After Del Moral, Doucet and Jasra (2006, "Sequential Monte Carlo samplers") with the telescoping
potentials that ``docs/search.md`` derives: log G_t = alpha_t l_t - alpha_(t-1) l_(t-1), where l_t
is the reward model's logit of the path after t steps and l_0 = 0. The target is the policy times
odds^alpha of the final reward, whatever a path's length.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Literal, Self

import numpy as np
from pydantic import model_validator

from butwait.engines.engine import Engine
from butwait.records import Key, Population, Problem, SearchTree
from butwait.records.settings import Result
from butwait.reward_models.reward_model import RewardModel
from butwait.search.builder import ROOT, TreeBuilder
from butwait.search.frontier import Frontier
from butwait.search.resampling import RESAMPLERS, inverse_cdf
from butwait.search.samplers.its_hub import ITS_HUB_TAKES, its_hub
from butwait.search.settings import FilterSettings, Sampler
from butwait.search.weights import (
    effective_sample_size,
    log_mean_exp,
    normalise,
    reweight,
    tempered,
)


class ParticleFilterSettings(FilterSettings):
    """A particle filter with telescoping potentials (``docs/search.md``)."""

    kind: Literal["particle_filter"] = "particle_filter"
    preset: Result[Literal["exact", "its_hub"]] = "exact"
    """``its_hub`` runs the filter of its_hub 1.2.0 instead (``docs/samplers.md``), which takes
    ``particles``, ``max_steps``, ``step``, ``sampling`` and ``selection`` and nothing else."""

    @model_validator(mode="after")
    def _its_hub_has_a_say(self) -> Self:
        without = sorted(self.model_fields_set - ITS_HUB_TAKES)
        if self.preset == "its_hub" and without:
            raise ValueError(
                f"the preset its_hub has no {' and no '.join(without)}; leave them out, or use "
                "the preset exact"
            )
        return self


RESTART = -1
"""The ancestor, in a tree's populations, of particles that start a new sweep at the root."""


class Sweep:
    """N particles. Each round resamples them if their weights are uneven, extends the live ones by
    a step, and multiplies the weights by the potential. A particle is live while its path is open
    and its weight is not zero; the others are absorbed and cost nothing more. Weights and evidence
    are in nats.

    Args:
        settings: size, exponents, resampling.
        key: ancestors of step t are drawn at ``key.derive("resample").at(step=t)``, at the
            iteration.
        iteration: number of this sweep in its chain, from 0.

    Attributes:
        nodes: int32 (N,), where the particles stand.
        live: bool (N,).
        log_weights: float64 (N,), since the last resampling.
        populations: so far.
        ended: whether no particle is live, or ``max_steps`` are done.
    """

    def __init__(self, settings: FilterSettings, key: Key, iteration: int = 0) -> None:
        size = settings.particles
        self._settings = settings
        self._resampling_key = key.derive("resample").at(iteration=iteration)
        self.nodes = np.full(size, ROOT, np.int32)
        self.live = np.ones(size, bool)
        self.log_weights = np.zeros(size)
        self.populations: list[Population] = []
        self.ended = False
        self._tilt = np.zeros(size)  # of ``_tilted``, at the exponent of the last step
        self._past_evidence = 0.0  # of the stretches before the last resampling
        self._ancestors = np.arange(size, dtype=np.int32)
        self._resampled = False

    @property
    def extinct(self) -> bool:
        """Whether all weights are zero."""
        return bool(np.all(self.log_weights == -np.inf))

    @property
    def log_evidence(self) -> float:
        """log of the estimate of the normalising constant; unbiased (before the log) in a plain
        sweep that has ended."""
        return self._past_evidence + log_mean_exp(self.log_weights)

    @property
    def growing(self) -> np.ndarray:
        """bool (N,): the particles that the policy extends: the live ones; nobody once the sweep
        has ended."""
        return self.live & (not self.ended)

    async def resample(self, frontier: Frontier) -> None:
        """Draws ancestors if the weights are uneven; not before the first step."""
        size, t = len(self.nodes), len(self.populations) + 1
        threshold = self._settings.ess_threshold * size
        self._resampled = t > 1 and effective_sample_size(self.log_weights) < threshold
        self._ancestors = np.arange(size, dtype=np.int32)
        if not self._resampled:
            return
        generator = self._resampling_key.at(step=t).generator()
        weights = np.exp(normalise(self.log_weights))
        self._ancestors = await self._draw_ancestors(frontier, weights, generator, t)
        self.nodes, self.live = self.nodes[self._ancestors], self.live[self._ancestors]
        self._tilt = self._tilt[self._ancestors]
        self._past_evidence = self.log_evidence
        self.log_weights = np.zeros(size)

    def weigh(self, nodes: np.ndarray, frontier: Frontier) -> None:
        """Takes the particles to where they were extended to, and multiplies the weights."""
        t = len(self.populations) + 1
        before, tilt = self._tilt, self._tilted(self._settings.alpha_at(t), nodes, frontier)
        log_weights = reweight(self.log_weights, before, tilt)
        self.live = frontier.is_open(nodes) & (log_weights > -np.inf)
        self.ended = not self.live.any() or t == self._settings.max_steps
        if self.ended:  # the rest of the schedule, all of it at once
            final = self._tilted(self._settings.final_alpha, nodes, frontier)
            log_weights = reweight(log_weights, tilt, final)
        self.nodes, self.log_weights, self._tilt = nodes, log_weights, tilt
        self.populations.append(Population(nodes, self._ancestors, log_weights, self._resampled))

    def draw(self, key: Key, tree: TreeBuilder) -> list[int]:
        """The path of a particle, as nodes without the root, drawn by the weights."""
        weights = np.exp(normalise(self.log_weights))
        slot = int(inverse_cdf(weights, key.uniforms(1))[0])
        return tree.path(int(self.nodes[slot]))

    def _tilted(self, alpha: float, nodes: np.ndarray, frontier: Frontier) -> np.ndarray:
        """float64 (N,): the log of what the target at this exponent is of the proposal, for the
        paths to these nodes: alpha l. A potential is the difference of two of them."""
        return tempered(alpha, frontier.tree.rewards(nodes))

    async def _draw_ancestors(
        self, frontier: Frontier, weights: np.ndarray, generator: np.random.Generator, step: int
    ) -> np.ndarray:
        """int32 (N,): ancestors for ``step``, by the chosen resampler."""
        return RESAMPLERS[self._settings.resampling](weights, generator)


async def run(frontier: Frontier, sweeps: Sequence[Sweep], iteration: int = 0) -> None:
    """Takes sweeps of one size to their ends side by side, so that the engine gets their steps
    together. Particle i of the j-th draws its tokens as particle j N + i."""
    for t in count(1):
        under_way = [sweep for sweep in sweeps if not sweep.ended]
        if not under_way:
            break
        for sweep in under_way:
            await sweep.resample(frontier)
        nodes = np.concatenate([sweep.nodes for sweep in sweeps])
        growing = np.concatenate([sweep.growing for sweep in sweeps])
        extended = await frontier.extend(nodes, growing, t, iteration)
        for sweep, block in zip(sweeps, np.split(extended, len(sweeps)), strict=True):
            if not sweep.ended:
                sweep.weigh(block, frontier)


def record(sweep: Sweep, tree: TreeBuilder) -> None:
    """Adds the sweep's populations to a tree, after those of other sweeps."""
    first, *others = sweep.populations
    if tree.populations:
        first = replace(first, ancestors=np.full_like(first.ancestors, RESTART))
    for population in (first, *others):
        tree.add_population(population)


async def particle_filter(
    problem: Problem,
    engine: Engine,
    reward_model: RewardModel | None,
    settings: ParticleFilterSettings,
    key: Key,
) -> SearchTree:
    """Runs a particle filter on one problem.

    Weights and evidence are in nats. All weights zero ends the search with the outcome
    ``extinct``: a result, whose log-weights and log-evidence are -inf.
    """
    if settings.preset == "its_hub":
        return await its_hub(problem, engine, reward_model, settings, key)
    sweep = Sweep(settings, key)
    with Frontier(problem, engine, reward_model, settings, key) as frontier:
        await run(frontier, [sweep])
        record(sweep, frontier.tree)
        return frontier.tree.build(sweep.log_weights, sweep.log_evidence)


PARTICLE_FILTER = Sampler(
    ParticleFilterSettings,
    particle_filter,
    paths=lambda settings: settings.particles,
    one_sweep=True,
)

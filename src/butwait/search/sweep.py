"""One sweep of sequential Monte Carlo: a population on its way from the root to its end.

After Del Moral, Doucet and Jasra (2006, "Sequential Monte Carlo samplers") with the telescoping
potentials that ``docs/search.md`` derives: log G_t = alpha_t l_t - alpha_(t-1) l_(t-1), where l_t
is the reward model's logit of the path after t steps and l_0 = 0. The target is the policy times
odds^alpha of the final reward, whatever a path's length.

A conditional sweep (Andrieu, Doucet and Holenstein 2010, "Particle Markov chain Monte Carlo
methods") is the same with slot 0 held on a path that is given, the reference. It
leaves the target invariant (``docs/chains.md``).
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count

import numpy as np

from butwait.records import Key, Population
from butwait.search.ancestors import sample_ancestor
from butwait.search.builder import ROOT, TreeBuilder
from butwait.search.frontier import Frontier
from butwait.search.resampling import CONDITIONAL_RESAMPLERS, RESAMPLERS, inverse_cdf
from butwait.search.settings import ParticleFilterSettings, ParticleGibbsSettings
from butwait.search.weights import (
    effective_sample_size,
    log_mean_exp,
    normalise,
    reweight,
    tempered,
)

RESTART = -1
"""The ancestor, in a tree's populations, of particles that start a new sweep at the root."""


class Sweep:
    """N particles. Each round resamples them if their weights are uneven, extends the live ones by
    a step, and multiplies the weights by the potential. A particle is live while its path is open
    and its weight is not zero; the others are absorbed and cost nothing more. Weights and evidence
    are in nats.

    Args:
        settings: size, exponents, resampling.
        key: ancestors of step t are drawn at ``key.derive("resample").at(step=t)``, the
            reference's at ``key.derive("ancestor").at(step=t)``, both at the iteration.
        iteration: number of this sweep in its chain, from 0.
        reference: nodes of the path that slot 0 is held on, the root left out; None: a plain
            filter.

    Attributes:
        nodes: int32 (N,), where the particles stand.
        live: bool (N,).
        log_weights: float64 (N,), since the last resampling.
        reference: as given, or with another past since then (ancestor sampling).
        populations: so far.
        ended: whether no particle is live, or ``max_steps`` are done.
    """

    def __init__(
        self,
        settings: ParticleFilterSettings | ParticleGibbsSettings,
        key: Key,
        iteration: int = 0,
        reference: Sequence[int] | None = None,
    ) -> None:
        n = settings.particles
        self._settings = settings
        self._resampling_key = key.derive("resample").at(iteration=iteration)
        self._ancestry_key = key.derive("ancestor").at(iteration=iteration)
        self.reference = reference
        self.nodes = np.full(n, ROOT, np.int32)
        self.live = np.ones(n, bool)
        self.log_weights = np.zeros(n)
        self.populations: list[Population] = []
        self.ended = False
        self._tilt = np.zeros(n)  # alpha_t l_t, in nats
        self._past_evidence = 0.0  # of the stretches before the last resampling
        self._ancestors = np.arange(n, dtype=np.int32)
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
        """bool (N,): the particles that the policy extends: the live ones but the reference; nobody
        once the sweep has ended."""
        if self.ended:
            return np.zeros(len(self.live), bool)
        growing = self.live.copy()
        growing[0] &= self.reference is None
        return growing

    async def resample(self, frontier: Frontier) -> None:
        """Draws ancestors if the weights are uneven; not before the first step."""
        n, t = len(self.nodes), len(self.populations) + 1
        threshold = self._settings.ess_threshold * n
        self._resampled = t > 1 and effective_sample_size(self.log_weights) < threshold
        self._ancestors = np.arange(n, dtype=np.int32)
        if not self._resampled:
            return
        self._ancestors = await self._draw_ancestors(frontier, t)
        self.nodes, self.live = self.nodes[self._ancestors], self.live[self._ancestors]
        self._tilt = self._tilt[self._ancestors]
        self._past_evidence = self.log_evidence
        self.log_weights = np.zeros(n)

    def weigh(self, nodes: np.ndarray, frontier: Frontier) -> None:
        """Takes the particles to where they were extended to, and multiplies the weights."""
        t = len(self.populations) + 1
        if self.reference is not None:
            nodes[0] = self.reference[min(t, len(self.reference)) - 1]
        logits = frontier.tree.rewards(nodes)
        before, tilt = self._tilt, tempered(self._settings.alpha_at(t), logits)
        log_weights = reweight(self.log_weights, before, tilt)
        self.live = frontier.is_open(nodes) & (log_weights > -np.inf)
        self.ended = not self.live.any() or t == self._settings.max_steps
        if self.ended:  # the rest of the schedule, all of it at once
            final = tempered(self._settings.final_alpha, logits)
            log_weights = reweight(log_weights, tilt, final)
        self.nodes, self.log_weights, self._tilt = nodes, log_weights, tilt
        self.populations.append(Population(nodes, self._ancestors, log_weights, self._resampled))

    def draw(self, key: Key, tree: TreeBuilder) -> list[int]:
        """The path of a particle, as nodes without the root, drawn by the weights."""
        weights = np.exp(normalise(self.log_weights))
        slot = int(inverse_cdf(weights, key.uniforms(1))[0])
        return tree.path(int(self.nodes[slot]))

    async def _draw_ancestors(self, frontier: Frontier, step: int) -> np.ndarray:
        """int32 (N,): ancestors for ``step``, by the chosen resampler."""
        generator = self._resampling_key.at(step=step).generator()
        weights = np.exp(normalise(self.log_weights))
        settings, n = self._settings, len(weights)
        if self.reference is None:
            return RESAMPLERS[settings.resampling](weights, generator)
        assert isinstance(settings, ParticleGibbsSettings), "only a chain has a reference"
        first = 0
        if settings.ancestor_sampling:
            first, self.reference = await sample_ancestor(
                frontier,
                settings,
                self.reference,
                self.nodes,
                np.where(self.live, reweight(self.log_weights, self._tilt, np.zeros(n)), -np.inf),
                step,
                self._ancestry_key,
            )
        return CONDITIONAL_RESAMPLERS[settings.resampling](weights, first, generator)


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
    """Adds the sweep's populations to a tree, behind those of other sweeps."""
    first, *others = sweep.populations
    if tree.populations:
        first = replace(first, ancestors=np.full_like(first.ancestors, RESTART))
    for population in (first, *others):
        tree.add_population(population)

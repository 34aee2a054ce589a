"""The particle filter as its_hub 1.2.0 runs it, for comparison with numbers published with it.

After ``its_hub.core.algorithms.particle_gibbs.ParticleFiltering`` (Puri et al. 2025, arXiv
2502.01618, algorithm 1, with odds in place of rewards). What it does otherwise than the filter of
this package, and on purpose stays so here:

- a particle's weight is the odds of its last reward alone. A finished one has it applied again at
  every step, so early finishers win;
- it resamples before every step, always by multinomial draws;
- it resamples after the last step too and weighs what is left by the same odds once more;
- it has no evidence: its populations are not draws from a known target.

Two things are not imitated, as they belong to its way of calling a model and not to the filter.
EOS and the token limits end a path, where it goes on with empty steps; and ``max_steps`` is the
number of steps, where it takes one more.
"""

from itertools import count

import numpy as np

from butwait.engines.engine import Engine
from butwait.records import Key, Population, Problem, SearchTree
from butwait.reward_models.reward_model import RewardModel
from butwait.search.builder import ROOT
from butwait.search.frontier import Frontier
from butwait.search.resampling import multinomial
from butwait.search.settings import PopulationSettings
from butwait.search.weights import normalise

ITS_HUB_TAKES = frozenset(
    {"kind", "preset", "particles", "max_steps", "step", "sampling", "selection"}
)
"""The settings of a particle filter that have a meaning here."""

CLIP = float(np.log((1 - 1e-7) / 1e-7))
"""Largest log-odds that its_hub makes of a reward, in nats: rewards are clipped to 1e-7 from 0
and 1. So no weight is zero and no search extinct."""


async def its_hub(
    problem: Problem,
    engine: Engine,
    reward_model: RewardModel | None,
    settings: PopulationSettings,
    key: Key,
) -> SearchTree:
    """Runs its_hub's particle filter on one problem.

    The last population of the tree is the one it drew after the last step. ``argmax`` and
    ``sample`` over its leaves are its own two ways to choose.
    """
    nodes = np.full(settings.particles, ROOT, np.int32)
    ancestors = np.arange(settings.particles, dtype=np.int32)
    with Frontier(problem, engine, reward_model, settings, key) as frontier:
        tree = frontier.tree
        live = frontier.is_open(nodes)
        for t in count(1):
            nodes = await frontier.extend(nodes, live, t)
            log_weights = np.clip(tree.rewards(nodes), -CLIP, CLIP)
            tree.add_population(Population(nodes, ancestors, log_weights, t > 1))
            generator = key.derive("resample").at(step=t + 1).generator()
            ancestors = multinomial(np.exp(normalise(log_weights)), generator)
            nodes = nodes[ancestors]
            live = frontier.is_open(nodes)
            if not live.any() or t == settings.max_steps:
                break
        log_weights = log_weights[ancestors]
        tree.add_population(Population(nodes, ancestors, log_weights, True))
        return tree.build(log_weights, None)

"""The particle filter: sequential Monte Carlo over steps of reasoning.

After Del Moral, Doucet and Jasra (2006, "Sequential Monte Carlo samplers") with the telescoping
potentials that ``docs/search.md`` derives: log G_t = alpha_t l_t - alpha_(t-1) l_(t-1), where l_t
is the reward model's logit of the path after t steps and l_0 = 0. The target is the policy times
odds^alpha of the final reward, whatever a path's length.
"""

from itertools import count

import numpy as np

from butwait.engines.engine import Engine
from butwait.records import Key, Population, Problem, SearchTree
from butwait.reward_models.reward_model import RewardModel
from butwait.search.builder import ROOT
from butwait.search.frontier import Frontier
from butwait.search.resampling import RESAMPLERS
from butwait.search.settings import ParticleFilterSettings
from butwait.search.weights import (
    effective_sample_size,
    log_mean_exp,
    normalise,
    reweight,
    tempered,
)


async def particle_filter(
    problem: Problem,
    engine: Engine,
    reward_model: RewardModel | None,
    settings: ParticleFilterSettings,
    key: Key,
) -> SearchTree:
    """Runs a particle filter on one problem.

    Each round resamples the N particles if their weights are uneven, extends the live ones by a
    step, and multiplies the weights by the potential. A particle is live while its path is open
    and its weight is not zero; the others are absorbed and cost nothing more. Weights and
    evidence are in nats. All weights zero ends the search with the outcome ``extinct``: a result,
    whose log-weights and log-evidence are -inf.
    """
    n = settings.particles
    nodes = np.full(n, ROOT, np.int32)
    log_weights = np.zeros(n)  # since the last resampling
    tilt = np.zeros(n)  # alpha_t l_t, in nats
    log_evidence = 0.0
    with Frontier(
        problem, engine, reward_model, settings.step, settings.sampling, key, settings.kind
    ) as frontier:
        live = frontier.is_open(nodes)
        for t in count(1):
            ancestors = np.arange(n, dtype=np.int32)
            uneven = effective_sample_size(log_weights) < settings.ess_threshold * n
            resampled = t > 1 and uneven
            if resampled:
                ancestors = _draw_ancestors(log_weights, settings, key, t)
                log_evidence += log_mean_exp(log_weights)
                log_weights = np.zeros(n)

            nodes = await frontier.extend(nodes[ancestors], live[ancestors], t)

            logits = frontier.tree.rewards(nodes)
            before, tilt = tilt[ancestors], tempered(settings.alpha_at(t), logits)
            log_weights = reweight(log_weights, before, tilt)
            live = frontier.is_open(nodes) & (log_weights > -np.inf)
            ended = not live.any() or t == settings.max_steps
            if ended:  # the rest of the schedule, all of it at once
                log_weights = reweight(log_weights, tilt, tempered(settings.final_alpha, logits))
            frontier.tree.add_population(Population(nodes, ancestors, log_weights, resampled))
            if ended:
                break
        return frontier.tree.build(log_weights, log_evidence + log_mean_exp(log_weights))


def _draw_ancestors(
    log_weights: np.ndarray, settings: ParticleFilterSettings, key: Key, step: int
) -> np.ndarray:
    """int32 (N,): ancestors for ``step``, drawn by the chosen resampler."""
    generator = key.derive("resample").at(step=step).generator()
    weights = np.exp(normalise(log_weights))
    return RESAMPLERS[settings.resampling](weights, generator)

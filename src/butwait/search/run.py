"""Runs the sampler that the settings name."""

from typing import Any

from butwait.engines.engine import Engine
from butwait.records import Key, Problem, SearchTree, UserError
from butwait.reward_models.reward_model import RewardModel
from butwait.search.best_of_n import best_of_n
from butwait.search.independent import independent
from butwait.search.particle_filter import particle_filter
from butwait.search.sampler import Sampler
from butwait.search.settings import (
    BestOfNSettings,
    IndependentSettings,
    ParticleFilterSettings,
    SamplerSettings,
    SelfConsistencySettings,
)

SAMPLERS: dict[type[Any], Sampler] = {
    ParticleFilterSettings: particle_filter,
    BestOfNSettings: best_of_n,
    IndependentSettings: independent,
    SelfConsistencySettings: independent,
}
"""The sampler of each kind of settings. A new sampler is a settings class, a function and a line
here."""

NEED_REWARD_MODEL = frozenset({"particle_filter", "best_of_n"})


async def run_sampler(
    problem: Problem,
    engine: Engine,
    reward_model: RewardModel | None,
    settings: SamplerSettings,
    key: Key,
) -> SearchTree:
    """Searches one problem.

    Args:
        problem: what to search.
        engine: the policy.
        reward_model: may be None for samplers that ask for no rewards.
        settings: of the sampler.
        key: ``Key.of(seed, stage, problem.id)``; the tree is a function of it and the rest.

    Raises:
        UserError: the sampler needs a reward model and there is none.
    """
    if reward_model is None and settings.kind in NEED_REWARD_MODEL:
        raise UserError(
            f"the sampler {settings.kind} needs a reward model and the stage names none; name one "
            "under reward_model, or choose self_consistency"
        )
    return await SAMPLERS[type(settings)](problem, engine, reward_model, settings, key)

"""Runs the sampler that the settings name."""

from typing import Any

from butwait.engines.engine import Engine
from butwait.engines.gate import GatedEngine
from butwait.records import Key, Problem, SearchTree, UserError
from butwait.reward_models.reward_model import RewardModel
from butwait.search.beam_search import beam_search
from butwait.search.best_of_n import best_of_n
from butwait.search.but_wait import but_wait
from butwait.search.dvts import dvts
from butwait.search.independent import independent
from butwait.search.particle_filter import particle_filter
from butwait.search.particle_gibbs import particle_gibbs
from butwait.search.rebase import rebase
from butwait.search.sampler import Sampler
from butwait.search.settings import (
    BeamSearchSettings,
    BestOfNSettings,
    ButWaitSettings,
    DVTSSettings,
    IndependentSettings,
    ParticleFilterSettings,
    ParticleGibbsSettings,
    RebaseSettings,
    SamplerSettings,
    SelfConsistencySettings,
    TemperingSettings,
)
from butwait.search.tempering import tempering

SAMPLERS: dict[type[Any], Sampler] = {
    ParticleFilterSettings: particle_filter,
    ParticleGibbsSettings: particle_gibbs,
    TemperingSettings: tempering,
    BestOfNSettings: best_of_n,
    IndependentSettings: independent,
    SelfConsistencySettings: independent,
    BeamSearchSettings: beam_search,
    DVTSSettings: dvts,
    RebaseSettings: rebase,
    ButWaitSettings: but_wait,
}
"""The sampler of each kind of settings. A new sampler is a settings class in the
union ``SamplerSettings``, a function and a line here, and a name below if it needs rewards."""

NEED_REWARD_MODEL = frozenset(
    {
        "particle_filter",
        "particle_gibbs",
        "tempering",
        "best_of_n",
        "beam_search",
        "dvts",
        "rebase",
    }
)


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
    if isinstance(engine, GatedEngine):
        engine = engine.turn()
    return await SAMPLERS[type(settings)](problem, engine, reward_model, settings, key)

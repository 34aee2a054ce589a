"""Runs the sampler that the settings name."""

from butwait.engines.engine import Engine
from butwait.records import Key, Problem, SearchTree, UserError
from butwait.reward_models.reward_model import RewardModel
from butwait.search.settings import SAMPLERS, SamplerSettings


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
    sampler = SAMPLERS.of(settings)
    if reward_model is None and sampler.needs_reward_model:
        others = (kind for kind in SAMPLERS if not SAMPLERS[kind].needs_reward_model)
        raise UserError(
            f"the sampler {settings.kind} needs a reward model and the stage names none; name one "
            f"under reward_model, or choose a sampler that needs none ({', '.join(others)})"
        )
    return await sampler.run(problem, engine.turn(), reward_model, settings, key)

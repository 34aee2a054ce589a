"""Runs the sampler that the settings name."""

from typing import Any

import numpy as np

from butwait.engines.engine import Engine
from butwait.records import Key, Problem, SearchTree, UserError
from butwait.reward_models.reward_model import RewardModel
from butwait.running.plugins import wrong
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
    tree = await sampler.run(problem, engine.turn(), reward_model, settings, key)
    if ":" in settings.kind:
        _check(tree, problem, settings.kind)
    return tree


def _check(tree: Any, problem: Problem, name: str) -> None:
    """What a user's own sampler gives must be a tree of the problem, with leaves and weights."""
    call = "its run"
    if not isinstance(tree, SearchTree):
        raise wrong(name, call, tree, "a SearchTree")
    if tree.problem_id != problem.id:
        raise wrong(name, call, tree.problem_id, f"a tree of the problem {problem.id!r}")
    leaves, weights = np.asarray(tree.leaves), np.asarray(tree.log_weights)
    if not len(leaves) or not set(leaves.tolist()) <= set(range(len(tree.nodes))):
        raise wrong(name, call, tree.leaves, "leaves that are nodes of the tree")
    if weights.shape != leaves.shape or np.isnan(weights).any():
        raise wrong(name, call, tree.log_weights, "a log-weight for every leaf, none NaN")

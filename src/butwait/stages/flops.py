"""The shapes of a stage's models, for its cost in floating-point operations."""

from butwait.engines.flops import DecoderFlops, flops_of
from butwait.engines.load import ENGINES
from butwait.reward_models.load import reward_model_flops
from butwait.stages.context import StageRun


def stage_flops(run: StageRun) -> tuple[DecoderFlops | None, DecoderFlops | None]:
    """Of the policy and of the reward model; None for a model of unknown shape."""
    policy, judge = None, run.reward_model
    if ENGINES.of(run.recipe.engine).runs_model:
        policy = flops_of(run.model)
    return policy, None if judge is None else reward_model_flops(judge, run.model)

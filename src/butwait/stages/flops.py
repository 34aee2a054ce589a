"""The shapes of a stage's models, for its cost in floating-point operations."""

from butwait.engines.flops import DecoderFlops, flops_of
from butwait.engines.load import ENGINES
from butwait.reward_models.load import decoder
from butwait.reward_models.settings import RewardModelSettings
from butwait.stages.context import StageRun


def stage_flops(run: StageRun) -> tuple[DecoderFlops | None, DecoderFlops | None]:
    """Of the policy and of the reward model; None for a model of unknown shape."""
    policy = None
    if ENGINES.of(run.recipe.engine).runs_model:
        policy = flops_of(run.model)
    return policy, _reward_model_flops(run.reward_model)


def _reward_model_flops(settings: RewardModelSettings | None) -> DecoderFlops | None:
    # A score is read off the last hidden states: mostly no language-model head runs.
    found = None if settings is None else decoder(settings)
    return None if found is None else flops_of(found[0], head=found[1])

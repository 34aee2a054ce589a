"""The shapes of a stage's models, for its cost in floating-point operations."""

from butwait.engines.flops import DecoderFlops, flops_of
from butwait.engines.settings import ModelSettings, ScriptedSettings
from butwait.reward_models.settings import RewardModelSettings
from butwait.stages.context import StageRun


def stage_flops(run: StageRun) -> tuple[DecoderFlops | None, DecoderFlops | None]:
    """Of the policy and of the reward model; None for a model of unknown shape."""
    policy = None
    if not isinstance(run.recipe.engine, ScriptedSettings):
        policy = flops_of(run.model)
    return policy, _reward_model_flops(run.reward_model)


def _reward_model_flops(settings: RewardModelSettings | None) -> DecoderFlops | None:
    # A score is read off the last hidden states: no language-model head runs.
    if settings is None:
        return None
    if settings.kind == "trained":
        return flops_of(ModelSettings(name=settings.model), head=False)
    if settings.kind in ("qwen_math_prm", "pooling"):
        return flops_of(ModelSettings(name=settings.name, revision=settings.revision), head=False)
    if settings.kind == "classifier":
        model = ModelSettings(name=settings.name, revision=settings.revision)
        return flops_of(model, head=settings.head == "tokens")
    return None

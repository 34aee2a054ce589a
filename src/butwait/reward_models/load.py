"""From settings to a reward model."""

from pathlib import Path
from typing import Any, NamedTuple

from butwait.engines.models import load_causal_lm, load_tokenizer, tokenizer_fingerprint
from butwait.engines.settings import ModelSettings
from butwait.engines.slots import SlotModel
from butwait.problems.settings import PromptSettings
from butwait.records import UserError
from butwait.reward_models.checkpoint import read_prompt
from butwait.reward_models.classifier import ClassifierRewardModel
from butwait.reward_models.classifier_load import load_judge
from butwait.reward_models.confidence import CertaintyModel, PathLogprob, SelfCertainty
from butwait.reward_models.ensemble import EnsembleRewardModel
from butwait.reward_models.pooling import PoolingPrm
from butwait.reward_models.qwen_head import load_qwen_prm
from butwait.reward_models.qwen_prm import QwenMathPrm
from butwait.reward_models.reward_model import RewardModel
from butwait.reward_models.score_head import load_scorer
from butwait.reward_models.settings import (
    ClassifierSettings,
    ConfidenceSettings,
    CustomSettings,
    EnsembleSettings,
    LocalModelSettings,
    PoolingSettings,
    QwenMathPrmSettings,
    RewardModelSettings,
)
from butwait.reward_models.trained import TrainedRewardModel
from butwait.running.plugins import load_plugin


class Policy(NamedTuple):
    """The weights of a policy and how it is shown questions."""

    model: ModelSettings
    prompt: PromptSettings


def load_reward_model(
    settings: RewardModelSettings, policy_tokenizer: Any, policy: Policy | None = None
) -> RewardModel:
    """Loads the weights and makes the slots.

    Args:
        settings: which reward model.
        policy_tokenizer: tells whether the policy's token ids can be taken as they are; None:
            there are none, and steps are texts.
        policy: whose paths are scored; for ``measure: self_certainty``.

    Raises UserError for a model that cannot be found or read, or is of another kind.
    """
    if isinstance(settings, EnsembleSettings):
        members = [load_reward_model(m, policy_tokenizer, policy) for m in settings.members]
        return EnsembleRewardModel(members, settings.combine)
    if isinstance(settings, ConfidenceSettings):
        return _confidence(settings, policy_tokenizer, policy)
    if isinstance(settings, ClassifierSettings):
        judge, tokenizer, classes = load_judge(settings)
        return ClassifierRewardModel(_slots(judge, settings), tokenizer, classes, settings)
    if isinstance(settings, CustomSettings):
        return load_plugin(settings.factory, "reward_model.factory")()
    if isinstance(settings, PoolingSettings):
        served = ModelSettings(name=settings.name, revision=settings.revision)
        return PoolingPrm(settings, load_tokenizer(served))
    if isinstance(settings, QwenMathPrmSettings):
        model = ModelSettings(
            name=settings.name,
            revision=settings.revision,
            dtype=settings.dtype,
            device=settings.device,
        )
        scorer = load_qwen_prm(model)
        tokenizer = load_tokenizer(model)
        return QwenMathPrm(_slots(scorer, settings), tokenizer, settings.aggregation)
    model = ModelSettings(name=settings.model, dtype=settings.dtype, device=settings.device)
    prompt = read_prompt(Path(settings.model))
    tokenizer = load_tokenizer(model)
    same = policy_tokenizer is not None and (
        tokenizer_fingerprint(tokenizer) == tokenizer_fingerprint(policy_tokenizer)
    )
    return TrainedRewardModel(_slots(load_scorer(model), settings), tokenizer, prompt, same)


def _confidence(settings: ConfidenceSettings, tokenizer: Any, policy: Policy | None) -> RewardModel:
    centre = settings.centre or 0.0
    if settings.measure == "logprob":
        return PathLogprob(settings.scale, centre)
    if policy is None or tokenizer is None:
        raise UserError(
            "`measure: self_certainty` runs the policy's own weights on its own tokens, and there "
            "is no policy here; take another reward model"
        )
    weights = policy.model.model_copy(update={"dtype": settings.dtype, "device": settings.device})
    model = CertaintyModel(load_causal_lm(weights))
    return SelfCertainty(_slots(model, settings), tokenizer, policy.prompt, settings.scale, centre)


def _slots(scorer: Any, settings: LocalModelSettings) -> SlotModel:
    return SlotModel(
        scorer,
        slots=settings.slots,
        capacity=settings.capacity,
        deterministic=settings.deterministic,
        prefill_chunk=settings.prefill_chunk,
    )

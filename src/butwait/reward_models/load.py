"""From settings to a reward model."""

from pathlib import Path
from typing import Any

from butwait.engines.models import load_tokenizer, tokenizer_fingerprint
from butwait.engines.settings import ModelSettings
from butwait.engines.slots import SlotModel
from butwait.reward_models.checkpoint import read_prompt
from butwait.reward_models.qwen_head import load_qwen_prm
from butwait.reward_models.qwen_prm import QwenMathPrm
from butwait.reward_models.reward_model import RewardModel
from butwait.reward_models.score_head import load_scorer
from butwait.reward_models.settings import (
    CustomSettings,
    QwenMathPrmSettings,
    RewardModelSettings,
    TrainedSettings,
)
from butwait.reward_models.trained import TrainedRewardModel
from butwait.running.plugins import load_plugin


def load_reward_model(settings: RewardModelSettings, policy_tokenizer: Any) -> RewardModel:
    """Loads the weights and makes the slots.

    ``policy_tokenizer`` tells whether the policy's token ids can be taken as they are. Raises
    UserError for a model that cannot be found or read, or is of another kind.
    """
    if isinstance(settings, CustomSettings):
        return load_plugin(settings.factory, "reward_model.factory")()
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
    same = tokenizer_fingerprint(tokenizer) == tokenizer_fingerprint(policy_tokenizer)
    return TrainedRewardModel(_slots(load_scorer(model), settings), tokenizer, prompt, same)


def _slots(scorer: Any, settings: QwenMathPrmSettings | TrainedSettings) -> SlotModel:
    return SlotModel(
        scorer,
        slots=settings.slots,
        capacity=settings.capacity,
        deterministic=settings.deterministic,
        prefill_chunk=settings.prefill_chunk,
    )

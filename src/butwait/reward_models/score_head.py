"""Language models with a head that scores: one logit, or a few, after every token.

That of a ``prm`` stage is transformers' own ``*ForTokenClassification`` with one label, so its
checkpoint is an ordinary one. Architectures that transformers gives no such class (Granite, OPT,
...) get theirs from ``GenericForTokenClassification``, in the one line in which transformers
defines ``LlamaForTokenClassification``; loading such a checkpoint outside of butwait takes that
line too.
"""

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    PreTrainedModel,
    Qwen2Config,
    Qwen2Model,
    Qwen2PreTrainedModel,
)
from transformers.modeling_layers import GenericForTokenClassification
from transformers.modeling_outputs import TokenClassifierOutput

from butwait.engines.checkpoints.configs import check_trainable
from butwait.engines.models import device_of, load_pretrained, on_device, read_config
from butwait.engines.settings import ModelSettings
from butwait.records import UserError

ARCHITECTURE = "Qwen2ForProcessRewardModel"


def score_head(model: PreTrainedModel) -> nn.Linear:
    """The linear layer from hidden states to the logit."""
    for name in ("score", "classifier"):
        head = getattr(model, name, None)
        if isinstance(head, nn.Linear) and head.out_features == 1:
            return head
    raise UserError(f"{type(model).__name__} has no linear head with one output")


def add_score_head(policy: ModelSettings, prior_logit: float) -> PreTrainedModel:
    """A copy of the policy with a new head that gives ``prior_logit`` everywhere.

    The head starts at zero, so that training begins at the base rate and not at noise.
    """
    config = read_config(policy)
    check_trainable(policy, config)
    config.num_labels = 1
    # Dropout is for encoders fine-tuned over many epochs; a score must be a function.
    config.classifier_dropout = 0.0
    model, missing = load_pretrained(policy, _scorer_class(type(config)), config)
    head = score_head(model)
    new = {
        name for name, parameter in model.named_parameters() if parameter in set(head.parameters())
    }
    if lacking := [name for name in missing if name not in new]:
        raise UserError(
            f"the weights of {policy.name!r} do not fit {type(model).__name__}: {len(lacking)} are "
            f"missing, {lacking[0]} among them"
        )
    nn.init.zeros_(head.weight)
    if head.bias is not None:
        nn.init.constant_(head.bias, prior_logit)
    return model


def load_scorer(checkpoint: ModelSettings) -> PreTrainedModel:
    """A trained model with its head, in evaluation mode, on its device."""
    config = read_config(checkpoint)
    model, missing = load_pretrained(checkpoint, _scorer_class(type(config)), config)
    if missing:
        raise UserError(
            f"{checkpoint.name!r} is no reward model: its checkpoint lacks {missing[0]}"
        )
    score_head(model)
    return on_device(model, device_of(checkpoint))


def load_classifier(checkpoint: ModelSettings) -> PreTrainedModel:
    """A decoder with its head over classes, in evaluation mode, on its device.

    A sequence classifier is a token classifier without a bias that is read at the last token, so
    both load as the latter.
    """
    config = read_config(checkpoint)
    model_class = _scorer_class(type(config))
    if not issubclass(model_class, GenericForTokenClassification):
        raise UserError(
            f"{checkpoint.name!r} cannot be scored step by step: {type(config).__name__} has no "
            "token classifier that reads from left to right"
        )
    model, missing = load_pretrained(checkpoint, model_class, config)
    if "score.bias" in missing:
        nn.init.zeros_(model.score.bias)
    if lacking := [name for name in missing if name != "score.bias"]:
        raise UserError(
            f"{checkpoint.name!r} is no classifier: its checkpoint lacks {lacking[0]} (for "
            "a language model that answers with a token, set `head: tokens`)"
        )
    return on_device(model, device_of(checkpoint))


class CertaintyModel(nn.Module):
    """A language model whose one output per token is the self-certainty of its next token:
    KL(U || p) = -log V - mean_v log p(v), in nats, at least 0.

    Args:
        policy: a causal language model of transformers.
    """

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy
        self.config = policy.config
        self._is_stateful = getattr(policy, "_is_stateful", False)

    @property
    def dtype(self) -> torch.dtype:
        return self.policy.dtype

    @property
    def device(self) -> torch.device:
        return self.policy.device

    def forward(self, **inputs: Any) -> SimpleNamespace:
        """Takes what the policy takes; logits are float32 (b, t, 1)."""
        logits = self.policy(**inputs).logits.float()
        certainty = torch.logsumexp(logits, -1) - logits.mean(-1) - math.log(logits.shape[-1])
        return SimpleNamespace(logits=certainty[..., None])


class Qwen2ForProcessRewardModel(Qwen2PreTrainedModel):
    """The architecture of Qwen2.5-Math-PRM, whose own code is not in transformers.

    A Qwen2 decoder with a two-layer head that gives two logits per token (bad, good); see
    ``modeling_qwen2_rm.py`` in the model's repository. The decoder is transformers' own, so the
    checkpoint loads without running code from the hub. Names of parameters are those of the
    published checkpoints.
    """

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__(config)
        self.model = Qwen2Model(config)
        self.score = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size),
            nn.ReLU(),
            nn.Linear(config.hidden_size, 2),
        )
        self.post_init()

    def forward(self, *args: Any, **kwargs: Any) -> TokenClassifierOutput:
        """Takes what ``Qwen2Model`` takes; logits are (b, t, 2)."""
        hidden = self.model(*args, **kwargs).last_hidden_state
        return TokenClassifierOutput(logits=self.score(hidden))


def load_qwen_prm(model: ModelSettings) -> Qwen2ForProcessRewardModel:
    """The model in evaluation mode, on its device. Raises UserError for another architecture and
    for a checkpoint that cannot be read or lacks weights."""
    config = read_config(model, Qwen2Config)
    if ARCHITECTURE not in (config.architectures or []):
        raise UserError(
            f"{model.name!r} is no Qwen2.5-Math-PRM: its architecture is "
            f"{config.architectures}, not {ARCHITECTURE}"
        )
    loaded, missing = load_pretrained(model, Qwen2ForProcessRewardModel, config)
    if missing:
        raise UserError(f"the checkpoint of {model.name!r} is not whole: it lacks {missing[0]}")
    return on_device(loaded, device_of(model))


def _scorer_class(config: type) -> type[PreTrainedModel]:
    if config in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING:
        return MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING[config]
    if config not in MODEL_MAPPING:
        raise UserError(f"transformers has no model for {config.__name__}")
    name = f"{config.__name__.removesuffix('Config')}ForTokenClassification"
    bases = (GenericForTokenClassification, MODEL_MAPPING[config].__bases__[0])
    return type(name, bases, {"config_class": config})

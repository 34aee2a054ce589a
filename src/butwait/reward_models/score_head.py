"""A causal language model with a score head: one logit after every token.

It is transformers' own ``*ForTokenClassification`` with one label, so its checkpoint is an
ordinary one. Architectures that transformers gives no such class (Granite, OPT, ...) get theirs
from ``GenericForTokenClassification``, in the one line in which transformers defines
``LlamaForTokenClassification``; loading such a checkpoint outside of butwait takes that line too.
"""

from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    PreTrainedModel,
)
from transformers.modeling_layers import GenericForTokenClassification

from butwait.engines.models import device_of, no_progress_bars, resolve
from butwait.engines.settings import ModelSettings
from butwait.records import UserError

_LOADING_ERRORS = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)


def score_head(model: PreTrainedModel) -> torch.nn.Linear:
    """The linear layer from hidden states to the logit."""
    for name in ("score", "classifier"):
        head = getattr(model, name, None)
        if isinstance(head, torch.nn.Linear) and head.out_features == 1:
            return head
    raise UserError(f"{type(model).__name__} has no linear head with one output")


def add_score_head(policy: ModelSettings, prior_logit: float) -> PreTrainedModel:
    """A copy of the policy with a new head that gives ``prior_logit`` everywhere.

    The head starts at zero, so that training begins at the base rate and not at noise.
    """
    config = _config(policy)
    config.num_labels = 1
    # Dropout is for encoders fine-tuned over many epochs; a score must be a function.
    config.classifier_dropout = 0.0
    model, report = _load(policy, config)
    head = score_head(model)
    new = {
        name for name, parameter in model.named_parameters() if parameter in set(head.parameters())
    }
    lacking = sorted(set(report["missing_keys"]) - new)
    if lacking:
        raise UserError(
            f"the weights of {policy.name!r} do not fit {type(model).__name__}: {len(lacking)} are "
            f"missing, {lacking[0]} among them"
        )
    torch.nn.init.zeros_(head.weight)
    if head.bias is not None:
        torch.nn.init.constant_(head.bias, prior_logit)
    return model


def load_scorer(checkpoint: ModelSettings) -> PreTrainedModel:
    """A trained model with its head, in evaluation mode, on its device."""
    model, report = _load(checkpoint, _config(checkpoint))
    if report["missing_keys"]:
        raise UserError(
            f"{checkpoint.name!r} is no reward model: its checkpoint lacks "
            f"{sorted(report['missing_keys'])[0]}"
        )
    score_head(model)
    return model.to(device_of(checkpoint)).eval()


def load_classifier(checkpoint: ModelSettings) -> PreTrainedModel:
    """A decoder with its head over classes, in evaluation mode, on its device.

    A sequence classifier is a token classifier without a bias that is read at the last token, so
    both load as the latter.
    """
    config = _config(checkpoint)
    if not issubclass(_scorer_class(type(config)), GenericForTokenClassification):
        raise UserError(
            f"{checkpoint.name!r} cannot be scored step by step: {type(config).__name__} has no "
            "token classifier that reads from left to right"
        )
    model, report = _load(checkpoint, config)
    missing = set(report["missing_keys"])
    if "score.bias" in missing:
        torch.nn.init.zeros_(model.score.bias)
    if lacking := sorted(missing - {"score.bias"}):
        raise UserError(
            f"{checkpoint.name!r} is no classifier: its checkpoint lacks {lacking[0]} (for "
            "a language model that answers with a token, set `head: tokens`)"
        )
    return model.to(device_of(checkpoint)).eval()


def _config(model: ModelSettings) -> Any:
    try:
        return AutoConfig.from_pretrained(resolve(model), revision=model.revision)
    except _LOADING_ERRORS as error:
        raise UserError(
            f"the config of {model.name!r} could not be loaded: {_line(error)}"
        ) from error


def _load(model: ModelSettings, config: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    try:
        with no_progress_bars():
            return _scorer_class(type(config)).from_pretrained(
                resolve(model),
                config=config,
                revision=model.revision,
                dtype=getattr(torch, model.dtype),
                output_loading_info=True,
            )
    except _LOADING_ERRORS as error:
        raise UserError(f"the model {model.name!r} could not be loaded: {_line(error)}") from error


def _scorer_class(config: type) -> type[PreTrainedModel]:
    if config in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING:
        return MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING[config]
    if config not in MODEL_MAPPING:
        raise UserError(f"transformers has no model for {config.__name__}")
    name = f"{config.__name__.removesuffix('Config')}ForTokenClassification"
    bases = (GenericForTokenClassification, MODEL_MAPPING[config].__bases__[0])
    return type(name, bases, {"config_class": config})


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)

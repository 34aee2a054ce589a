"""A policy's weights: loaded to be trained, and saved as ordinary checkpoints, adapters merged."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from transformers import BitsAndBytesConfig, PreTrainedModel

from butwait.engines.checkpoints.configs import causal_lm_class, check_trainable
from butwait.engines.checkpoints.failures import reason
from butwait.engines.models import (
    device_of,
    load_causal_lm,
    no_progress_bars,
    read_config,
    resolve,
)
from butwait.engines.settings import ModelSettings
from butwait.records import UserError
from butwait.running.files import atomic_path
from butwait.running.packages import require
from butwait.training.settings import LoraSettings


def load_policy(model: ModelSettings, lora: LoraSettings | None) -> PreTrainedModel:
    """The model whose weights are trained, or that adapters with these settings are put on.
    Raises UserError for weights that are quantised already."""
    check_trainable(model, read_config(model))
    return load_four_bit(model) if lora and lora.four_bit else load_causal_lm(model)


def load_four_bit(model: ModelSettings) -> PreTrainedModel:
    """The model on its device, its linear layers in NF4 with double quantisation (Dettmers et al.
    2023, arXiv:2305.14314, section 3); what is not quantised, and the arithmetic, has the dtype of
    ``model``.

    Raises:
        UserError: bitsandbytes is not installed, or the model cannot be loaded by it.
    """
    require("bitsandbytes", "lora.four_bit", "'butwait[qlora]'")
    dtype = getattr(torch, model.dtype)
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    config = read_config(model)
    try:
        with no_progress_bars():
            return causal_lm_class(config).from_pretrained(
                resolve(model),
                config=config,
                revision=model.revision,
                dtype=dtype,
                device_map={"": device_of(model)},
                quantization_config=four_bits,
                trust_remote_code=False,
            )
    except Exception as error:  # whatever a broken file makes of the library
        raise UserError(
            f"{model.name!r} could not be loaded in four bits: {reason(error)}"
        ) from error


def lora_config(settings: LoraSettings | None) -> LoraConfig | None:
    """peft's own."""
    if settings is None:
        return None
    modules = settings.target_modules
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
        task_type="CAUSAL_LM",
    )


def policy_of(trainer: Any) -> Any:
    """The model of a trainer, without the wrappers of distributed training."""
    return trainer.accelerator.unwrap_model(trainer.model)


def gathered_weights(trainer: Any) -> dict[str, Any] | None:
    """The whole weights where devices hold parts of them; None where the policy has them itself.
    All devices must call it."""
    if trainer.accelerator.num_processes == 1:
        return None
    weights: dict[str, Any] = trainer.accelerator.get_state_dict(trainer.model)
    return weights


def save_weights(policy: Any, folder: Path, gathered: dict[str, Any] | None = None) -> None:
    """Writes the weights and the config of a model in training. ``gathered``: see
    ``gathered_weights``."""
    policy.config.use_cache = True  # The trainer turned it off, and generation would be slow.
    policy.save_pretrained(folder, state_dict=gathered)


def save_model(
    policy: Any, tokenizer: Any, output: Path, gathered: dict[str, Any] | None = None
) -> None:
    """Writes ``output/model``: an ordinary checkpoint. ``gathered``: see ``gathered_weights``."""
    with atomic_path(output / "model") as folder:
        save_weights(policy, folder, gathered)
        tokenizer.save_pretrained(folder)


def save_trained(
    policy: Any,
    tokenizer: Any,
    lora: LoraSettings | None,
    weights: ModelSettings,
    output: Path,
    gathered: dict[str, Any] | None = None,
) -> None:
    """Writes ``output/model``; where it was adapted, ``output/adapter`` too, and ``output/model``
    with the adapter in the weights.

    Args:
        policy: what was trained; an adapted model is of no use afterwards.
        tokenizer: its tokenizer.
        lora: the adapter's settings; None: all weights were trained.
        weights: the model that was adapted.
        output: the stage's folder.
        gathered: see ``gathered_weights``.
    """
    if lora is None:
        return save_model(policy, tokenizer, output, gathered)
    with atomic_path(output / "adapter") as folder:
        policy.save_pretrained(folder)
    if lora.four_bit:
        # Merged into four-bit weights, the update would be rounded away.
        merge_again(weights, tokenizer, output)
    else:
        save_model(policy.merge_and_unload(), tokenizer, output)


def merge_again(weights: ModelSettings, tokenizer: Any, output: Path) -> None:
    """Writes ``output/model`` from ``output/adapter`` and the weights that it was trained on, in
    their full precision and in main memory."""
    base = load_causal_lm(weights.model_copy(update={"device": "cpu"}))
    adapted = PeftModel.from_pretrained(base, output / "adapter")
    save_model(adapted.merge_and_unload(), tokenizer, output)

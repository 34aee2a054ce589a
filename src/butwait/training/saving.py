"""Trained weights on disk: ordinary checkpoints, with adapters merged into them."""

from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel

from butwait.engines.models import load_causal_lm
from butwait.engines.settings import ModelSettings
from butwait.running.files import atomic_path
from butwait.training.settings import LoraSettings


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


def lora_config(settings: LoraSettings) -> LoraConfig:
    """peft's own."""
    modules = settings.target_modules
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
        task_type="CAUSAL_LM",
    )


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


def save_merged(
    policy: Any,
    tokenizer: Any,
    lora: LoraSettings,
    weights: ModelSettings,
    output: Path,
) -> None:
    """Writes ``output/adapter``, and ``output/model`` with the adapter in the weights.

    Args:
        policy: the adapted model; it is of no use afterwards.
        tokenizer: its tokenizer.
        lora: the adapter's settings.
        weights: the model that was adapted.
        output: the stage's folder.
    """
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

"""A policy's weights: loaded to be trained, and saved as ordinary checkpoints, adapters merged."""

import json
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from transformers import BitsAndBytesConfig, GenerationConfig, PreTrainedModel

from butwait.engines.checkpoints.configs import causal_lm_class, check_trainable
from butwait.engines.checkpoints.failures import reason
from butwait.engines.models import (
    eos_token_ids,
    load_causal_lm,
    no_progress_bars,
    read_config,
    resolve,
)
from butwait.engines.settings import ModelSettings
from butwait.problems.prompts import chat_template, turn_end
from butwait.problems.settings import PromptSettings
from butwait.records import UserError
from butwait.running.files import atomic_path, write_json
from butwait.running.packages import require
from butwait.training.devices import is_sharded, own_device, parts_are_held
from butwait.training.saved import Probe
from butwait.training.settings import LoraSettings

_NOT_TRAINED_WITH = ("use_cache", "output_router_logits", "router_aux_loss_coef")
"""What trainers change in the config of a model in training, and its saved config keeps."""


@dataclass(frozen=True)
class Start:
    """What a training begins with, and how what it makes of it is saved.

    Attributes:
        weights: the model, with the dtype in which it is trained.
        lora: the adapters that are put on it; None: all weights are trained.
        tokenizer: the model's.
        prompt: how questions are put to it.
    """

    weights: ModelSettings
    lora: LoraSettings | None
    tokenizer: Any
    prompt: PromptSettings

    def load(self) -> PreTrainedModel:
        """The model whose weights are trained, or that adapters are put on.

        Its embeddings are untied from the output head where an adapter is for the embeddings: it
        changes those alone, and saved as one matrix the head would have the change too. Raises
        UserError for weights that are quantised already.
        """
        lora = self.lora
        check_trainable(self.weights, read_config(self.weights))
        weights = self.weights
        if parts_are_held():  # each device gets its part of them from here
            weights = weights.model_copy(update={"device": "cpu"})
        policy = (load_four_bit if lora and lora.four_bit else load_causal_lm)(weights)
        config = policy.config.get_text_config()
        policy.loaded_with = {
            name: getattr(config, name) for name in _NOT_TRAINED_WITH if hasattr(config, name)
        } | {"use_cache": True}
        own, turn = policy.generation_config, turn_end(self.tokenizer, self.prompt)
        ends = own.eos_token_id
        if turn not in (ends if isinstance(ends, list) else [ends]):
            own.eos_token_id = sorted(eos_token_ids(ends, self.tokenizer) | {turn})
        # What the base says of sampling (a penalty, a least length) is not what is trained with.
        policy.loaded_generation = own
        policy.generation_config = GenerationConfig(
            eos_token_id=own.eos_token_id,
            pad_token_id=own.pad_token_id,
            bos_token_id=own.bos_token_id,
        )
        if lora is not None and _adapts_embeddings(policy, lora):
            _untie(policy)
        return policy

    def save(
        self,
        policy: Any,
        output: Path,
        gathered: dict[str, Any] | None = None,
        probe: Probe | None = None,
    ) -> float | None:
        """Writes ``output/model``: an ordinary checkpoint with tokenizer, chat template and
        generation config. Where the model was adapted, ``output/adapter`` too, and
        ``output/model`` with the adapter in the weights.

        Args:
            policy: what was trained; an adapted model is of no use afterwards.
            output: the stage's folder.
            gathered: see ``gathered_weights``.
            probe: what the saved model is to be compared by.

        Returns:
            What the probe finds of what was trained; with ``four_bit``, of the adapter on
            unquantised weights.
        """
        if self.lora is not None and self.lora.four_bit:
            with atomic_path(output / "adapter") as folder:
                save_weights(policy, folder)
            # Merged into four-bit weights, the update would be rounded away.
            return self.merge(output, probe)
        trained = None if probe is None else probe.measure(policy)
        if self.lora is None:
            self._save_model(policy, output, gathered)
            return trained
        with atomic_path(output / "adapter") as folder:
            save_weights(policy, folder, gathered)
        if gathered is not None:  # no device has the weights that it would be merged into
            self.merge(output)
            return trained
        self._save_model(policy.merge_and_unload(), output)
        return trained

    def save_of(self, trainer: Any, output: Path, probe: Probe) -> float | None:
        """``save`` of what a trainer trained, by the first device; all of them must call it, and
        the others are given None."""
        policy = policy_of(trainer)
        if not is_sharded(trainer):
            first = trainer.accelerator.is_main_process
            return self.save(policy, output, probe=probe) if first else None
        trained, gathered = probe.measure(policy), gathered_weights(trainer)
        if not trainer.accelerator.is_main_process:
            return None
        self.save(policy, output, gathered)
        return trained

    def merge(self, output: Path, probe: Probe | None = None) -> float | None:
        """Writes ``output/model`` from ``output/adapter`` and the weights that it was trained on,
        in their full precision and in main memory. Returns what the probe finds of both."""
        assert self.lora is not None
        whole = replace(
            self,
            weights=self.weights.model_copy(update={"device": "cpu"}),
            lora=self.lora.model_copy(update={"four_bit": False}),
        )
        adapted = PeftModel.from_pretrained(whole.load(), output / "adapter")
        trained = None if probe is None else probe.measure(adapted)
        self._save_model(adapted.merge_and_unload(), output)
        return trained

    def save_tokenizer(self, folder: Path) -> None:
        """The tokenizer, with the chat template of one's own that the questions were put by."""
        tokenizer = copy(self.tokenizer)
        if self.prompt.style == "chat" and "chat_template" in self.prompt.template_options:
            tokenizer.chat_template = chat_template(tokenizer, self.prompt)
        tokenizer.save_pretrained(folder)

    def _save_model(
        self, policy: Any, output: Path, gathered: dict[str, Any] | None = None
    ) -> None:
        with atomic_path(output / "model") as folder:
            save_weights(policy, folder, gathered)
            self.save_tokenizer(folder)


def _adapts_embeddings(policy: Any, lora: LoraSettings) -> bool:
    """Whether the adapter is for the input embeddings or the output head of a model that ties
    them."""
    inner, head = policy.get_input_embeddings(), policy.get_output_embeddings()
    if head is None or inner.weight is not head.weight or isinstance(lora.target_modules, str):
        return False
    own = {name.rpartition(".")[2] for name, m in policy.named_modules() if m in (inner, head)}
    return not own.isdisjoint(name.rpartition(".")[2] for name in lora.target_modules)


def _untie(policy: Any) -> None:
    head = policy.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    policy.config.tie_word_embeddings = False
    policy.config.get_text_config().tie_word_embeddings = False


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
                device_map={"": own_device(model)},
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


def adapters_in_float32(policy: Any) -> None:
    """Puts the adapters on a model in four bits back into float32. TRL casts them to bfloat16, in
    which small updates are lost, and a resume would load them in float32. Before there is an
    optimizer."""
    if getattr(base_of(policy), "is_loaded_in_4bit", False):
        for weights in policy.parameters():
            if weights.requires_grad:
                weights.data = weights.data.float()


def policy_of(trainer: Any) -> Any:
    """The model of a trainer, without the wrappers of distributed training."""
    return trainer.accelerator.unwrap_model(trainer.model)


def gathered_weights(trainer: Any) -> dict[str, Any] | None:
    """The whole weights where devices hold parts of them (on the first device; on others perhaps
    nothing); None where the policy has them itself. All devices must call it."""
    if not is_sharded(trainer):
        return None
    # DeepSpeed's wrapper gathers them, and knows how.
    weights: dict[str, Any] = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return weights


def save_trained(trainer: Any, folder: Path) -> None:
    """Writes the weights of a trainer (of adapters, where there are any) into a folder, by the
    first device. All devices must call it."""
    gathered = gathered_weights(trainer)
    if trainer.accelerator.is_main_process:
        with atomic_path(folder) as temporary:
            save_weights(policy_of(trainer), temporary, gathered)


def base_of(policy: Any) -> Any:
    """The model itself, without what adapters wrap around it."""
    return policy.get_base_model() if isinstance(policy, PeftModel) else policy


def save_weights(policy: Any, folder: Path, gathered: dict[str, Any] | None = None) -> None:
    """Writes the weights and the config of a model in training. ``gathered``: see
    ``gathered_weights``."""
    check_finite(policy if gathered is None else gathered)
    base = base_of(policy)
    config = base.config.get_text_config()
    loaded_with = getattr(base, "loaded_with", {"use_cache": True})
    in_training = {name: getattr(config, name, None) for name in loaded_with}
    draws = hasattr(base, "loaded_generation")
    vars(config).update(loaded_with)
    if draws:
        drawn_with, base.generation_config = base.generation_config, base.loaded_generation
    try:
        policy.save_pretrained(folder, state_dict=gathered)
    finally:
        vars(config).update(in_training)
        if draws:
            base.generation_config = drawn_with
    if (folder / "config.json").exists():
        _name_rope_twice(folder / "config.json")
    if (folder / "adapter_config.json").exists():
        _name_base_whole(folder / "adapter_config.json")


def check_finite(weights: Any) -> None:
    """Raises UserError where a weight of a model (or of a dictionary of tensors) is no number."""
    tensors = weights.items() if isinstance(weights, dict) else weights.named_parameters()
    for name, tensor in tensors:
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(
                f"the weights {name} are no longer numbers and are not saved; take a lower "
                "learning_rate, or precision: float32 (what was saved before is kept)"
            )


def _name_rope_twice(file: Path) -> None:
    """transformers 5 writes the rotary embeddings' base into ``rope_parameters``; readers of the
    older layout would take their default instead, without a word."""
    config = json.loads(file.read_text(encoding="utf-8"))
    for own in (config, config.get("text_config")):
        rope = own.get("rope_parameters") if isinstance(own, dict) else None
        rope = rope if isinstance(rope, dict) else {}
        if (local := rope.get("sliding_attention")) and "rope_theta" in local:
            own["rope_local_base_freq"] = local["rope_theta"]
        whole = rope.get("full_attention", rope)
        if "rope_theta" in whole:
            own["rope_theta"] = whole["rope_theta"]
            scaled = {k: v for k, v in whole.items() if k != "rope_theta"}
            default = whole.get("rope_type", "default") == "default"
            own["rope_scaling"] = None if default else scaled
    write_json(file, config)


def _name_base_whole(file: Path) -> None:
    """The folder of an adapter's base by its whole path, so that it loads from any directory."""
    config = json.loads(file.read_text(encoding="utf-8"))
    base = Path(config.get("base_model_name_or_path") or "")
    if base.is_dir():
        config["base_model_name_or_path"] = str(base.resolve())
        write_json(file, config)

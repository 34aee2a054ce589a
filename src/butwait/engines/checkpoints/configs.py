"""What a checkpoint's configuration says before its weights are read: which class loads it, and
whether its quantisation can be run here."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
)
from transformers import __version__ as transformers_version
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING, AutoHfQuantizer

from butwait.engines.checkpoints.failures import named, reason
from butwait.engines.settings import ModelSettings
from butwait.records import UserError

MASKED = (None, "sdpa", "eager")
"""Attention that takes a mask of one's own; None: transformers chooses among them."""
FLOATS = ("F64", "F32", "F16", "BF16")
"""What weights that are not quantised are, as a header names them."""
UNQUANTISED = "set model.name to the weights it was made from, which are not quantised"

_CLASSES = {
    AutoModelForCausalLM: MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForImageTextToText: MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
}


def text_config(config: Any) -> Any:
    """The part of a configuration that is of the language model: all of it, unless the model also
    sees images or hears."""
    return config.get_text_config(decoder=True)


def use_masked_attention(config: Any) -> None:
    """Leaves the choice of an attention to transformers where the configuration wants one that
    takes no mask (``flash_attention_2``), whose package may be missing."""
    parts = [config, *(getattr(config, name, None) for name in config.sub_configs)]
    if any(part is not None and part._attn_implementation not in MASKED for part in parts):
        config._attn_implementation = None


def causal_lm_class(config: Any) -> Any:
    """The Auto class that loads the language model of a configuration (one that sees images as
    well, whole). Raises UserError where transformers has none that continues text."""
    if config.is_encoder_decoder:
        raise UserError(
            f"{config.model_type} is an encoder-decoder: butwait takes decoder-only models"
        )
    for auto_class, classes in _CLASSES.items():
        if type(config) in classes:
            return auto_class
    raise UserError(
        f"{config.model_type} is no language model: transformers {transformers_version} has no "
        "class of it that continues text"
    )


def is_stateful(config: Any) -> bool:
    """Whether the language model's class is one with a state instead of keys and values."""
    return bool(_CLASSES[causal_lm_class(config)][type(config)]._is_stateful)


def quantisation(config: Any) -> str | None:
    """How the weights are quantised (``gptq``, ``fp8``, ...); None: they are not."""
    settings = _quantisation_settings(config)
    if settings is None:
        return None
    if settings.get("load_in_4bit") or settings.get("load_in_8bit"):
        return "bitsandbytes"
    return str(settings.get("quant_method", "in no way that config.json names"))


def check_quantisation(model: ModelSettings, config: Any, device: Any) -> None:
    """Raises UserError where weights are quantised in a way that needs a package or a device that
    is not here. No weight is read."""
    method = quantisation(config)
    if method is None:
        return
    why = f"transformers {transformers_version} does not know this kind"
    if method in (*AUTO_QUANTIZER_MAPPING, "bitsandbytes"):
        try:
            quantiser = AutoHfQuantizer.from_config(
                _quantisation_settings(config), pre_quantized=True
            )
            quantiser.validate_environment(device_map={"": device}, weights_only=True)
            return
        except Exception as error:  # what is missing, in the library's words
            why = reason(error)
    raise UserError(
        f"the weights of {named(model)} are quantised ({method}) and cannot be run here: {why} "
        f"(or {UNQUANTISED})"
    )


def check_trainable(model: ModelSettings, config: Any) -> None:
    """Raises UserError for weights that are quantised: what is learned could not be added to
    them."""
    method = quantisation(config)
    if method is not None:
        raise UserError(
            f"the weights of {named(model)} are quantised ({method}) and cannot be trained: "
            f"{UNQUANTISED} (`lora: {{four_bit: true}}` quantises them in memory)"
        )


def check_whole_numbers(model: ModelSettings, folder: Path) -> None:
    """Raises UserError where a folder's weights are whole numbers or eight-bit floats. Without a
    word in the configuration they would be taken for weights as they are."""
    found = next(_other_weights(folder), None)
    if found is not None:
        raise UserError(
            f"the weights of {named(model)} are quantised ({found}), and its config.json has no "
            f"quantization_config: {UNQUANTISED}"
        )


def _other_weights(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("*.safetensors")):
        with suppress(OSError, SafetensorError), safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                kind = tensors.get_slice(name).get_dtype()
                if name.endswith(".weight") and kind not in FLOATS:
                    yield f"{name} is {kind} in {file.name}"


def _quantisation_settings(config: Any) -> dict[str, Any] | None:
    """Those of a model, or of its language model."""
    for part in (config, text_config(config)):
        if settings := getattr(part, "quantization_config", None):
            return settings if isinstance(settings, dict) else settings.to_dict()
    return None

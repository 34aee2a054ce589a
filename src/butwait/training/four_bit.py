"""A model whose frozen weights are held in four bits, for adapters (QLoRA)."""

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from butwait.engines.models import device_of, no_progress_bars, resolve
from butwait.engines.settings import ModelSettings
from butwait.records import UserError
from butwait.running.packages import require


def load_four_bit(model: ModelSettings) -> PreTrainedModel:
    """The model on its device, its linear layers in NF4 with double quantisation (Dettmers et al.
    2023, arXiv:2305.14314, section 3); what is not quantised, and the arithmetic, has the dtype of
    ``model``.

    Raises:
        UserError: bitsandbytes is not installed, or the model cannot be loaded by it.
    """
    require("bitsandbytes", "lora.four_bit", "'butwait[qlora]'")
    dtype = getattr(torch, model.dtype)
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    try:
        with no_progress_bars():
            return AutoModelForCausalLM.from_pretrained(
                resolve(model),
                revision=model.revision,
                dtype=dtype,
                device_map={"": device_of(model)},
                quantization_config=quantisation,
            )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{model.name!r} could not be loaded in four bits: {reason}") from error

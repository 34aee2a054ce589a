"""Floating-point operations of a decoder's forward pass, from its configuration.

A multiplication and an addition count as two (Kaplan et al. 2020, arXiv:2001.08361, table 1;
Hoffmann et al. 2022, arXiv:2203.15556, appendix F): 2 per weight of every matrix and token, the
language-model head included and the embedding look-up left out, and for attention 2 for the
logits and 2 for the weighted sum, per layer, query head, head dimension and position attended to.
Norms, activations, rotary embeddings and the softmax are left out, as there.

Two departures: Kaplan's table counts the logits alone (2 where we and Hoffmann count 4), and
a causal token attends to the positions up to its own, not to the whole sequence.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from butwait.engines.settings import ModelSettings
from butwait.records import UserError


@dataclass(frozen=True, slots=True)
class DecoderFlops:
    """Attributes:
    per_token: operations of the matrices, for one token.
    per_position: operations of attention, for one token and one position that it attends to.
    """

    per_token: int
    per_position: int

    def forward(self, start: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """float64, as the arguments: running ``tokens`` tokens after ``start`` others, whose keys
        and values are cached."""
        count = np.asarray(tokens, np.float64)
        positions = count * start + count * (count + 1) / 2
        return count * self.per_token + positions * self.per_position


def flops_of(model: ModelSettings, *, head: bool = True) -> DecoderFlops | None:
    """Of a model's forward pass, without loading its weights.

    Args:
        model: which one.
        head: whether the language-model head runs; reward models have none.

    Returns:
        None where the configuration cannot be read, and for a mixture of experts, which does not
        run all of its weights.
    """
    from butwait.engines.models import read_config

    try:
        return decoder_flops(read_config(model), head=head)
    except UserError:
        return None


def decoder_flops(config: Any, *, head: bool = True) -> DecoderFlops | None:
    """Of the architecture that a ``transformers`` configuration names; of one that sees images as
    well, its language model. See ``flops_of``."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    from butwait.engines.checkpoints.configs import text_config

    config = text_config(config)
    if any("expert" in name for name in config.to_dict()):
        return None
    build: Any = AutoModelForCausalLM if head else AutoModel
    try:
        with torch.device("meta"):
            model = build.from_config(config, trust_remote_code=False)
    except Exception:  # a model that transformers cannot build is refused where it is run
        return None
    matrices = sum(
        weight.numel()
        for module in model.modules()
        if not isinstance(module, torch.nn.Embedding)
        for weight in module.parameters(recurse=False)
        if weight.ndim == 2
    )
    return DecoderFlops(
        per_token=2 * matrices,
        per_position=2
        * config.num_hidden_layers
        * config.num_attention_heads
        * sum(_widths(config)),
    )


def _widths(config: Any) -> tuple[int, int]:
    """The size of a head's keys and of its values."""
    if getattr(config, "kv_lora_rank", None):  # latent attention; its head_dim is of a part
        return config.qk_nope_head_dim + config.qk_rope_head_dim, config.v_head_dim
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return width, width

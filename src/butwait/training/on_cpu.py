"""What makes a forward and backward pass quick on a CPU.

TRL's output head works in tiles so that a GPU never holds all logits. Without Triton it runs the
positions without loss too, in many passes over memory, and the products of its gradient in
float32. On a CPU, where the logits of a pass have room, the model's own head is given the tokens
with loss alone (figures: docs/log.md). And torch's fused attention is slower than the plain one
while rows are short.
"""

import functools
from types import MethodType
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from trl.trainer.utils import FusedCausalLMOutput

from butwait.training.weights import base_of

ROOM = 2**26
"""Logits of a pass, 256 MiB in float32; more are left to TRL's tiles."""
SHORT = 256
"""Tokens of a row up to which plain attention is the faster one."""


def compact_head(model: Any, temperature: float = 1.0, *, entropy: bool = True) -> None:
    """Lets the output head of a model on a CPU see the tokens with loss alone.

    The loss is TRL's to the rounding of a sum. Gradients flow through log-probabilities, not
    through entropies.

    Args:
        model: with TRL's fused output head, adapted or not.
        temperature: what its logits are divided by, as TRL was told.
        entropy: whether the head says how sure it is, as TRL's was told.
    """
    base = base_of(model)
    fused = base.forward

    @functools.wraps(type(base).forward)
    def forward(
        self: Any,
        *args: Any,
        fused_lm_head: bool = False,
        labels: torch.Tensor | None = None,
        num_items_in_batch: Any = None,
        **kwargs: Any,
    ) -> Any:
        rows, config = None if labels is None else labels[:, 1:], self.config.get_text_config()
        if (
            not fused_lm_head
            or rows is None
            or rows.device.type != "cpu"
            or int((seen := rows != -100).sum()) * config.vocab_size > ROOM
            or getattr(config, "output_router_logits", False)
        ):
            if labels is not None:
                kwargs["labels"] = labels
            if num_items_in_batch is not None:
                kwargs["num_items_in_batch"] = num_items_in_batch
            return fused(*args, fused_lm_head=fused_lm_head, **kwargs)

        def alone(_: Any, __: Any, output: Any) -> Any:
            output.last_hidden_state = output.last_hidden_state[:, :-1][seen][None]
            return output

        hook = self.base_model.register_forward_hook(alone)
        try:  # the model's own head, with what it does to logits
            logits = fused(*args, **(kwargs | {"use_cache": False})).logits[0].float()
        finally:
            hook.remove()
        logits, chosen = logits / temperature, rows[seen]
        loss = cross_entropy(logits, chosen, reduction="none")
        told: dict[str, Any] = {"log_probs": -loss}
        if entropy:
            with torch.no_grad():
                shares = logits.log_softmax(-1)
                told["is_top1"] = logits.argmax(-1) == chosen
                told["entropy"] = -(shares.exp() * shares).sum(-1)
        back = {
            name: value.new_zeros(seen.shape).masked_scatter(seen, value)
            for name, value in told.items()
        }
        given = seen.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        return FusedCausalLMOutput(loss=loss.sum() / given, label_mask=seen, **back)

    base.forward = MethodType(forward, base)


def short_attention(model: Any, longest: int) -> None:
    """Chooses plain attention for a model on a CPU whose rows are short.

    Args:
        model: adapted or not.
        longest: tokens of the longest row.
    """
    base = base_of(model)
    if base.device.type == "cpu" and longest <= SHORT:
        base.set_attn_implementation("eager")

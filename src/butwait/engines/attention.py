"""What a model's attention needs of a batch with rows of different lengths: its masks, and how
long a row may be."""

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from butwait.engines.cache import SCRATCH
from butwait.records import UserError


class AttentionKinds:
    """The kinds of attention in a model's layers: full, or over a sliding window.

    Raises UserError for other kinds (state-space layers, chunks, shared caches) and for an
    implementation that takes no mask of its own.
    """

    def __init__(self, model: Any) -> None:
        config = model.config
        self.implementation: str = config._attn_implementation
        if self.implementation not in ("sdpa", "eager"):
            raise UserError(
                f"the engine gives every row its own attention mask, which {self.implementation} "
                "attention does not take: load the model with attn_implementation='sdpa'"
            )
        windows = _windows(model)
        self.layers = len(windows)
        self._windows = sorted(set(windows), key=lambda w: w or 0)
        if len(self._windows) > 2 or (len(self._windows) == 2 and None not in self._windows):
            raise _unsupported(config, f"sliding windows of different sizes {self._windows}")

    def masks(
        self, positions: torch.Tensor, longest: int, dtype: torch.dtype
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """The mask of a batch (n, 1, q, columns), or one for each kind of layer.

        Args:
            positions: int64 (n, q), of the new tokens; -1 is padding.
            longest: tokens of the longest row; columns = SCRATCH + longest.
            dtype: of the model, for masks that are added to scores.
        """
        columns = torch.arange(SCRATCH + longest, device=positions.device)
        last = (positions + SCRATCH)[:, None, :, None]
        # A token sees its row up to itself; padding sees the scratch column.
        seen = (columns <= last) & (columns >= last.clamp(max=SCRATCH))
        by_kind = {
            "full_attention" if window is None else "sliding_attention": self._as_implemented(
                seen if window is None else seen & (columns > last - window), dtype
            )
            for window in self._windows
        }
        return by_kind if len(by_kind) > 1 else next(iter(by_kind.values()))

    def _as_implemented(self, seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if self.implementation == "sdpa":
            return seen
        floor = torch.finfo(dtype).min
        return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, floor)


def context_limit(config: Any) -> int | None:
    """The most tokens of a sequence, or None where the configuration does not say.

    Rotary embeddings that change with the length of the sequence (``longrope``, ``dynamic``)
    would make cached keys stale, so such a model is used up to its original length.
    """
    limit = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("longrope", "dynamic"):
        original = rope.get("original_max_position_embeddings") or getattr(
            config, "original_max_position_embeddings", None
        )
        limit = min(filter(None, (limit, original)), default=None)
    return limit


def _windows(model: Any) -> list[int | None]:
    """The sliding window of every layer; None where it sees everything."""
    config = model.config
    if getattr(model, "_is_stateful", False):
        raise _unsupported(config, "layers with a state instead of keys and values")
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        raise _unsupported(config, "chunked attention")
    windows: list[int | None] = []
    for layer in DynamicCache(config=config).layers:
        if type(layer) is DynamicSlidingWindowLayer:
            windows.append(int(layer.sliding_window))
        elif type(layer) is DynamicLayer:
            windows.append(None)
        else:
            raise _unsupported(config, f"layers with a {type(layer).__name__}")
    if not windows:
        raise _unsupported(config, "an unknown number of layers")
    return windows


def _unsupported(config: Any, what: str) -> UserError:
    return UserError(
        f"the in-process engine does not run {config.model_type} models with {what}: use another "
        "engine for this model"
    )

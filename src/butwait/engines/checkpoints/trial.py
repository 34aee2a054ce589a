"""Whether the rows of a batch get the numbers that they get alone: tried on a loaded model before
anything depends on it."""

from typing import Any

import numpy as np
import torch

from butwait.engines.cache import (
    AttentionKinds,
    BlockCache,
    context_limit,
    is_out_of_memory,
)
from butwait.engines.checkpoints.configs import text_config
from butwait.engines.checkpoints.failures import on_one_line
from butwait.engines.kv.blocks import BLOCK, SCRATCH, BlockTable
from butwait.engines.kv.passes import reads_in_place, run_pass
from butwait.records import UserError

TRIAL: tuple[tuple[int, int], ...] = ((3, 6), (6, 2), (1, 1))
"""New tokens of two rows, pass by pass."""

MOST_OFF = 0.02
"""The largest share by which logits may differ in float32. What goes wrong by itself is mostly off
by more than the half."""
MOST_OFF_ROUNDED = 0.5
"""The same in half precision or quantised, where a router may send a token elsewhere."""


@torch.inference_mode()
def check_rows(model: Any, attention: AttentionKinds) -> int:
    """Tries two rows of different lengths side by side, with padding before, between and after,
    against passes of their own without a cache.

    An architecture may make positions or masks of its own from the shape of a batch, or from one
    length of the cache: it would fail in the middle of a search, or go wrong without a word
    (GPT-Neo). Windows longer than these few tokens are not tried; those that a configuration
    names are known to ``AttentionKinds``. A model whose context is shorter gets one token.

    Returns:
        Bytes of the keys and values of a token, in all layers.

    Raises UserError where the numbers differ, or the model fails.
    """
    config = text_config(model.config)
    limit, passes = context_limit(config), TRIAL
    length = max(sum(row) for row in zip(*passes, strict=True))
    if limit is not None and limit < length:
        passes, length = TRIAL[-1:], 1
    ids = torch.arange(2 * length).reshape(2, length) * 7 + 3
    ids %= getattr(config, "vocab_size", length)
    cache, blocks, both = BlockCache(attention.layers, 0), BlockTable(2), np.arange(2)
    rows: tuple[list[torch.Tensor], ...] = ([], [])
    starts = np.zeros(2, np.int64)
    try:
        alone = [
            model(input_ids=row[None].to(model.device), use_cache=False).logits[0] for row in ids
        ]
        for counts in passes:
            width = max(counts)
            offsets = np.arange(width)
            real = offsets < np.array(counts)[:, None]
            positions = np.where(real, starts[:, None] + offsets, -1)
            tokens = np.where(real, np.take_along_axis(ids.numpy(), positions, 1), 0)
            longest = int((starts + counts).max())
            blocks.make_room(both, starts, np.array(counts))
            cache.reach(blocks.size)
            table = blocks.view(both, longest)
            logits = run_pass(model, attention, cache, table, tokens, positions, longest, {})
            for row, outputs, count in zip(rows, logits, counts, strict=True):
                row.append(outputs[:count])
            starts += counts
    except UserError:
        raise
    except Exception as error:
        why = (
            "no memory is left beside the weights"
            if is_out_of_memory(error)
            else on_one_line(error)
        )
        raise UserError(
            f"the in-process engine cannot run this {model.config.model_type} model ({why}): use "
            "another engine for it"
        ) from error
    off = max(
        _distance(torch.cat(row), expected[: sum(map(len, row))])
        for row, expected in zip(rows, alone, strict=True)
    )
    if off > _most_off(model):
        raise UserError(
            f"the in-process engine does not run {model.config.model_type} models: beside rows of "
            f"other lengths their logits change by {off:.0%}; use another engine for this model"
        )
    return cache.token_bytes


@torch.inference_mode()
def can_split(model: Any, attention: AttentionKinds) -> bool:
    """Whether two rows of a token may read what they share once (``kv.attention``), or all of it in
    place on a CPU (``kv.in_place``): tried against passes of their own. Where a model's attention
    is not the usual one each gets a copy."""
    config = text_config(model.config)
    limit = context_limit(config)
    # Of eight blocks three are shared, so that it is worth while (``WORTH``).
    shared, length = 3 * BLOCK - SCRATCH, 3 * BLOCK + SCRATCH
    windowed = attention.windowed(length + 1) and not reads_in_place(model)
    if attention.implementation == "eager" or windowed:
        return False
    if limit is not None and limit < length + 1:
        return False
    ids = (np.arange(2 * length).reshape(2, length) * 7 + 3) % getattr(config, "vocab_size", length)
    ids[1, :shared] = ids[0, :shared]
    cache, blocks, both = BlockCache(attention.layers, 0), BlockTable(2), np.arange(2)

    def run(row: slice, start: int, end: int, least: int | None) -> torch.Tensor:
        rows = both[row]
        counts = np.full(len(rows), end - start)
        blocks.make_room(rows, np.full(len(rows), start), counts)
        cache.reach(blocks.size)
        positions = np.arange(start, end)[None].repeat(len(rows), 0)
        table = blocks.view(rows, end)
        return run_pass(
            model, attention, cache, table, ids[row, start:end], positions, end, {}, least
        )[:, -1]

    try:
        run(slice(0, 1), 0, length - 1, None)
        blocks.place(1, blocks.hold(0, shared))
        run(slice(1, 2), shared, length - 1, None)
        together = run(slice(0, 2), length - 1, length, 1)
        alone = model(input_ids=torch.from_numpy(ids).to(model.device), use_cache=False)
    except Exception as error:  # of a layer that attends by itself, or of the compiler
        if is_out_of_memory(error):
            raise
        return False
    return _distance(together, alone.logits[:, -1]) <= _most_off(model)


def _most_off(model: Any) -> float:
    half = model.dtype.itemsize <= 2 or torch.is_autocast_enabled(model.device.type)
    rounded = half or getattr(model, "is_quantized", False)
    return MOST_OFF_ROUNDED if rounded else MOST_OFF


def _distance(outputs: torch.Tensor, expected: torch.Tensor) -> float:
    """By how much of their usual size a token's outputs (t, V) are off, at the worst token. Outputs
    that are no numbers are not compared: they have their own error."""
    outputs, expected = outputs.double(), expected.double()
    if outputs.shape[-1] > 1:  # what is the same for all of them cancels
        outputs, expected = (each - each.mean(-1, keepdim=True) for each in (outputs, expected))
    size = expected.norm(dim=-1).mean().clamp(min=1e-6)
    return float(torch.nan_to_num((outputs - expected).norm(dim=-1) / size).max())

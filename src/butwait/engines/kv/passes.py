"""One forward pass over rows of a cache of blocks."""

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache as once
from typing import Any

import numpy as np
import torch
from transformers.integrations import sdpa_attention

from butwait.engines.cache import AttentionKinds, BlockCache
from butwait.engines.kv.attention import Family, families, own_blocks, splitting, together
from butwait.engines.kv.blocks import BLOCK, SCRATCH, SINK

logger = logging.getLogger(__name__)


def run_pass(
    model: Any,
    attention: AttentionKinds,
    cache: BlockCache,
    table: np.ndarray,
    ids: np.ndarray,
    positions: np.ndarray,
    longest: int,
    extra: dict[str, Any],
    least: int | None = None,
) -> torch.Tensor:
    """Logits (n, q or what ``extra`` leaves, V) of one call of the model.

    Args:
        model, attention, cache: which one, its masks, its keys and values.
        table: int64 (n, w), the blocks of its rows.
        ids: int64 (n, q), tokens.
        positions: int64 (n, q), theirs in their rows; -1 is padding.
        longest: tokens of the longest row with its new ones.
        extra: further arguments of the model.
        least: for rows of one token, which read in place on a CPU: elsewhere the blocks that they
            must save together to read what they share once; None: each gets a copy of what it
            reads. Raises CannotSplitError.
    """
    device = model.device
    places = positions + SCRATCH
    block = np.take_along_axis(table, np.maximum(places // BLOCK, 0), 1)
    write = np.where(positions < 0, SINK * BLOCK, block * BLOCK + places % BLOCK)
    columns, before = SCRATCH + longest, np.zeros(len(table), np.int64)
    shared: list[Family] = []
    in_place = least is not None and reads_in_place(model)
    if least is not None and not in_place and not attention.windowed(longest):
        shared = families(table, least)
    if shared:
        table, before = own_blocks(table, shared)
        columns = table.shape[1] * BLOCK
    cache.plan(
        _on(device, table),
        _on(device, write.reshape(-1)),
        columns,
        together(shared, device),
        in_place,
    )
    ours = bool(shared) or in_place
    seen = _on(device, places - before[:, None] * BLOCK)
    first = _on(device, np.where(before > 0, 0, SCRATCH))
    with grouped_heads(shares_heads(model, ids.shape[1])), splitting(cache if ours else None):
        return model(
            input_ids=_on(device, ids),
            attention_mask=attention.masks(seen, first, columns, model.dtype),
            position_ids=_on(device, np.maximum(positions, 0)),
            past_key_values=cache,
            use_cache=True,
            **extra,
        ).logits


def _on(device: torch.device, array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).to(device)


def reads_in_place(model: Any) -> bool:
    """Whether rows of one token read keys and values where they lie, if they can."""
    return model.device.type == "cpu" and model.dtype in compiled_dtypes()


@once
def compiled_dtypes() -> Collection[torch.dtype]:
    """The dtypes that are read in place: none where numba, which takes half a second, cannot be
    imported. It may have no wheel for this platform, or a broken one."""
    try:
        from butwait.engines.kv.in_place import READ_AS
    except Exception as error:  # whatever a library ends in that does not load
        logger.debug("keys and values are copied on a CPU, as numba cannot be used: %s", error)
        return ()
    return READ_AS


def shares_heads(model: Any, tokens: int) -> bool:
    """Whether PyTorch's own grouped heads are asked for: on a card, for one token a row in half
    precision, where they were measured (docs/results/gpu.md)."""
    return tokens == 1 and model.device.type == "cuda" and model.dtype.itemsize == 2


@contextmanager
def grouped_heads(wanted: bool) -> Iterator[None]:
    """While it is open, and wanted, heads that share keys and values share them in memory too.
    Where there is a mask, some versions of transformers copy them for every head, which takes
    most of the time of a decoded token."""
    library: Any = sdpa_attention
    before = getattr(library, "use_gqa_in_sdpa", None)
    if not wanted or before is None:
        yield
        return
    library.use_gqa_in_sdpa = lambda mask, key, value: key.shape[-1] == value.shape[-1] <= 256
    try:
        yield
    finally:
        library.use_gqa_in_sdpa = before

"""Attention in two parts: what many rows of a pass begin with is read once for all of them, and
their own rest row by row; the two are put together by their log-sum-exp.

Rows that go on from a common ancestor hold the same blocks. Attention that reads every row by
itself reads those again for each. Here one matrix product serves all rows of a *family*.

It is used where every row gets one new token, sums may be in any order (so not in deterministic
mode), and nothing is read in place (``in_place``, on a CPU); and for models whose layers call
transformers' own ``sdpa`` with keys as the cache gave them (``checkpoints.trial`` tries it).

Shapes: n rows of one token each, w blocks, H heads of keys, g heads of queries for each of them;
F families of at most m rows.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from butwait.engines.kv.blocks import EMPTY

WORTH = 0.35
"""The share of all blocks that must be read less often: with less, two parts take longer than one
(docs/log.md)."""
LEAST = 128
"""Blocks that all families together must save: they cost a dozen small operations a layer."""
PADDED = 1.5
"""Families of different sizes are run together while that is at most so many times their rows."""
HARMLESS = {
    *("sliding_window", "is_causal", "position_ids", "cache_position", "use_cache"),
    "output_router_logits",
}
"""Arguments of attention that change nothing for rows of one token with a mask."""


class Family(NamedTuple):
    """Rows of a pass, int64 (m,), and the blocks they all begin with, int64 (b,)."""

    rows: np.ndarray
    blocks: np.ndarray


class Together(NamedTuple):
    """Families that are run in one product, each padded to m rows with its last one.

    Attributes:
        rows: int64 (F m,), of the pass.
        blocks: int64 (F, b).
        real: int64 (R,), the places in ``rows`` that are not padding.
        owners: int64 (R,), the rows there, each once.
    """

    rows: torch.Tensor
    blocks: torch.Tensor
    real: torch.Tensor
    owners: torch.Tensor


class CannotSplitError(Exception):
    """A layer's attention is not the usual one."""


def families(table: np.ndarray, least: int) -> list[Family]:
    """The families of a pass, none where it is not worth while. All of them have the same number
    of blocks in common: the one that saves most.

    Args:
        table: int64 (n, w), the blocks of its rows.
        least: blocks that all families together must save.
    """
    rows, width = table.shape
    if rows < 2:
        return []
    # Rows as strings of bytes, so that those that begin alike lie together.
    order = np.argsort(np.ascontiguousarray(table).view(f"V{table.itemsize * width}")[:, 0])
    ranked = table[order]
    differ = (ranked[1:] != ranked[:-1]) | (ranked[1:] == EMPTY)
    alike = np.where(differ.any(1), differ.argmax(1), width)  # with the row before
    saved = np.arange(width + 1) * (alike[:, None] >= np.arange(width + 1)).sum(0)
    depth = int(saved.argmax())
    members = np.split(order, np.flatnonzero(alike < depth) + 1)
    several = [np.sort(family) for family in members if len(family) > 1]
    less = sum((len(family) - 1) * depth for family in several)
    if less < max(1, least, WORTH * np.count_nonzero(table)):
        return []
    return [Family(family, table[family[0], :depth]) for family in several]


def together(shared: Sequence[Family], device: torch.device) -> list[Together]:
    """Families, those of about the same size with each other."""
    batches: list[list[Family]] = []
    real = 0
    for family in sorted(shared, key=lambda each: -len(each.rows)):
        size = len(family.rows)
        # The first one is the largest, to which the others are padded.
        largest = len(batches[-1][0].rows) if batches else 0
        if batches and largest * (len(batches[-1]) + 1) <= PADDED * (real + size):
            batches[-1].append(family)
            real += size
        else:
            batches.append([family])
            real = size
    return [_padded(batch, device) for batch in batches]


def _padded(batch: Sequence[Family], device: torch.device) -> Together:
    sizes = np.array([len(family.rows) for family in batch])
    places = np.arange(sizes.max())
    rows = np.stack([f.rows[np.minimum(places, len(f.rows) - 1)] for f in batch]).reshape(-1)
    real = np.flatnonzero(places < sizes[:, None])
    blocks = np.stack([family.blocks for family in batch])
    return Together(*(torch.from_numpy(x).to(device) for x in (rows, blocks, real, rows[real])))


def own_blocks(table: np.ndarray, shared: Sequence[Family]) -> tuple[np.ndarray, np.ndarray]:
    """int64 (n, at most w): the blocks of the rows without their family's; and int64 (n,), how
    many those are."""
    before = np.zeros(len(table), np.int64)
    for family in shared:
        before[family.rows] = len(family.blocks)
    width = int(((table != EMPTY).sum(1) - before).max())
    columns = before[:, None] + np.arange(width)
    wide = np.pad(table, ((0, 0), (0, width)), constant_values=EMPTY)
    return np.take_along_axis(wide, columns, 1), before


def _attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention to a part of what queries see, (..., H, q, size), and the log of the sum of its
    weights, (..., H, q, 1); both in float32 at least.

    Args:
        query: (b, H, q, size), scaled.
        keys, values: (b, H, columns, size).
        mask: bool (b, 1, 1, columns), what is seen; None: everything.
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    scores = torch.matmul(query, keys.transpose(2, 3)).to(wide)
    if mask is not None:
        scores = scores.masked_fill_(~mask, -torch.inf)
    total = scores.logsumexp(-1, keepdim=True)
    weights = (scores - total).exp_().to(values.dtype)
    return torch.matmul(weights, values).to(wide), total


def two_parts(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    shared: Sequence[tuple[Together, torch.Tensor, torch.Tensor]],
    scaling: float,
) -> torch.Tensor:
    """(n, 1, H g, size): what ``sdpa`` gives for rows of one token.

    Args:
        query: (n, H g, 1, size).
        keys, values: (n, H, columns, size), of the rows' own blocks.
        mask: bool (n, 1, 1, columns), what is seen of them: something of every row.
        shared: families, and their keys and values (F, H, columns, size).
        scaling: of the scores.
    """
    n, heads, _, size = query.shape
    kinds = keys.shape[1]
    query, keys, values = _alike(query, keys, values)
    query = query.reshape(n, kinds, heads // kinds, size) * scaling
    sums, total = _attention(query, keys, values, mask)
    for (rows, blocks, real, owners), its_keys, its_values in shared:
        shape = len(blocks), -1, kinds, heads // kinds, size
        asked = query[rows].view(shape).transpose(1, 2)  # (F, H, m, g, size)
        flat = asked.reshape(len(blocks), kinds, -1, size)
        more, weight = (
            each.view(*asked.shape[:4], -1).transpose(1, 2).flatten(0, 1)[real]
            for each in _attention(*_alike(flat, its_keys, its_values), None)
        )
        # Its share of all weights, by their logarithms.
        share = torch.sigmoid(weight - total[owners])
        sums[owners] = torch.lerp(sums[owners], more, share)
    return sums.to(values.dtype).reshape(n, 1, heads, -1)


class _Pass(threading.local):
    """The cache of the forward pass that runs in this thread, where its layers attend by it."""

    cache: Any = None
    layers = 0


_pass = _Pass()


def _alike(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What ``sdpa`` does with its arguments inside of autocast, which does not know what is called
    here: the queries of a trainer's model are half as wide as the keys of its cache."""
    kind = query.device.type
    if not torch.is_autocast_enabled(kind):
        return query, keys, values
    half = torch.get_autocast_dtype(kind)
    return query.to(half), keys.to(half), values.to(half)


@contextmanager
def splitting(cache: Any) -> Iterator[None]:
    """While it is open, layers attend in two parts or in place, as the cache has planned; None: as
    ever. Raises CannotSplitError for a model in which one does not."""
    if cache is None:
        yield
        return
    _pass.cache, _pass.layers = cache, 0
    try:
        yield
    finally:
        _pass.cache = None
    if _pass.layers != len(cache.layers):
        raise CannotSplitError


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **further: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' ``sdpa`` but in passes that split."""
    if _pass.cache is None:
        return _sdpa(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **further
        )
    strange = any(given is not None and name not in HARMLESS for name, given in further.items())
    newest = _pass.cache.newest
    if (
        strange
        or dropout
        or attention_mask is None
        or newest[0] is not key
        or newest[1] is not value
    ):
        raise CannotSplitError
    _pass.layers += 1
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if _pass.cache.in_place:
        out = _pass.cache.attend(query, attention_mask, scaling)
        return out.to(_alike(query, key, value)[2].dtype), None
    shared = _pass.cache.shared_rows()
    return two_parts(query, key, value, attention_mask, shared, scaling), None


_sdpa: Callable[..., tuple[torch.Tensor, None]] = ALL_ATTENTION_FUNCTIONS["sdpa"]
ALL_ATTENTION_FUNCTIONS.register("sdpa", _attend)

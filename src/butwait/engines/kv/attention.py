"""Attention in two parts: what many rows of a pass begin with is read once for all of them, and
their own rest row by row; the two are put together by their log-sum-exp.

Rows that go on from a common ancestor hold the same blocks. Attention that reads every row by
itself reads those again for each. Here one matrix product serves all rows of a *family*.

It is used where every row gets one new token and sums may be in any order, so not in
deterministic mode, and for models whose layers call transformers' own ``sdpa`` with keys as the
cache gave them (``checkpoints.trial`` tries it).

Shapes: n rows of one token each, w blocks, H heads of keys, g heads of queries for each of them.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from butwait.engines.kv.blocks import EMPTY

WORTH = 0.25
"""The share of all blocks that must be read less often."""
LEAST = 128
"""Blocks that a family must save: it costs a dozen small operations a layer."""
HARMLESS = {"sliding_window", "is_causal", "position_ids", "cache_position", "use_cache"}
"""Arguments of attention that change nothing for rows of one token with a mask."""


class Family(NamedTuple):
    """Rows of a pass, int64 (m,), and the blocks they all begin with, int64 (b,)."""

    rows: np.ndarray
    blocks: np.ndarray


class CannotSplitError(Exception):
    """A layer's attention is not the usual one."""


def families(table: np.ndarray, least: int) -> list[Family]:
    """The families of a pass, none where it is not worth while. All of them have the same number
    of blocks in common: the one that saves most.

    Args:
        table: int64 (n, w), the blocks of its rows.
        least: blocks that a family must save.
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
    large = [np.sort(family) for family in members if (len(family) - 1) * depth >= least]
    if sum((len(family) - 1) * depth for family in large) < WORTH * np.count_nonzero(table):
        return []
    return [Family(family, table[family[0], :depth]) for family in large]


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


class Part(NamedTuple):
    """Unnormalised attention of a part of a row, in float32 at least: the largest score and the sum
    of weights, (n, H, g, 1), and the weighted sum of values, (n, H, g, size)."""

    largest: torch.Tensor
    total: torch.Tensor
    sums: torch.Tensor


def _wide(scores: torch.Tensor) -> torch.Tensor:
    """In float32 at least."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _part(scores: torch.Tensor, values: torch.Tensor) -> Part:
    largest = scores.amax(-1, keepdim=True)
    weights = (scores - largest).exp_()
    total = weights.sum(-1, keepdim=True)
    return Part(largest, total, torch.matmul(weights.to(values.dtype), values).to(total.dtype))


def two_parts(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    shared: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    scaling: float,
) -> torch.Tensor:
    """(n, 1, H g, size): what ``sdpa`` gives for rows of one token.

    Args:
        query: (n, H g, 1, size).
        keys, values: (n, H, columns, size), of the rows' own blocks.
        mask: bool (n, 1, 1, columns), what is seen of them: something of every row.
        shared: of each family int64 (m,) rows, and its keys and values (H, columns, size).
        scaling: of the scores.
    """
    n, heads, _, size = query.shape
    kinds = keys.shape[1]
    query = query.reshape(n, kinds, heads // kinds, size) * scaling
    scores = _wide(torch.matmul(query, keys.transpose(2, 3))).masked_fill_(~mask, -torch.inf)
    largest, total, sums = _part(scores, values)
    for rows, its_keys, its_values in shared:
        asked = query[rows].transpose(0, 1)  # (H, m, g, size)
        flat = asked.reshape(kinds, -1, size)
        part = _part(_wide(torch.matmul(flat, its_keys.transpose(1, 2))), its_values)
        above, weights, more = (
            each.view(kinds, asked.shape[1], heads // kinds, -1).transpose(0, 1) for each in part
        )
        top = torch.maximum(largest[rows], above)
        ours, theirs = (largest[rows] - top).exp_(), (above - top).exp_()
        total[rows] = (total[rows] * ours).addcmul_(weights, theirs)
        sums[rows] = (sums[rows] * ours).addcmul_(more, theirs)
    return (sums / total).to(values.dtype).reshape(n, 1, heads, -1)


class _Pass(threading.local):
    """The cache of the forward pass that runs in this thread, while its rows share blocks."""

    cache: Any = None
    layers = 0


_pass = _Pass()


@contextmanager
def splitting(cache: Any) -> Iterator[None]:
    """While it is open, layers attend in two parts; None: as ever. Raises CannotSplitError for a
    model in which one does not."""
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
    shared = _pass.cache.shared_rows()
    return two_parts(query, key, value, attention_mask, shared, scaling), None


_sdpa: Callable[..., tuple[torch.Tensor, None]] = ALL_ATTENTION_FUNCTIONS["sdpa"]
ALL_ATTENTION_FUNCTIONS.register("sdpa", _attend)

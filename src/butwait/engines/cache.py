"""The keys and values of many sequences, as a ``transformers.Cache``."""

from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from butwait.records import UserError

SCRATCH = 1
"""Columns before a row's first token. Padding writes there and reads there: it must write
somewhere, and must see something, or its softmax would be NaN."""


class SlotCache(Cache):
    """Keys and values, (rows, layers, columns, heads, head size) each.

    A row is a sequence. Its token at position p lies in column ``SCRATCH + p``. What a row holds
    behind its length is never read, so cutting a sequence back is free. The tensors are made
    when the first keys arrive, which is where the number of heads is known for sure.

    Args:
        layers: layers of the model.
        rows: sequences.
        capacity: tokens per row that are there from the start; it grows by doubling.
    """

    def __init__(self, layers: int, rows: int, capacity: int) -> None:
        super().__init__(layers=[SlotLayer(self, index) for index in range(layers)])
        self._rows = rows
        self._columns = capacity + SCRATCH
        self._keys: torch.Tensor | None = None
        self._values: torch.Tensor | None = None

    def plan(self, first: int, positions: torch.Tensor, longest: int) -> None:
        """Says where the next forward pass reads and writes.

        Args:
            first: its first row.
            positions: int64 (n, q), of the new tokens in rows first..first+n; -1 is padding.
            longest: tokens of the longest sequence with its new ones.
        """
        if longest + SCRATCH > self._columns:
            self._grow(max(longest + SCRATCH, 2 * self._columns))
        n = len(positions)
        self._view = (slice(first, first + n), slice(0, longest + SCRATCH))
        self._row = torch.arange(first, first + n, device=positions.device)[:, None]
        self._column = positions.clamp(min=-1) + SCRATCH

    def write(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores new keys and values (n, heads, q, size); returns those of the whole rows,
        (n, heads, columns, size), without copying them."""
        if self._keys is None or self._values is None:
            self._keys, self._values = self._allocate(keys), self._allocate(values)
        rows, columns = self._view
        views = []
        for store, new in ((self._keys, keys), (self._values, values)):
            if store.shape[3] != new.shape[1] or store.shape[4] != new.shape[3]:
                raise UserError(
                    "the model's layers have keys of different shapes, which the engine's cache "
                    "does not hold: use another engine for this model"
                )
            store[self._row, layer, self._column] = new.transpose(1, 2)
            views.append(store[rows, layer, columns].transpose(1, 2))
        return views[0], views[1]

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copies the first ``length`` tokens of a row."""
        end = length + SCRATCH
        for store in self._stores():
            store[target, :, SCRATCH:end] = store[source, :, SCRATCH:end]

    def swap_rows(self, rows: np.ndarray, others: np.ndarray, length: int) -> None:
        """Exchanges pairs of rows, int64 (m,) each, all different, that hold at most ``length``
        tokens."""
        end = length + SCRATCH
        targets = torch.from_numpy(np.concatenate([rows, others]))
        sources = torch.from_numpy(np.concatenate([others, rows]))
        for store in self._stores():
            store[targets.to(store.device), :, :end] = store[sources.to(store.device), :, :end]

    def reset(self) -> None:
        """Gives the tensors back; the next forward pass makes new ones."""
        self._keys = self._values = None

    def _stores(self) -> list[torch.Tensor]:
        return [store for store in (self._keys, self._values) if store is not None]

    def _allocate(self, new: torch.Tensor) -> torch.Tensor:
        _, heads, _, size = new.shape
        # Zeros, as a masked NaN is still NaN: its weight is 0, and 0 x NaN is NaN.
        return new.new_zeros(self._rows, len(self.layers), self._columns, heads, size)

    def _grow(self, columns: int) -> None:
        def grown(store: torch.Tensor) -> torch.Tensor:
            larger = store.new_zeros(*store.shape[:2], columns, *store.shape[3:])
            larger[:, :, : self._columns] = store
            return larger

        if self._keys is not None and self._values is not None:
            self._keys = grown(self._keys)
            self._values = grown(self._values)
        self._columns = columns


class SlotLayer(CacheLayerMixin):
    """One layer's view of a ``SlotCache``."""

    def __init__(self, cache: SlotCache, index: int) -> None:
        super().__init__()
        self._cache = cache
        self._index = index

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """The cache makes its tensors itself."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._cache.write(self._index, key_states, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        raise _no_single_length()

    def get_seq_length(self) -> int:
        raise _no_single_length()

    def get_max_length(self) -> int:
        return -1


def _no_single_length() -> UserError:
    return UserError(
        "the model works out positions or masks from the cache's one length, and rows of the "
        "engine's cache have different lengths: use another engine for this model"
    )

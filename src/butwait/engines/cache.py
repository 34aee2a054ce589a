"""A cache with a row for each of many sequences of different lengths: keys and values as a
``transformers.Cache``, the masks that go with them, and how long a row may be."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from butwait.engines.checkpoints.configs import MASKED, text_config
from butwait.engines.kv.attention import Together
from butwait.engines.kv.blocks import BLOCK, SCRATCH
from butwait.records import UserError

if TYPE_CHECKING:
    from butwait.engines.kv.in_place import Rows

SPARE = 8
"""A cache that is too small grows by one part in so many at least."""


_OTHER_LAYERS = defaultdict(
    lambda: "of an unknown kind",
    DynamicIndexedLayer="that choose what they see",
    DummyLayer="without keys and values of their own",
    **dict.fromkeys(
        (
            "LinearAttentionLayer",
            "LinearAttentionAndFullAttentionLayer",
            "LinearAttentionAndSlidingWindowAttentionLayer",
        ),
        "with a state instead of keys and values",
    ),
)
"""What transformers' other kinds of layers are."""


class BlockCache(Cache):
    """Keys and values, (heads, blocks, columns of a block, size) each in every layer.

    A sequence is a row of block numbers (``engines.kv.blocks``); its token at position p lies in
    column ``SCRATCH + p``. What a row holds after its length is never read, so cutting a
    sequence back is free. The tensors are made when the first keys arrive, which is where the
    number of heads is known for sure, and grow with the blocks that are in use.

    Args:
        layers: layers of the model.
        most: blocks that it is not expected to need more than; it keeps no spare ones beyond.

    Attributes:
        size: blocks that there is room for, the special ones included.
        newest: keys and values as they were given to the layer that is run.
        in_place: whether the rows of the pass that is run read in place.
    """

    def __init__(self, layers: int, most: int) -> None:
        super().__init__(layers=[BlockLayer(self, index) for index in range(layers)])
        self._stores: list[list[torch.Tensor]] = [[] for _ in range(layers)]
        self.size = 0
        self._most = most
        self._shared: Sequence[Together] = ()
        self.in_place = False
        self._rows: dict[int, tuple[torch.Tensor, Rows]] = {}
        self._layer = 0
        self.newest: tuple[torch.Tensor, ...] = ()
        self._copies = [torch.empty(0, 0), torch.empty(0, 0)]

    def reach(self, size: int) -> None:
        """Makes room for so many blocks, the special ones included."""
        if size > self.size:
            self.size = max(size, min(self.size + self.size // SPARE, self._most))
        for stores in self._stores:
            for i, store in enumerate(stores):  # one at a time: the old one goes with the next
                stores[i] = self._grown(store)

    def plan(
        self,
        table: torch.Tensor,
        write: torch.Tensor,
        columns: int,
        shared: Sequence[Together] = (),
        in_place: bool = False,
    ) -> None:
        """Says where the next forward pass reads and writes.

        Args:
            table: int64 (n, w), the blocks that its rows read.
            write: int64 (n q,), the columns, counted over all blocks, of the new tokens.
            columns: of a row.
            shared: families of rows, with the blocks that they begin with.
            in_place: whether rows read where it lies (``attend``); else it is copied for them.
        """
        self._table, self._write, self._columns = table, write, columns
        self._shared, self.in_place = shared, in_place
        self._rows = {}
        self._reads: dict[int, torch.Tensor] = {}

    def write(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores new keys and values (n, heads, q, size); returns those of the rows' blocks,
        (n, heads, columns, size): a copy, which the next layer's takes the place of. Where they
        are read in place, the new ones are returned."""
        stores = self._stores[layer]
        if not stores:
            stores += [self._allocate(keys), self._allocate(values)]
        rows = []
        for i, (store, new) in enumerate(zip(stores, (keys, values), strict=True)):
            heads, size = store.shape[0], store.shape[3]
            flat = new.transpose(0, 1).reshape(heads, -1, size)
            store.view(heads, -1, size).index_copy_(1, self._write, flat)
            if self.in_place:
                rows.append(new)
                continue
            read, blocks = self._read(heads), self._copies[i]
            if blocks.shape != (len(read), BLOCK * size) or blocks.dtype != store.dtype:
                blocks = self._copies[i] = store.new_empty(len(read), BLOCK * size)
            torch.index_select(store.view(-1, BLOCK * size), 0, read, out=blocks)
            rows.append(blocks.view(len(self._table), heads, -1, size)[:, :, : self._columns])
        self._layer, self.newest = layer, (rows[0], rows[1])
        return rows[0], rows[1]

    def attend(self, query: torch.Tensor, mask: torch.Tensor, scaling: float) -> torch.Tensor:
        """float32 (n, 1, heads of queries, size): attention of rows of one token to what they read
        in place, in the layer that is run.

        Args:
            query: (n, heads of queries, 1, size of a key).
            mask: bool (n, 1, 1, columns), what the layer sees.
            scaling: of the scores.

        Raises CannotSplitError for another mask, or keys that cannot be read.
        """
        # Where numba is missing nothing is read in place (``kv.passes``), but all else works.
        from butwait.engines.kv import in_place

        if id(mask) not in self._rows:  # layers of a kind have one mask
            blocks = self._table.contiguous().numpy()
            self._rows[id(mask)] = mask, in_place.rows_of(blocks, self._columns, mask)
        keys, values = self._stores[self._layer]
        return in_place.attend(query, keys, values, self._rows[id(mask)][1], scaling)

    def shared_rows(self) -> list[tuple[Together, torch.Tensor, torch.Tensor]]:
        """Families, and the keys and values (F, heads, columns, size) that they begin with in the
        layer that is run."""
        keys, values = self._stores[self._layer]
        return [
            (families, _beginning(keys, families.blocks), _beginning(values, families.blocks))
            for families in self._shared
        ]

    def copy(self, sources: np.ndarray, targets: np.ndarray) -> None:
        """Copies blocks, int64 (m,) each."""
        for stores in self._stores:
            for store in stores:
                to = torch.from_numpy(targets).to(store.device)
                store[:, to] = store[:, torch.from_numpy(sources).to(store.device)]

    @property
    def token_bytes(self) -> int:
        """Of the keys and values of a token, in all layers, once keys arrived. A configuration
        does not say it: some models keep them whole, some compressed (latent attention)."""
        return sum(
            store.shape[0] * store.shape[3] * store.element_size()
            for stores in self._stores
            for store in stores
        )

    def reset(self) -> None:
        """Gives the tensors back; the next forward pass makes new ones."""
        self._stores = [[] for _ in self._stores]
        self._rows = {}
        self.newest = ()
        self._copies = [torch.empty(0, 0), torch.empty(0, 0)]

    def _read(self, heads: int) -> torch.Tensor:
        """int64 (n heads w,): the blocks of all rows, counted over all heads."""
        if heads not in self._reads:
            offsets = torch.arange(heads, device=self._table.device) * self.size
            self._reads[heads] = (offsets[:, None] + self._table[:, None]).reshape(-1)
        return self._reads[heads]

    def _allocate(self, new: torch.Tensor) -> torch.Tensor:
        # Zeros, as a masked NaN is still NaN: its weight is 0, and 0 x NaN is NaN.
        return new.new_zeros(new.shape[1], self.size, BLOCK, new.shape[3])

    def _grown(self, store: torch.Tensor) -> torch.Tensor:
        heads, blocks, _, size = store.shape
        if blocks == self.size:
            return store
        larger = store.new_zeros(heads, self.size, BLOCK, size)
        larger[:, :blocks] = store
        return larger


def _beginning(store: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """(F, heads, columns, size): the tokens of blocks, int64 (F, b), that rows begin with."""
    heads, _, _, size = store.shape
    read = store.index_select(1, blocks.reshape(-1)).view(heads, len(blocks), -1, size)
    return read.transpose(0, 1)[:, :, SCRATCH:]


class BlockLayer(CacheLayerMixin):
    """One layer's view of a ``BlockCache``."""

    def __init__(self, cache: BlockCache, index: int) -> None:
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


class AttentionKinds:
    """The kinds of attention in a model's layers: full, or over a sliding window.

    Raises UserError for other kinds (state-space layers, chunks, shared caches) and for an
    implementation that takes no mask of its own.
    """

    def __init__(self, model: Any) -> None:
        config = text_config(model.config)
        self.implementation: str = config._attn_implementation
        if self.implementation not in MASKED:
            raise UserError(
                f"the engine gives every row its own attention mask, which {self.implementation} "
                "attention does not take: load the model with attn_implementation='sdpa'"
            )
        windows = layer_windows(config, getattr(model, "_is_stateful", False))
        self.layers = len(windows)
        self._windows = sorted(set(windows), key=lambda w: w or 0)
        self.splits = False
        """Whether rows may read what they share once (``checkpoints.trial``)."""

    def windowed(self, longest: int) -> bool:
        """Whether a layer sees less than a whole row of so many tokens."""
        return any(window is not None and window < longest for window in self._windows)

    def masks(
        self, places: torch.Tensor, firsts: torch.Tensor, width: int, dtype: torch.dtype
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """The mask of a batch (n, 1, q, columns), or one for each kind of layer.

        Args:
            places: int64 (n, q), the columns of the new tokens; before the row's first: padding.
            firsts: int64 (n,), the column of each row's first token.
            width: columns.
            dtype: of the model, for masks that are added to scores.
        """
        columns = torch.arange(width, device=places.device)
        last, first = places[:, None, :, None], firsts[:, None, None, None]
        # A token sees its row up to itself; padding sees the scratch column.
        seen = (columns <= last) & (columns >= torch.minimum(last, first))
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


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that the device has no memory left; a CPU says it in words."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def context_limit(config: Any) -> int | None:
    """The most tokens of a sequence, or None where the configuration does not say.

    Rotary embeddings that change with the length of the sequence (``longrope``, ``dynamic``)
    would make cached keys stale, so such a model is used up to its original length.
    """
    config = text_config(config)
    limit = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    # Where layers differ, each kind has its own.
    for each in (rope, *(part for part in rope.values() if isinstance(part, dict))):
        if each.get("rope_type") in ("longrope", "dynamic"):
            original = each.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", None
            )
            limit = min(filter(None, (limit, original)), default=None)
    return limit if limit is not None and limit > 0 else None


_KEY_SHAPE = ("head_dim", "num_key_value_heads")


def layer_windows(config: Any, stateful: bool) -> list[int | None]:
    """The sliding window of every layer; None where it sees everything.

    Args:
        config: of the language model (``text_config``).
        stateful: whether its class may have layers with a state. One whose configuration names
            layers of attention alone has none.

    Raises UserError for layers of other kinds.
    """
    kinds = set(getattr(config, "layer_types", None) or ())
    if stateful and not (kinds and kinds <= {"full_attention", "sliding_attention"}):
        raise _unsupported(config, "layers with a state instead of keys and values")
    if "chunked_attention" in kinds or (
        not kinds and getattr(config, "attention_chunk_size", None)
    ):
        raise _unsupported(config, "chunked attention")
    by_layer = getattr(config, "per_layer_config", ())
    if len({tuple(getattr(c, name, None) for name in _KEY_SHAPE) for c in by_layer}) > 1:
        raise _unsupported(config, "keys of different shapes in different layers")
    try:
        layers = DynamicCache(config=config).layers
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise _unsupported(config, f"layers of unknown kinds {sorted(kinds)}") from error
    windows: list[int | None] = []
    for layer in layers:
        if type(layer) is DynamicSlidingWindowLayer:
            windows.append(int(layer.sliding_window))
        elif type(layer) is DynamicLayer:
            windows.append(None)
        else:
            raise _unsupported(config, f"layers {_OTHER_LAYERS[type(layer).__name__]}")
    if not windows:
        raise _unsupported(config, "an unknown number of layers")
    sizes = {window for window in windows if window is not None}
    if len(sizes) > 1:
        raise _unsupported(config, f"sliding windows of different sizes {sorted(sizes)}")
    return windows


def _unsupported(config: Any, what: str) -> UserError:
    return UserError(
        f"the in-process engine does not run {config.model_type} models with {what}: use another "
        "engine for this model"
    )

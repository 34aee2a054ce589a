"""A KV cache of slots: many sequences, each forked, cut back and extended on its own.

``SlotModel`` runs any decoder-only ``transformers`` model over such a cache. It writes no forward
pass: the model gets a ``transformers.Cache``, position ids and an attention mask, and is called
as ever. A policy and a reward model with a score head use it alike.

Shapes: S slots, n rows of one forward pass, q tokens per row, V outputs per token.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from butwait.engines.cache import (
    AttentionKinds,
    BlockCache,
    context_limit,
    is_out_of_memory,
)
from butwait.engines.checkpoints.configs import text_config
from butwait.engines.checkpoints.trial import can_split, check_rows
from butwait.engines.kv.attention import LEAST, CannotSplitError
from butwait.engines.kv.blocks import BLOCK, EMPTY, BlockTable, blocks_of
from butwait.engines.kv.passes import run_pass
from butwait.engines.kv.products import PackedProducts
from butwait.records import UserError

MAX_DEFAULT_CAPACITY = 4096
"""Deterministic mode runs at full capacity all the time: above this it must be asked for."""

CHUNK_ROWS = 8
"""Rows of a forward pass over chunks in deterministic mode: few prompts begin at a time, and the
other rows of the pass are padding."""

FULL_PASS = 256
"""Tokens of a forward pass that is worth making, and ..."""
LEAST_REAL = 0.9
"""... the share of a larger one that must not be padding."""

Run = tuple[int, int, Sequence[int] | np.ndarray]
"""A slot, the position of the first new token, and the new tokens (at least one)."""


Chunk = tuple[np.ndarray, np.ndarray, np.ndarray, torch.Tensor]
"""Of one forward pass: int64 (n,) indices into the rows, tokens done before, tokens done now, and
float32 (n, q, V) outputs, of which the first "tokens done now" are real."""


class NoFreeSlotError(Exception):
    """Every slot is taken; release one first."""


class SlotModel:
    """A model and the slots of its cache. The model's weights stay as they are while it is used.

    Args:
        model: a ``transformers`` model whose output has ``logits``, in eval mode on its device,
            with ``sdpa`` or ``eager`` attention.
        slots: sequences the cache holds at once.
        capacity: the most tokens of a sequence; None: what the model's context takes.
        deterministic: forward passes have two fixed shapes at full capacity (all slots by one
            token, ``CHUNK_ROWS`` by ``prefill_chunk`` tokens), on a CPU by one thread, so that a
            sequence's numbers do not depend on which others are run with it, nor on its slot.
            Otherwise only the rows asked for are run, and the cache grows with what is held.
        prefill_chunk: the most tokens of a sequence in one forward pass.
        most_bytes: of keys and values that it is meant to hold, shared ones counted once; None: as
            many as the slots take. Whoever gives its slots out keeps to it (``crowded``).
        key: what the setting ``capacity`` is called, for messages.

    Attributes:
        token_bytes: of the keys and values of a token, in all layers.
        most_tokens: as many as ``most_bytes`` hold; None: no bound.

    Raises UserError for a model whose cache is no list of keys and values per token, and for one
    whose rows would not get side by side the numbers that they get alone (``check_rows``).
    """

    def __init__(
        self,
        model: Any,
        slots: int,
        capacity: int | None = None,
        deterministic: bool = False,
        prefill_chunk: int = 64,
        most_bytes: float | None = None,
        key: str = "engine.capacity",
    ) -> None:
        self.model = model
        self.slots = slots
        self.deterministic = deterministic
        self.prefill_chunk = prefill_chunk
        self._attention = AttentionKinds(model)
        self.capacity = _capacity(model.config, capacity, deterministic, key)
        """The most tokens a slot can hold."""
        self.token_bytes = check_rows(model, self._attention)
        self.most_tokens = None if most_bytes is None else int(most_bytes / self.token_bytes)
        if not deterministic:
            self._attention.splits = can_split(model, self._attention)
        self.lengths = np.zeros(slots, np.int64)
        """int64 (S,): tokens held by each slot."""
        self._vocabulary = getattr(text_config(model.config), "vocab_size", None)
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        most = slots * int(blocks_of(self.capacity))
        if self.most_tokens is not None:
            most = min(most, -(-self.most_tokens // BLOCK))
        self._cache = BlockCache(self._attention.layers, most)
        self._blocks = BlockTable(slots)
        self._products: PackedProducts | None = None
        self._free = list(reversed(range(slots)))
        self._taken: set[int] = set()

    @property
    def free(self) -> int:
        """Slots that are not taken."""
        return len(self._free)

    @property
    def held_tokens(self) -> int:
        """Tokens whose keys and values are held, in whole blocks, shared ones counted once."""
        return BLOCK * self._blocks.held

    def crowded(self, tokens: int) -> bool:
        """Whether so many more tokens would be more than the cache is meant to hold."""
        return self.most_tokens is not None and self.held_tokens + tokens > self.most_tokens

    @property
    def allocated_tokens(self) -> int:
        """Tokens that the cache's tensors have room for."""
        return BLOCK * self._cache.size

    def _in_products(self) -> AbstractContextManager[None]:
        if self.deterministic:
            return nullcontext()
        if self._products is None:
            self._products = PackedProducts(self.model)
        return self._products.in_use()

    @property
    def _fixed_threads(self) -> int | None:
        # A matrix product that is shared out among threads treats rows at the border of a share
        # differently, on some processors: then the bits of a row depend on its place.
        return 1 if self.deterministic and self.model.device.type == "cpu" else None

    def acquire(self) -> int:
        """An empty slot. Raises NoFreeSlotError."""
        if not self._free:
            raise NoFreeSlotError(f"all {self.slots} slots are taken")
        slot = self._free.pop()
        self._taken.add(slot)
        self.lengths[slot] = 0
        return slot

    def fork(self, slot: int, length: int) -> int:
        """A new slot with the first ``length`` tokens of ``slot``: their keys and values are
        there once, for both. Raises NoFreeSlotError."""
        if not 0 <= length <= self.lengths[slot]:
            raise ValueError(f"slot {slot} holds {self.lengths[slot]} tokens, not {length}")
        fork = self.acquire()
        self._blocks.place(fork, self._blocks.hold(slot, length))
        self.lengths[fork] = length
        return fork

    def hold(self, slot: int, length: int) -> np.ndarray:
        """The blocks of the first ``length`` tokens of a slot, int64 (m,): they stay until they
        are dropped, whatever becomes of the slot."""
        return self._blocks.hold(slot, length)

    def drop(self, blocks: np.ndarray) -> None:
        """Gives up blocks that were held."""
        self._blocks.drop(blocks)

    def alone(self, blocks: np.ndarray) -> bool:
        """Whether no slot holds any of these blocks."""
        return self._blocks.alone(blocks)

    def adopt(self, slot: int, blocks: np.ndarray, length: int) -> None:
        """Gives an empty slot the first ``length`` tokens of blocks that are held."""
        self._blocks.place(slot, self._blocks.again(blocks, length))
        self.lengths[slot] = length

    def cut(self, slot: int, length: int) -> None:
        """Gives up what a taken slot holds after its first ``length`` tokens."""
        self._blocks.cut(slot, length)
        self.lengths[slot] = min(length, int(self.lengths[slot]))

    def release(self, slot: int) -> None:
        """Frees a taken slot."""
        if slot not in self._taken:
            raise ValueError(f"slot {slot} is free already")
        self._taken.remove(slot)
        self._blocks.cut(slot, 0)
        self._free.append(slot)

    def forget(self) -> None:
        """Gives the cache's memory back, with all keys and values: no slot is taken any more."""
        self._cache.reset()

    def close(self) -> None:
        """Frees the cache's memory and lets go of the model; nothing is run afterwards."""
        self.forget()
        self.lengths[:] = 0
        self.model = self._products = None

    @torch.inference_mode()
    def run(self, rows: Sequence[Run], want: Literal["last", "all"]) -> Any:
        """Runs new tokens and keeps their keys and values.

        Args:
            rows: different slots. What a slot held from the start position on is overwritten.
            want: outputs at the last new token of each row, or at all of them.

        Returns:
            float32 (n, V) for "last"; a list of float32 (tokens of the row, V) for "all".
        """
        self._check(*_ends(rows))
        if want == "last" and self._keeps_logits:
            # A vocabulary is wide, and wanted at one token only: that one is run on its own.
            self.prefill([(slot, start, tokens[:-1]) for slot, start, tokens in rows])
            return self.decode(
                np.array([slot for slot, _, _ in rows], np.int64),
                np.array([start + len(tokens) - 1 for _, start, tokens in rows], np.int64),
                np.array([tokens[-1] for _, _, tokens in rows], np.int64),
            )
        outputs: list[list[torch.Tensor]] = [[] for _ in rows]
        for live, _, counts, logits in self.chunks(rows):
            for i, row in enumerate(live.tolist()):
                outputs[row].append(logits[i, : counts[i]])
        if want == "last":
            return torch.stack([parts[-1][-1] for parts in outputs])
        return [torch.cat(parts) for parts in outputs]

    def prefill(self, rows: Sequence[Run]) -> None:
        """``run`` without outputs; a row may have no tokens."""
        for _ in self.chunks([row for row in rows if len(row[2])], keep=1):
            pass

    @torch.inference_mode()
    def decode(
        self, slots: np.ndarray, starts: np.ndarray, tokens: np.ndarray, wide: bool = True
    ) -> torch.Tensor:
        """One new token per row, all arguments int64 (n,): the fast path of ``run``.

        Returns (n, V), float32 where it is to be ``wide``; else as the model gave it, half as
        large in half precision.
        """
        counts = np.ones_like(slots)
        self._check(slots, starts, counts)
        logits = self._forward(slots, starts, tokens[:, None], counts, self.slots)[:, -1]
        return logits.float() if wide else logits

    @torch.inference_mode()
    def chunks(self, rows: Sequence[Run], keep: int = 0) -> Iterator[Chunk]:
        """``run``, a chunk of every row at a time, for outputs too wide to be held at once."""
        slots, starts, totals = _ends(rows)
        self._check(slots, starts, totals)
        done = np.zeros_like(totals)
        while (live := np.flatnonzero(done < totals)).size:
            if self.deterministic:
                live = live[:CHUNK_ROWS]
            else:
                live = live[_alike(np.minimum(totals[live] - done[live], self.prefill_chunk))]
            counts = np.minimum(totals[live] - done[live], self.prefill_chunk)
            width = self.prefill_chunk if self.deterministic else int(counts.max())
            padded = np.zeros((len(live), width), np.int64)
            for i, row in enumerate(live.tolist()):
                padded[i, : counts[i]] = rows[row][2][done[row] : done[row] + counts[i]]
            logits = self._forward(
                slots[live], starts[live] + done[live], padded, counts, CHUNK_ROWS, keep
            )
            yield live, done[live], counts, logits.float()
            done[live] += counts

    def _forward(
        self,
        slots: np.ndarray,
        starts: np.ndarray,
        tokens: np.ndarray,
        counts: np.ndarray,
        fixed_rows: int,
        keep: int = 0,
    ) -> torch.Tensor:
        """One call of the model.

        Args:
            slots, starts, counts: int64 (n,): which rows, the position of their first new token
                and how many of ``tokens`` are real.
            tokens: int64 (n, q).
            fixed_rows: rows of the pass in deterministic mode, padding included.
            keep: outputs at the last ``keep`` columns, where the model can leave out the
                others; 0: at all.

        Returns:
            (n, q or keep, V) as the model gives it, in the order of ``slots``.
        """
        n = min(fixed_rows, self.slots) if self.deterministic else len(slots)
        rows = len(slots)
        ids = np.zeros((n, tokens.shape[1]), np.int64)
        positions = np.full((n, tokens.shape[1]), -1, np.int64)
        ids[:rows] = tokens
        offsets = np.arange(tokens.shape[1])
        positions[:rows] = np.where(offsets < counts[:, None], starts[:, None] + offsets, -1)
        longest = self.capacity if self.deterministic else int((starts + counts).max())
        if self._vocabulary is not None and ids.max(initial=0) >= self._vocabulary:
            raise UserError(
                f"there is no token {ids.max()} in the model's vocabulary of {self._vocabulary}: "
                "its tokenizer belongs to another model"
            )
        extra = {"logits_to_keep": keep} if self._keeps_logits and keep else {}
        sources, targets = self._blocks.make_room(slots, starts, counts)
        table = np.full((n, blocks_of(longest)), EMPTY, np.int64)
        held = self._blocks.view(slots, longest)
        table[:rows, : held.shape[1]] = held
        try:
            self._cache.reach(self._blocks.size)
            if len(sources):
                self._cache.copy(sources, targets)
            with _threads(self._fixed_threads), self._in_products():
                run = partial(
                    run_pass,
                    *(self.model, self._attention, self._cache, table, ids, positions, longest),
                    extra,
                )
                splits = tokens.shape[1] == 1 and self._attention.splits
                try:
                    logits = run(least=LEAST if splits else None)
                except CannotSplitError:  # of a layer that the trial did not see so
                    self._attention.splits = False
                    logits = run()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"the device ran out of memory with {n} paths of up to {longest} tokens; set "
                "`slots` of the engine or the reward model lower (what is finished is kept)"
            ) from error
        self.lengths[slots] = starts + counts
        return logits[:rows]

    def _check(self, slots: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> None:
        if (starts > self.lengths[slots]).any():
            raise ValueError("a row would start after the end of its slot")
        if (starts + counts > self.capacity).any():
            raise ValueError(f"a row needs more than {self.capacity} tokens")


def _alike(counts: np.ndarray) -> np.ndarray:
    """int64 (m,), ascending: the rows with the most tokens, as many as make a pass that is large
    enough, and more where they are about as long: what shorter ones are padded with is run too."""
    order = np.argsort(-counts, kind="stable")
    padded = counts[order[0]] * np.arange(1, len(order) + 1)
    real = np.cumsum(counts[order])
    taken = int(np.flatnonzero((padded <= FULL_PASS) | (real >= LEAST_REAL * padded))[-1]) + 1
    return np.sort(order[:taken])


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    """Runs the block with so many CPU threads; None: as many as before."""
    before = torch.get_num_threads()
    if wanted is None or wanted == before:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _ends(rows: Sequence[Run]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int64 (n,) each: slots, start positions and numbers of tokens."""
    slots, starts, tokens = zip(*rows, strict=True) if rows else ((), (), ())
    counts = [len(new) for new in tokens]
    return np.array(slots, np.int64), np.array(starts, np.int64), np.array(counts, np.int64)


def _capacity(config: Any, capacity: int | None, deterministic: bool, key: str) -> int:
    limit = context_limit(config)
    if capacity is not None:
        return capacity if limit is None else min(capacity, limit)
    if limit is None:
        raise UserError(f"the model's configuration names no context length: set {key}")
    if deterministic and limit > MAX_DEFAULT_CAPACITY:
        raise UserError(
            f"deterministic mode runs at full capacity, and the model's context is {limit} "
            f"tokens: set {key} to what the prompt and the path's limit need"
        )
    return limit

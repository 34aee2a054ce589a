"""A KV cache of slots: many sequences, each forked, cut back and extended on its own.

``SlotModel`` runs any decoder-only ``transformers`` model over such a cache. It writes no forward
pass: the model gets a ``transformers.Cache``, position ids and an attention mask, and is called
as ever. A policy and a reward model with a score head use it alike.

Shapes: S slots, n rows of one forward pass, q tokens per row, V outputs per token.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch

from butwait.engines.cache import AttentionKinds, SlotCache, context_limit
from butwait.engines.checkpoints.configs import text_config
from butwait.engines.checkpoints.failures import reason
from butwait.records import UserError

MAX_DEFAULT_CAPACITY = 4096
"""Deterministic mode runs at full capacity all the time: above this it must be asked for."""

CHUNK_ROWS = 8
"""Rows of a forward pass over chunks in deterministic mode: few prompts begin at a time, and the
other rows of the pass are padding."""

TRIAL = 10
"""Tokens of a row in ``check_rows``."""

MOST_OFF = (0.5, 0.02)
"""The largest share by which logits may differ there: in half precision, where a router may send
a token elsewhere, and in float32. What goes wrong by itself is mostly off by more."""

Run = tuple[int, int, Sequence[int] | np.ndarray]
"""A slot, the position of the first new token, and the new tokens (at least one)."""


Chunk = tuple[np.ndarray, np.ndarray, np.ndarray, torch.Tensor]
"""Of one forward pass: int64 (n,) indices into the rows, tokens done before, tokens done now, and
float32 (n, q, V) outputs, of which the first "tokens done now" are real."""


class NoFreeSlotError(Exception):
    """Every slot is taken; release one first."""


class SlotModel:
    """A model and the slots of its cache.

    Args:
        model: a ``transformers`` model whose output has ``logits``, in eval mode on its device,
            with ``sdpa`` or ``eager`` attention.
        slots: sequences the cache holds at once.
        capacity: the most tokens of a sequence; None: what the model's context takes.
        deterministic: forward passes have two fixed shapes at full capacity (all slots by one
            token, ``CHUNK_ROWS`` by ``prefill_chunk`` tokens), on a CPU by one thread, so that a
            sequence's numbers do not depend on which others are run with it, nor on its slot.
            Otherwise only the rows asked for are run, and the cache grows by doubling.
        prefill_chunk: the most tokens of a sequence in one forward pass.

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
    ) -> None:
        self.model = model
        self.slots = slots
        self.deterministic = deterministic
        self.prefill_chunk = prefill_chunk
        self._attention = AttentionKinds(model)
        self.capacity = _capacity(model.config, capacity, deterministic)
        """The most tokens a slot can hold."""
        check_rows(model, self._attention)
        self.lengths = np.zeros(slots, np.int64)
        """int64 (S,): tokens held by each slot."""
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._cache = SlotCache(
            self._attention.layers, slots, self.capacity if deterministic else 0
        )
        self._free = list(reversed(range(slots)))
        # Where each slot lies in the cache, and back. Rows that are run together lie together.
        self._row_of = np.arange(slots)
        self._slot_at = np.arange(slots)

    @property
    def free(self) -> int:
        """Slots that are not taken."""
        return len(self._free)

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
        self.lengths[slot] = 0
        return slot

    @torch.inference_mode()
    def fork(self, slot: int, length: int) -> int:
        """A new slot with a copy of the first ``length`` tokens of ``slot``. Raises
        NoFreeSlotError."""
        if not 0 <= length <= self.lengths[slot]:
            raise ValueError(f"slot {slot} holds {self.lengths[slot]} tokens, not {length}")
        copy = self.acquire()
        self._cache.copy_row(int(self._row_of[slot]), int(self._row_of[copy]), length)
        self.lengths[copy] = length
        return copy

    def release(self, slot: int) -> None:
        """Frees a taken slot."""
        if slot in self._free:
            raise ValueError(f"slot {slot} is free already")
        self._free.append(slot)

    def close(self) -> None:
        """Frees the cache's memory; all slots are empty then."""
        self._cache.reset()
        self.lengths[:] = 0

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
    def decode(self, slots: np.ndarray, starts: np.ndarray, tokens: np.ndarray) -> torch.Tensor:
        """One new token per row, all arguments int64 (n,): the fast path of ``run``.

        Returns float32 (n, V).
        """
        counts = np.ones_like(slots)
        self._check(slots, starts, counts)
        logits = self._forward(slots, starts, tokens[:, None], counts, self.slots)
        return logits[:, -1]

    @torch.inference_mode()
    def chunks(self, rows: Sequence[Run], keep: int = 0) -> Iterator[Chunk]:
        """``run``, a chunk of every row at a time, for outputs too wide to be held at once."""
        slots, starts, totals = _ends(rows)
        self._check(slots, starts, totals)
        done = np.zeros_like(totals)
        while (live := np.flatnonzero(done < totals)).size:
            if self.deterministic:
                live = live[:CHUNK_ROWS]
            counts = np.minimum(totals[live] - done[live], self.prefill_chunk)
            width = self.prefill_chunk if self.deterministic else int(counts.max())
            padded = np.zeros((len(live), width), np.int64)
            for i, row in enumerate(live.tolist()):
                padded[i, : counts[i]] = rows[row][2][done[row] : done[row] + counts[i]]
            logits = self._forward(
                slots[live], starts[live] + done[live], padded, counts, CHUNK_ROWS, keep
            )
            yield live, done[live], counts, logits
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
            float32 (n, q or keep, V), in the order of ``slots``.
        """
        n = min(fixed_rows, self.slots) if self.deterministic else len(slots)
        first, rows = self._place(slots, n)
        ids = np.zeros((n, tokens.shape[1]), np.int64)
        positions = np.full((n, tokens.shape[1]), -1, np.int64)
        at = rows - first
        ids[at] = tokens
        offsets = np.arange(tokens.shape[1])
        positions[at] = np.where(offsets < counts[:, None], starts[:, None] + offsets, -1)
        longest = self.capacity if self.deterministic else int((starts + counts).max())
        extra = {"logits_to_keep": keep} if self._keeps_logits and keep else {}
        try:
            with _threads(self._fixed_threads):
                logits = _pass(
                    self.model, self._attention, self._cache, first, ids, positions, longest, extra
                )
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not _is_full(error):
                raise
            raise UserError(
                f"the device ran out of memory with {n} paths of up to {longest} tokens; set "
                "`slots` of the engine or the reward model lower (what is finished is kept)"
            ) from error
        self.lengths[slots] = starts + counts
        return logits[torch.from_numpy(at).to(logits.device)].float()

    def _check(self, slots: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> None:
        if (starts > self.lengths[slots]).any():
            raise ValueError("a row would start after the end of its slot")
        if (starts + counts > self.capacity).any():
            raise ValueError(f"a row needs more than {self.capacity} tokens")

    def _place(self, slots: np.ndarray, n: int) -> tuple[int, np.ndarray]:
        """The first row of a forward pass over ``n`` rows, and the row of each slot.

        The rows of one pass must lie together, as its keys and values are views of the cache.
        Slots that lie elsewhere change places with others.
        """
        rows = self._row_of[slots]
        first = min(int(rows.min()), self.slots - n)
        if int(rows.max()) < first + n:
            return first, rows
        wanted = np.zeros(self.slots, np.int64)
        wanted[rows] = 1
        sums = np.concatenate([[0], np.cumsum(wanted)])
        first = int(np.argmax(sums[n:] - sums[:-n]))
        outside = rows[(rows < first) | (rows >= first + n)]
        holes = first + np.flatnonzero(wanted[first : first + n] == 0)
        self._swap(outside, holes[: len(outside)])
        return first, self._row_of[slots]

    def _swap(self, rows: np.ndarray, others: np.ndarray) -> None:
        """Exchanges what lies in pairs of rows."""
        moved, displaced = self._slot_at[rows], self._slot_at[others]
        length = int(self.lengths[np.concatenate([moved, displaced])].max())
        self._cache.swap_rows(rows, others, length)
        self._slot_at[rows], self._slot_at[others] = displaced, moved
        self._row_of[moved], self._row_of[displaced] = others, rows


@torch.inference_mode()
def check_rows(model: Any, attention: AttentionKinds) -> None:
    """Tries two rows of different lengths side by side, with padding before, between and after,
    against passes of their own without a cache.

    An architecture may make positions or masks of its own from the shape of a batch, or from one
    length of the cache: it would fail in the middle of a search, or go wrong without a word
    (GPT-Neo). Windows longer than these few tokens are not tried; those that a configuration
    names are known to ``AttentionKinds``.

    Raises UserError where the numbers differ, or the model fails.
    """
    config = text_config(model.config)
    limit = context_limit(config)
    if limit is not None and limit < TRIAL:
        return
    ids = (torch.arange(2 * TRIAL).reshape(2, TRIAL) * 7 + 3) % config.vocab_size
    cache = SlotCache(attention.layers, 2, TRIAL)
    rows: tuple[list[torch.Tensor], ...] = ([], [])
    starts = np.zeros(2, np.int64)
    try:
        alone = [
            model(input_ids=row[None].to(model.device), use_cache=False).logits[0] for row in ids
        ]
        for counts in ((3, 6), (6, 2), (1, 1)):
            width = max(counts)
            offsets = np.arange(width)
            real = offsets < np.array(counts)[:, None]
            positions = np.where(real, starts[:, None] + offsets, -1)
            tokens = np.where(real, np.take_along_axis(ids.numpy(), positions, 1), 0)
            longest = int((starts + counts).max())
            logits = _pass(model, attention, cache, 0, tokens, positions, longest, {})
            for row, outputs, count in zip(rows, logits, counts, strict=True):
                row.append(outputs[:count])
            starts += counts
    except UserError:
        raise
    except Exception as error:
        why = "no memory is left beside the weights" if _is_full(error) else reason(error)
        raise UserError(
            f"the in-process engine cannot run this {config.model_type} model ({why}): use another "
            "engine for it"
        ) from error
    off = max(
        _distance(torch.cat(row), expected[: sum(map(len, row))])
        for row, expected in zip(rows, alone, strict=True)
    )
    if off > MOST_OFF[model.dtype.itemsize > 2]:
        raise UserError(
            f"the in-process engine does not run {config.model_type} models: beside rows of other "
            f"lengths their logits change by {off:.0%}; use another engine for this model"
        )


def _pass(
    model: Any,
    attention: AttentionKinds,
    cache: SlotCache,
    first: int,
    ids: np.ndarray,
    positions: np.ndarray,
    longest: int,
    extra: dict[str, Any],
) -> torch.Tensor:
    """Logits (n, q or what ``extra`` leaves, V) of one call of the model.

    Args:
        model, attention, cache: which one, its masks, its keys and values.
        first: its first row in the cache.
        ids: int64 (n, q), tokens.
        positions: int64 (n, q), theirs in their rows; -1 is padding.
        longest: tokens of the longest row with its new ones.
        extra: further arguments of the model.
    """
    columns = torch.from_numpy(positions).to(model.device)
    cache.plan(first, columns, longest)
    return model(
        input_ids=torch.from_numpy(ids).to(model.device),
        attention_mask=attention.masks(columns, longest, model.dtype),
        position_ids=columns.clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        **extra,
    ).logits


def _distance(outputs: torch.Tensor, expected: torch.Tensor) -> float:
    """By how much of their usual size a token's outputs (t, V) are off, at the worst token. Outputs
    that are no numbers are not compared: they have their own error."""
    outputs, expected = outputs.double(), expected.double()
    if outputs.shape[-1] > 1:  # what is the same for all of them cancels
        outputs, expected = (each - each.mean(-1, keepdim=True) for each in (outputs, expected))
    size = expected.norm(dim=-1).mean().clamp(min=1e-6)
    return float(torch.nan_to_num((outputs - expected).norm(dim=-1) / size).max())


def _is_full(error: Exception) -> bool:
    """Whether an error says that the device has no memory left; a CPU says it in words."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


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


def _capacity(config: Any, capacity: int | None, deterministic: bool) -> int:
    limit = context_limit(config)
    if capacity is not None:
        return capacity if limit is None else min(capacity, limit)
    if limit is None:
        raise UserError("the model's configuration names no context length: set engine.capacity")
    if deterministic and limit > MAX_DEFAULT_CAPACITY:
        raise UserError(
            f"deterministic mode runs at full capacity, and the model's context is {limit} "
            "tokens: set engine.capacity to what the prompt and the path's limit need"
        )
    return limit

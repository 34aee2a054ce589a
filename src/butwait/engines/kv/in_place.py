"""Attention on a CPU to keys and values where they lie.

PyTorch's attention takes keys and values of one dense tensor: those of a cache of blocks would be
copied for every layer of every token, those that rows share once for each row, and all rows as
long as the longest. Here each row reads its own blocks, and what rows share comes out of the
processor's caches from the second row on (docs/decisions/0017).

It is for rows of one new token, in float32 or bfloat16. Sums are in float32; a row's numbers do
not depend on the other rows.

Shapes: n rows of w blocks each; H heads of keys, g heads of queries for each of them. Columns are
counted from the start of a row's first block.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from types import FunctionType
from typing import Any, NamedTuple

import llvmlite.binding.ffi as llvm
import numba
import numpy as np
import torch
from numba.extending import overload

from butwait.engines.kv.attention import CannotSplitError

MANY = 2**21
"""Multiplications of a kernel, some 0.2 ms: with fewer one thread is faster than several, to which
to hand them takes 0.06 ms."""

ALIKE = 256
"""Columns up to which rows are weighed together; beyond, with those of up to twice their length."""

READ_AS = {torch.float32: torch.float32, torch.bfloat16: torch.int16}
"""The dtypes that kernels read, and as what: NumPy has no bfloat16."""

SUMS = {"reassoc", "contract", "nsz"}
"""What the compiler may do to sums: take them in another order. It may not take it that all
numbers are finite: those of a broken model are not."""


def _without_dunders(lookup: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    def found(library: Any, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lookup(library, name)

    return found


# numba's LLVM has a function of any name, of `__dict__` too. vLLM's CPU build fails there, as it
# reads that of whatever modules hold.
_library: Any = type(llvm.lib)
if hasattr(_library, "__getattr__"):
    _library.__getattr__ = _without_dunders(_library.__getattr__)


class Rows(NamedTuple):
    """What rows read: ``blocks``, int64 (n, w), and of their columns those from ``first`` to
    ``last``, int64 (n,) each, both included."""

    blocks: np.ndarray
    first: np.ndarray
    last: np.ndarray

    def some(self, which: Any) -> "Rows":
        """Some of the rows, as an index says."""
        return Rows(*(part[which] for part in self))


def rows_of(blocks: np.ndarray, columns: int, mask: torch.Tensor) -> Rows:
    """What rows read by a layer's mask, of ``columns`` columns. Raises CannotSplitError for a mask
    of another shape or dtype than bool (n, 1, 1, columns), or with gaps."""
    if mask.dtype != torch.bool or mask.shape != (len(blocks), 1, 1, columns):
        raise CannotSplitError
    seen = mask[:, 0, 0].numpy()
    first, last = seen.argmax(1), columns - 1 - seen[:, ::-1].argmax(1)
    if (seen.sum(1) != last - first + 1).any():
        raise CannotSplitError
    return Rows(blocks, first, last)


def attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, rows: Rows, scaling: float
) -> torch.Tensor:
    """float32 (n, 1, H g, size of a value): what ``sdpa`` gives for rows of one token.

    Args:
        query: (n, H g, 1, size of a key).
        keys, values: (H, blocks, columns of a block, size), contiguous. Raises CannotSplitError
            for dtypes that are not in ``READ_AS``.
        rows: what each of them reads.
        scaling: of the scores.
    """
    if keys.dtype not in READ_AS or values.dtype not in READ_AS:
        raise CannotSplitError
    n, heads, _, size = query.shape
    grouped = query.reshape(n, keys.shape[0], -1, size).float() * scaling
    lengths = np.ceil(np.log2(np.maximum(rows.last + 1, ALIKE))).astype(np.int64)
    if (lengths == lengths[0]).all():
        out = _attend(grouped.contiguous(), keys, values, rows)
    else:
        out = grouped.new_empty(*grouped.shape[:3], values.shape[3])
        for length in np.unique(lengths):
            which = np.flatnonzero(lengths == length)
            blocks, first, last = rows.some(which)
            blocks = np.ascontiguousarray(blocks[:, : last.max() // keys.shape[2] + 1])
            out[which] = _attend(grouped[which], keys, values, Rows(blocks, first, last))
    return out.view(n, 1, heads, -1)


def _attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, rows: Rows
) -> torch.Tensor:
    """float32 (n, H, g, size of a value), for queries (n, H, g, size of a key), scaled."""
    weights = query.new_empty(*query.shape[:3], rows.blocks.shape[1] * keys.shape[2])
    _run(scores, query, keys, rows, weights)
    weights = weights.softmax(-1)
    out = query.new_empty(*query.shape[:3], values.shape[3])
    _run(sums, weights, values, rows, out)
    return out


def _run(
    kernel: Any, given: torch.Tensor, stored: torch.Tensor, rows: Rows, out: torch.Tensor
) -> None:
    """Runs a kernel, in PyTorch's number of threads where it is worth while: each gets rows with
    about as many columns."""
    compiled = _compiled(kernel, stored.dtype)
    numbers, taken, made = stored.view(READ_AS[stored.dtype]).numpy(), given.numpy(), out.numpy()

    def run(part: slice) -> None:
        compiled(taken[part], numbers, *rows.some(part), made[part])

    until = np.cumsum(rows.last - rows.first + 1)
    work = int(until[-1]) * given.shape[1] * given.shape[2] * stored.shape[3]
    threads = min(torch.get_num_threads(), len(until)) if work >= MANY else 1
    if threads == 1:
        run(slice(None))
        return
    ends = np.searchsorted(until, until[-1] * np.arange(threads + 1) / threads, side="right")
    list(_pool().map(run, [slice(a, b) for a, b in pairwise(ends)]))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="attention")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a fork has no threads


@cache
def _compiled(kernel: Any, dtype: torch.dtype) -> Callable[..., None]:
    """A kernel as machine code, from numba's folder of what was compiled before."""
    stored = numba.int16 if READ_AS[dtype] == torch.int16 else numba.float32
    four, blocks, column = numba.float32[:, :, :, ::1], numba.int64[:, ::1], numba.int64[::1]
    wanted = numba.void(four, stored[:, :, :, ::1], blocks, column, column, four)
    # A file of its own: processes that write to one at the same time mix their dtypes up.
    named = FunctionType(kernel.__code__, kernel.__globals__)
    named.__name__ = named.__qualname__ = f"{kernel.__name__}_{stored}"

    def compiled(keep: bool) -> Any:
        options = {"nogil": True, "fastmath": SUMS, "error_model": "numpy"}
        return numba.njit(wanted, cache=keep, **options)(named)

    try:
        return compiled(keep=True)
    except Exception:  # no such folder can be made, it is full, or a file in it was cut short
        return compiled(keep=False)


def _number(bits: Any) -> Any:
    """The number that is stored as ``bits``."""
    raise NotImplementedError("only compiled")


@overload(_number, inline="always", strict=False)
def _number_of_type(bits: Any) -> Callable[..., Any]:
    if isinstance(bits, numba.types.Integer):  # the upper half of a float32
        return lambda bits: np.int32(np.int32(bits) << np.int32(16)).view(np.float32)
    return lambda bits: bits


def scores(
    query: np.ndarray,
    keys: np.ndarray,
    blocks: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    out: np.ndarray,
) -> None:
    """Products of queries (n, H, g, size) and keys (H, blocks, columns of a block, size), into
    (n, H, g, columns of a row): -inf where a column is not seen."""
    rows, kinds, group, size = query.shape
    columns = keys.shape[2]
    for row in range(rows):
        start, end = first[row], last[row] + 1
        out[row, :, :, :start] = -np.inf
        out[row, :, :, end:] = -np.inf
        for kind in range(kinds):
            for place in range(start // columns, (end - 1) // columns + 1):
                block = keys[kind, blocks[row, place]]
                before = place * columns
                for column in range(max(start - before, 0), min(end - before, columns)):
                    for head in range(group):
                        total = np.float32(0)
                        for i in range(size):
                            total += query[row, kind, head, i] * _number(block[column, i])
                        out[row, kind, head, before + column] = total


def sums(
    weights: np.ndarray,
    values: np.ndarray,
    blocks: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    out: np.ndarray,
) -> None:
    """Sums of values (H, blocks, columns of a block, size) by weights (n, H, g, columns of a row),
    into (n, H, g, size)."""
    rows, kinds, group, size = out.shape
    columns = values.shape[2]
    # Copies of their own: the compiler knows that nothing else writes there.
    value = np.empty(size, np.float32)
    total = np.empty((group, size), np.float32)
    for row in range(rows):
        start, end = first[row], last[row] + 1
        for kind in range(kinds):
            total[:] = 0
            for place in range(start // columns, (end - 1) // columns + 1):
                block = values[kind, blocks[row, place]]
                before = place * columns
                for column in range(max(start - before, 0), min(end - before, columns)):
                    for i in range(size):
                        value[i] = _number(block[column, i])
                    for head in range(group):
                        weight = weights[row, kind, head, before + column]
                        for i in range(size):
                            total[head, i] += weight * value[i]
            out[row, kind] = total

"""Attention on a CPU to keys and values where they lie.

PyTorch's attention takes keys and values of one dense tensor: those of a cache of blocks would be
copied for every layer of every token, those that rows share once for each row, and all rows as
long as the longest. Here each row reads its own blocks, and what rows share comes out of the
processor's caches from the second row on (docs/decisions/0017).

It is for rows of one new token, in float32 or bfloat16. Sums are in float32; a row's numbers do
not depend on the other rows.

Shapes: n rows, w blocks each, H heads of keys, g heads of queries for each of them.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numba.extending import overload

from butwait.engines.kv.attention import CannotSplitError

SHORT = 2**21
"""Multiplications of a kernel, some 0.2 ms: with fewer one thread is faster than several, to which
to hand them takes 0.06 ms."""

BITS = {torch.float32: torch.float32, torch.bfloat16: torch.int16}
"""What kernels read the numbers of a kind as: NumPy has no bfloat16. Other kinds are not read."""

SUMS = {"reassoc", "contract", "nsz"}
"""What the compiler may do to sums: take them in another order. What is no number stays none."""


class Rows(NamedTuple):
    """What rows read: ``blocks``, int64 (n, w), and in them the columns from ``first`` to
    ``last``, int64 (n,), at least one."""

    blocks: np.ndarray
    first: np.ndarray
    last: np.ndarray


def seen(mask: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last column that rows see, int64 (n,) each, by a layer's mask, bool
    (n, 1, 1, columns). Raises CannotSplitError where they do not see all between the two."""
    if mask.dtype != torch.bool or mask.shape[1:3] != (1, 1):
        raise CannotSplitError
    columns = mask[:, 0, 0].numpy()
    first, last = columns.argmax(1), columns.shape[1] - 1 - columns[:, ::-1].argmax(1)
    if (columns.sum(1) != last - first + 1).any():
        raise CannotSplitError
    return first, last


def attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, rows: Rows, scaling: float
) -> torch.Tensor:
    """float32 (n, 1, H g, size of a value): what ``sdpa`` gives for rows of one token.

    Args:
        query: (n, H g, 1, size of a key).
        keys, values: (H, blocks, columns of a block, size), of a kind in ``BITS``, contiguous.
        rows: what each of them reads.
        scaling: of the scores.
    """
    n, heads, _, size = query.shape
    kinds, _, columns, wide = values.shape
    asked = (query.reshape(n, kinds, heads // kinds, size).float() * scaling).contiguous()
    weights = torch.empty(n, kinds, heads // kinds, rows.blocks.shape[1] * columns)
    _over_rows("scores", asked, keys, rows, weights)
    weights = weights.softmax(-1)
    sums = torch.empty(n, kinds, heads // kinds, wide)
    _over_rows("sums", weights, values, rows, sums)
    return sums.view(n, 1, heads, wide)


def _over_rows(
    name: str, given: torch.Tensor, stored: torch.Tensor, rows: Rows, out: torch.Tensor
) -> None:
    """Runs a kernel, by parts of the rows that have about as many tokens in PyTorch's threads."""
    kernel = _kernels(stored.dtype)[name]
    arrays = given.numpy(), *rows, out.numpy()
    bits = stored.view(BITS[stored.dtype]).numpy()

    def run(part: slice) -> None:
        its, blocks, first, last, where = (array[part] for array in arrays)
        kernel(its, bits, blocks, first, last, where)

    read = np.cumsum(rows.last - rows.first + 1)
    work = int(read[-1]) * given.shape[1] * given.shape[2] * stored.shape[3]
    threads = min(torch.get_num_threads(), len(read)) if work >= SHORT else 1
    ends = np.searchsorted(read, read[-1] * np.arange(threads + 1) / threads, side="right")
    parts = [slice(a, b) for a, b in pairwise(ends)]
    if threads == 1:
        run(parts[0])
    else:
        list(_pool(threads).map(run, parts))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="attention")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a fork has no threads


@cache
def _kernels(dtype: torch.dtype) -> dict[str, Callable[..., None]]:
    stored = numba.int16 if BITS[dtype] == torch.int16 else numba.float32
    four, table = numba.float32[:, :, :, ::1], numba.int64[:, ::1]
    column = numba.int64[::1]
    types = (four, stored[:, :, :, ::1], table, column, column, four)
    return {kernel.__name__: _compiled(kernel, types) for kernel in (scores, sums)}


def _compiled(kernel: Callable[..., None], types: tuple[Any, ...]) -> Callable[..., None]:
    """A kernel as machine code, from numba's folder of what was compiled before."""

    def compiled(keep: bool) -> Any:
        wanted = numba.void(*types)
        options = {"nogil": True, "fastmath": SUMS, "error_model": "numpy"}
        return numba.njit(wanted, cache=keep, **options)(kernel)

    try:
        return compiled(keep=True)
    except Exception:  # no such folder can be made, it is full, or a file in it is broken
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
    """Products of queries (n, H, g, size) and keys, -inf where a column is not seen."""
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
    """Sums of values by weights (n, H, g, columns of a row)."""
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

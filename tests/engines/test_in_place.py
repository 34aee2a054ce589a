"""Attention on a CPU to keys and values where they lie."""

import copy
import os
import subprocess
import sys
from typing import Any

import llvmlite.binding.ffi as llvm
import numba
import numpy as np
import pytest
import torch
from greedy_tokens import greedy_tokens
from random_models import CONFIGURATIONS, VOCABULARY, model

from butwait.engines.cache import BlockCache
from butwait.engines.kv import in_place
from butwait.engines.kv.attention import CannotSplitError
from butwait.engines.kv.blocks import BLOCK, EMPTY
from butwait.engines.kv.in_place import Rows, attend
from butwait.engines.kv.passes import compiled_dtypes
from butwait.engines.slots import SlotModel

KINDS, GROUP, SIZE, WIDE = 2, 3, 24, 40


def tokens(seed: int, length: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, VOCABULARY, length).astype(np.int32)


def case(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Rows]:
    """Seven rows of 1 to 70 columns in shuffled blocks, some of which they share; values are wider
    than keys. What nobody sees is no number."""
    draw = torch.Generator().manual_seed(0)
    keys = torch.randn(KINDS, 40, BLOCK, SIZE, generator=draw)
    values = torch.randn(KINDS, 40, BLOCK, WIDE, generator=draw)
    query = torch.randn(7, KINDS * GROUP, 1, SIZE, generator=draw)
    table = np.full((7, 5), EMPTY, np.int64)
    last = np.array([0, 1, 15, 16, 40, 69, 33])
    first = np.minimum(last, [0, 1, 1, 1, 1, 17, 32])
    fresh = iter(np.random.default_rng(0).permutation(np.arange(2, 40)).tolist())
    for row, end in enumerate(last):
        table[row, : end // BLOCK + 1] = [next(fresh) for _ in range(end // BLOCK + 1)]
    table[4, :2] = table[5, :2]
    seen = np.zeros((40, BLOCK), bool)
    for blocks, start, end in zip(table, first, last, strict=True):
        for column in range(start, end + 1):
            seen[blocks[column // BLOCK], column % BLOCK] = True
    for store in (keys, values):
        store[:, torch.from_numpy(~seen)] = torch.nan
    return query.to(dtype), keys.to(dtype), values.to(dtype), Rows(table, first, last)


@pytest.mark.parametrize("dtype", in_place.READ_AS)
def test_rows_attend_to_what_they_see_of_their_blocks(dtype: torch.dtype) -> None:
    query, keys, values, rows = case(dtype)
    found = attend(query, keys, values, rows, 0.3)
    assert found.dtype == torch.float32
    assert found.shape == (7, 1, KINDS * GROUP, WIDE)
    for row, (blocks, start, end) in enumerate(zip(*rows, strict=True)):
        for head in range(KINDS * GROUP):
            k, v = (
                store[head // GROUP, blocks].flatten(0, 1)[start : end + 1].double()
                for store in (keys, values)
            )
            weights = (k @ query[row, head, 0].double() * 0.3).softmax(0)
            torch.testing.assert_close(
                found[row, 0, head].double(), weights @ v, atol=1e-5, rtol=1e-5
            )


def test_a_row_has_the_same_bits_alone_and_beside_others_on_any_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    query, keys, values, rows = case(torch.bfloat16)
    together = attend(query, keys, values, rows, 0.3)
    for row, last in enumerate(rows.last):
        its = rows.some([row])
        its = Rows(np.ascontiguousarray(its.blocks[:, : last // BLOCK + 1]), its.first, its.last)
        assert torch.equal(attend(query[[row]], keys, values, its, 0.3)[0], together[row])
    monkeypatch.setattr(in_place, "ALIKE", 1)
    assert torch.equal(attend(query, keys, values, rows, 0.3), together), "by their lengths"
    monkeypatch.setattr(in_place, "ALIKE", 256)
    monkeypatch.setattr(in_place, "MANY", 0)
    for threads in (2, 3, 9):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert torch.equal(attend(query, keys, values, rows, 0.3), together)
    assert in_place._pool.cache_info().currsize == 1


def test_what_rows_see_is_what_the_layers_mask_says() -> None:
    mask = torch.tensor([[0, 1, 1, 1, 0], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]]).bool()[:, None, None]
    blocks = np.zeros((3, 1), np.int64)
    _, first, last = in_place.rows_of(blocks, 5, mask)
    assert (first.tolist(), last.tolist()) == ([1, 4, 0], [3, 4, 4])
    gap = mask.clone()
    gap[2, 0, 0, 2] = False
    nothing = mask.clone()
    nothing[1] = False
    of_heads = mask.expand(-1, 2, -1, -1)
    for strange in (gap, nothing, mask.float(), of_heads, mask[:1], mask[..., :4], mask[..., 1:]):
        with pytest.raises(CannotSplitError):
            in_place.rows_of(blocks, 5, strange)


def test_the_default_dtype_of_other_work_is_nothing_to_it() -> None:
    query, keys, values, rows = case(torch.float32)
    expected = attend(query, keys, values, rows, 0.3)
    before = torch.get_default_dtype()
    for other in (torch.bfloat16, torch.float64):
        torch.set_default_dtype(other)
        try:
            assert torch.equal(attend(query, keys, values, rows, 0.3), expected)
        finally:
            torch.set_default_dtype(before)


def test_what_is_no_number_is_seen() -> None:
    query, keys, values, rows = case(torch.float32)
    keys[:, rows.blocks[2, 0], 3] = torch.nan
    values[:, rows.blocks[6, 2], 0] = torch.inf
    found = attend(query, keys, values, rows, 0.3)
    broken = [row for row in range(7) if not found[row].isfinite().all()]
    assert broken == [2, 6]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_tokens_are_run_in_place_where_that_is_the_models_attention(
    kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[int] = []
    read = BlockCache._read
    monkeypatch.setattr(
        BlockCache, "_read", lambda cache, heads: copied.append(heads) or read(cache, heads)
    )
    its = model(kind, dtype)
    slots = SlotModel(its, 4)
    path, other = tokens(0, 40), tokens(1, 5)
    first, second = slots.acquire(), slots.acquire()
    slots.prefill([(first, 0, path), (second, 0, other)])
    fork = slots.fork(first, 33)
    copied.clear()
    new = tokens(2, 3)
    taken = np.array([first, fork, second])
    out = slots.decode(taken, slots.lengths[taken], new)
    assert bool(copied) == ("eager" in kind or dtype not in in_place.READ_AS)
    exact = copy.deepcopy(its).double()
    for given, before, token in zip(out, (path, path[:33], other), new, strict=True):
        with torch.inference_mode():
            ids = torch.from_numpy(np.append(before, token))[None].long()
            expected = exact(ids).logits[0, -1]
            plain = its(ids).logits[0, -1]
        off, usual = ((logits.double() - expected).norm() for logits in (given, plain))
        if dtype == torch.bfloat16:
            assert off < 1.5 * usual
        else:
            assert off < 1e-4 * (expected - expected.mean()).norm()


@pytest.fixture
def attended(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """Dtypes of the queries of layers that attended in place."""
    found: list[torch.dtype] = []
    monkeypatch.setattr(
        in_place, "attend", lambda query, *given: found.append(query.dtype) or attend(query, *given)
    )
    return found


@pytest.mark.parametrize("made_inside", [True, False])
def test_a_trainers_autocast_gets_what_its_products_give(
    made_inside: bool, attended: list[torch.dtype]
) -> None:
    """float32 weights, bfloat16 arithmetic: the next product takes half precision."""
    its = copy.deepcopy(model())
    kinds: list[torch.dtype] = []
    its.model.layers[0].self_attn.o_proj.register_forward_pre_hook(
        lambda _, given: kinds.append(given[0].dtype)
    )
    exact = decoded(SlotModel(its, 1))
    with torch.autocast("cpu", torch.bfloat16, enabled=made_inside):
        slots = SlotModel(its, 1)
    attended.clear()
    with torch.autocast("cpu", torch.bfloat16):
        half = decoded(slots)
    assert len(attended) == 3, "a layer each"
    assert kinds[-1] == torch.bfloat16
    assert 1e-4 < (half - exact).norm() / exact.norm() < 0.1


def decoded(slots: SlotModel) -> torch.Tensor:
    """float64 (V,), logits behind 20 tokens and another."""
    slots.prefill([(slots.acquire(), 0, tokens(0, 20))])
    return slots.decode(np.array([0]), np.array([20]), tokens(1, 1))[0].double()


def test_a_layer_that_turns_out_to_be_strange_gets_copies(
    attended: list[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = decoded(SlotModel(model(), 1))
    assert attended
    slots = SlotModel(model(), 1)
    monkeypatch.setattr(in_place, "rows_of", strange)
    assert torch.allclose(decoded(slots), expected, atol=1e-5)
    assert not slots._attention.splits


def test_keys_of_another_dtype_than_the_weights_get_copies() -> None:
    expected = decoded(SlotModel(model(), 1))
    with torch.autocast("cpu", torch.float16):
        slots = SlotModel(model(), 1)
        assert not slots._attention.splits
        assert (decoded(slots) - expected).norm() < 0.1 * expected.norm()


def strange(*given: Any) -> Rows:
    raise CannotSplitError


def test_a_kernel_that_cannot_be_compiled_is_not_used(
    attended: list[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = decoded(SlotModel(model(), 1))
    monkeypatch.setattr(in_place, "_compiled", strange)
    slots = SlotModel(model(), 1)
    assert not slots._attention.splits
    assert torch.allclose(decoded(slots), expected, atol=1e-5)


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), EOFError()])
def test_kernels_are_compiled_where_no_folder_can_keep_them(
    fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[bool] = []
    njit = numba.njit

    def no_room(*given: Any, cache: bool, **further: Any) -> Any:
        tried.append(cache)
        if cache:
            raise fault
        return njit(*given, cache=cache, **further)

    monkeypatch.setattr(numba, "njit", no_room)
    in_place._compiled.cache_clear()
    query, keys, values, rows = case(torch.float32)
    expected = attend(query, keys, values, rows, 0.3)
    in_place._compiled.cache_clear()
    assert tried == [True, False] * 2
    monkeypatch.undo()
    assert torch.equal(attend(query, keys, values, rows, 0.3), expected)


def test_what_looks_at_all_modules_finds_no_dictionary_of_numbas_library() -> None:
    """As vLLM's CPU build does."""
    assert not hasattr(llvm.lib, "__dict__")
    assert callable(llvm.lib.LLVMPY_GetVersionInfo)


def test_a_fork_has_threads_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_place, "MANY", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    query, keys, values, rows = case(torch.float32)
    expected = attend(query, keys, values, rows, 0.3)
    before = in_place._pool()
    child = os.fork()
    if child == 0:
        same = torch.equal(attend(query, keys, values, rows, 0.3), expected)
        os._exit(0 if same and in_place._pool() is not before else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert in_place._pool() is before


WITHOUT_NUMBA = """
import logging, sys
sys.modules["numba"] = None
sys.path.insert(0, sys.argv[1])
logging.basicConfig(level=logging.DEBUG, format="%(name)s %(levelname)s %(message)s")
from greedy_tokens import greedy_tokens
from butwait.engines.kv.passes import compiled_dtypes
print(list(compiled_dtypes()), greedy_tokens())
"""


def test_without_numba_the_same_tokens_come_by_copies() -> None:
    command = [sys.executable, "-c", WITHOUT_NUMBA, os.path.dirname(__file__)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = [line for line in done.stderr.splitlines() if "numba cannot be used" in line]
    assert len(told) == 1
    assert told[0].startswith("butwait.engines.kv.passes DEBUG keys and values are copied on a CPU")
    tokens = greedy_tokens()
    assert max(map(len, tokens)) == 24
    assert done.stdout == f"[] {tokens}\n"
    assert set(compiled_dtypes()) == {torch.float32, torch.bfloat16}

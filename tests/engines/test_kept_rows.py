"""Rows that stay put together while they are decoded: the numbers of rows that are gathered."""

from typing import Any

import numpy as np
import pytest
import torch
from random_models import VOCABULARY, model

from butwait.engines import slots as slots_module
from butwait.engines.kv import rows as rows_module
from butwait.engines.kv.blocks import BLOCK
from butwait.engines.kv.rows import OVER_HELD, KeptRows
from butwait.engines.slots import SlotModel

PLENTY = 10**6


def slots_of(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int64)


class TestPlan:
    """Of rows in slots 0, 1, ..., with two blocks each."""

    def plan(self, kept: KeptRows, slots: list[int], start: int, held: int = PLENTY) -> Any:
        of_each = np.full(len(slots), start)
        found = kept.plan(np.array(slots), of_each, held, np.zeros(len(slots), np.int64), 2)
        return None if found is None else found.missing.tolist()

    def test_who_goes_on_is_there_and_the_others_are_gathered(self) -> None:
        kept = KeptRows(8, 1)
        assert self.plan(kept, [0, 1, 2, 3], 5) is None, "it may be their only pass"
        assert self.plan(kept, [0, 1, 2, 3], 6) == [0, 1, 2, 3]
        assert self.plan(kept, [0, 1, 2, 3], 7) == []
        assert self.plan(kept, [0, 3, 2], 8) == [1], "the last one took the place of another"
        kept.change(2)
        assert self.plan(kept, [0, 3, 2], 9) == [2], "something else was run in its slot"
        assert self.plan(kept, [0, 3, 2], 9) == [], "a token again"
        assert self.plan(kept, [0, 3, 2], 11) is None, "there is a token that was run elsewhere"

    def test_other_blocks_that_are_read_for_many_rows_are_another_row(self) -> None:
        kept, of_each = KeptRows(2, 1), np.array([40, 40])
        for before, missing in (([0, 0], None), ([0, 0], [0, 1]), ([0, 1], [1]), ([0, 1], [])):
            found = kept.plan(slots_of(2), of_each, PLENTY, np.array(before), 3)
            assert (None if found is None else found.missing.tolist()) == missing

    def test_no_more_is_kept_than_a_multiple_of_what_is_held(self) -> None:
        kept = KeptRows(8, 1)
        held = 4 * 3 * BLOCK // OVER_HELD
        for start in (5, 6, 7):
            self.plan(kept, [0, 1, 2, 3], start, held)
        assert kept.tokens == 4 * 3 * BLOCK == OVER_HELD * held
        assert self.plan(kept, [0, 1, 2, 3], 8, held // 2) is None
        assert kept.tokens == 0

    def test_nor_more_bytes_than_a_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rows_module, "MOST_BYTES", 4 * 3 * BLOCK * 100)
        for token_bytes, tokens in ((100, 4 * 3 * BLOCK), (101, 0)):
            kept = KeptRows(8, token_bytes)
            for start in (5, 6):
                self.plan(kept, [0, 1, 2, 3], start)
            assert kept.tokens == tokens


@pytest.mark.parametrize(
    ("kind", "shared"), [("llama", False), ("llama", True), ("gemma3, full and window of 8", False)]
)
def test_kept_rows_give_the_bits_of_gathered_ones(
    kind: str, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are decoded, join, leave, change places, fork, start again, and are used for
    something else in between."""
    monkeypatch.setattr(rows_module, "OVER_HELD", 100)
    monkeypatch.setattr(slots_module, "LEAST", 2 if shared else 10**6)

    def outputs(keeps: bool) -> tuple[list[torch.Tensor], int]:
        slots, generator = SlotModel(model(kind), 12), np.random.default_rng(0)
        slots._keeps = keeps
        base = generator.integers(1, VOCABULARY, 40)
        live, made, most = [slots.acquire()], [], 0
        slots.prefill([(live[0], 0, base)])
        live += [slots.fork(live[0], 40) for _ in range(5)]
        for step in range(22):
            what = step % 10
            if what == 3 and slots.free:
                live.append(slots.fork(live[0], int(slots.lengths[live[0]]) - 2))
            elif what == 5:
                slots.release(live.pop(1))
                live.append(slots.acquire())
                slots.prefill([(live[-1], 0, base[: 20 + step // 4])])
            elif what == 7:
                live[1], live[2] = live[2], live[1]
                slots.cut(live[3], int(slots.lengths[live[3]]) - 3)
            elif what == 9:
                slots.prefill([(live[2], int(slots.lengths[live[2]]), base[:2])])
            taken = np.array(live)
            tokens = generator.integers(1, VOCABULARY, len(live))
            made.append(slots.decode(taken, slots.lengths[taken], tokens))
            most = max(most, slots._kept.tokens)
        assert slots.allocated_tokens == BLOCK * slots._cache.size + slots._kept.tokens
        return made, most

    (kept, room), (gathered, none) = outputs(True), outputs(False)
    assert room > 0
    assert none == 0
    for ours, theirs in zip(kept, gathered, strict=True):
        assert torch.equal(ours, theirs)


def test_the_tensors_go_with_the_room() -> None:
    slots = SlotModel(model(), 4)
    taken = np.array([slots.acquire() for _ in range(4)])
    slots.prefill([(slot, 0, np.arange(1, 30)) for slot in taken.tolist()])
    for _ in range(3):
        slots.decode(taken, slots.lengths[taken], np.arange(1, 5))
    assert slots._kept.tokens > 0
    assert all(len(layer) == 2 for layer in slots._cache._rows)
    for slot in taken[1:].tolist():
        slots.release(slot)
    slots._kept._most = 0
    slots.decode(taken[:1], slots.lengths[taken[:1]], np.array([1]))
    assert slots._kept.tokens == 0
    assert not any(slots._cache._rows)


def test_the_fixed_shapes_of_deterministic_mode_keep_nothing() -> None:
    slots = SlotModel(model(), 2, capacity=64, deterministic=True)
    taken = np.array([slots.acquire(), slots.acquire()])
    slots.prefill([(slot, 0, np.arange(1, 30)) for slot in taken.tolist()])
    for _ in range(3):
        slots.decode(taken, slots.lengths[taken], np.arange(1, 3))
    assert slots._kept.tokens == 0

"""The cache of slots, against full forward passes of the same model."""

from typing import Any

import numpy as np
import pytest
import torch
from random_models import COMMON, CONFIGURATIONS, VOCABULARY, model
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    Phi3Config,
    Qwen2Config,
    Qwen2ForTokenClassification,
)

from butwait.engines.batching import SlotPool
from butwait.engines.slots import NoFreeSlotError, SlotModel
from butwait.records import UserError


def full(a_model: Any, token_ids: np.ndarray) -> torch.Tensor:
    """float32 (n, V): outputs of one ordinary forward pass."""
    with torch.inference_mode():
        return a_model(torch.from_numpy(token_ids)[None]).logits[0].float()


def random_tokens(seed: int, *lengths: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.integers(1, VOCABULARY, n) for n in lengths]


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_outputs_are_those_of_a_full_forward_pass(kind: str, deterministic: bool) -> None:
    """Ragged rows in chunks, a fork, a row cut back and a slot used again."""
    exact = model(kind, torch.float64)  # in float32 some processors round more than others
    slots = SlotModel(exact, 6, 64, deterministic, prefill_chunk=7)
    texts = random_tokens(0, 30, 11, 25, 1)
    taken = [slots.acquire() for _ in texts]
    rows = [(slot, 0, text) for slot, text in zip(taken, texts, strict=True)]
    for text, out in zip(texts, slots.run(rows, "all"), strict=True):
        assert torch.allclose(out, full(exact, text), atol=1e-5)

    fork = slots.fork(taken[2], 20)
    slots.release(taken[1])
    again = slots.acquire()
    new = random_tokens(1, 9, 2, 4)
    out = slots.run([(fork, 20, new[0]), (taken[0], 10, new[1]), (again, 0, new[2])], "last")
    paths = [np.r_[texts[2][:20], new[0]], np.r_[texts[0][:10], new[1]], new[2]]
    for path, row in zip(paths, out, strict=True):
        assert torch.allclose(row, full(exact, path)[-1], atol=1e-5)
    assert slots.lengths[[fork, taken[0], again]].tolist() == [29, 12, 4]


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_model_with_a_score_head(deterministic: bool) -> None:
    torch.manual_seed(0)
    scorer = Qwen2ForTokenClassification(Qwen2Config(**COMMON, num_labels=2)).eval()
    slots = SlotModel(scorer, 3, 32, deterministic, prefill_chunk=4)
    texts = random_tokens(2, 9, 3)
    rows = [(slots.acquire(), 0, text) for text in texts]
    out = slots.run(rows, "last")
    expected = torch.stack([full(scorer, text)[-1] for text in texts])
    assert out.shape == (2, 2)
    assert torch.allclose(out, expected, atol=1e-5)


def test_rows_far_apart_are_brought_together() -> None:
    """The rows of a batch lie anywhere; whoever is moved for them keeps its content."""
    exact = model(dtype=torch.float64)
    slots = SlotModel(exact, 8)
    texts = random_tokens(3, *range(5, 13))
    taken = [slots.acquire() for _ in texts]
    slots.prefill([(slot, 0, text) for slot, text in zip(taken, texts, strict=True)])
    generator = np.random.default_rng(4)
    for _ in range(12):
        chosen = generator.permutation(8)[: generator.integers(1, 9)]
        new = generator.integers(1, VOCABULARY, len(chosen))
        ends = np.array([len(texts[i]) for i in chosen])
        out = slots.decode(np.array(taken)[chosen], ends, new)
        for i, token, row in zip(chosen, new, out, strict=True):
            texts[i] = np.append(texts[i], token)
            assert torch.allclose(row, full(exact, texts[i])[-1], atol=1e-5)


@pytest.mark.parametrize(
    ("threads", "dtype"),
    [
        (1, torch.float32),
        (1, torch.bfloat16),
        # Threads spin while they wait for a core, so on a busy machine this takes half a minute.
        pytest.param(2, torch.float32, marks=pytest.mark.slow),
    ],
)
def test_bits_do_not_depend_on_company_or_place_in_deterministic_mode(
    threads: int, dtype: torch.dtype
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        alone, crowded = (
            SlotModel(model("llama", dtype), 64, 96, True, prefill_chunk=16) for _ in range(2)
        )
        path, *others = random_tokens(5, 60, *[10 + i for i in range(63)])
        first = alone.acquire()
        companions = [(crowded.acquire(), 0, other) for other in others]
        last = crowded.acquire()
        assert first != last
        a = alone.run([(first, 0, path[:33])], "all")[0]
        crowded.prefill(companions[:20])
        b = crowded.run([*companions[20:], (last, 0, path[:33])], "all")[-1]
        assert torch.equal(a, b)
        for n in range(33, 60):
            a = alone.decode(np.array([first]), np.array([n]), path[n : n + 1])
            rows = [last, *(slot for slot, _, _ in companions[: n % 5])]
            ends = crowded.lengths[rows]
            b = crowded.decode(np.array(rows), ends, np.r_[path[n], np.full(n % 5, 7)])
            assert torch.equal(a[0], b[0])
    finally:
        torch.set_num_threads(before)


def test_the_cache_grows_up_to_the_models_context() -> None:
    slots = SlotModel(model(), 2)
    assert slots.capacity == COMMON["max_position_embeddings"]
    text = random_tokens(6, 300)[0]
    slot = slots.acquire()
    slots.prefill([(slot, 0, text[:40])])
    out = slots.run([(slot, 40, text[40:])], "last")
    assert torch.allclose(out[0], full(model(), text)[-1], atol=1e-4, rtol=1e-4)


def test_misuse_is_refused() -> None:
    slots = SlotModel(model(), 1, 8)
    slot = slots.acquire()
    with pytest.raises(NoFreeSlotError, match="all 1 slots are taken"):
        slots.acquire()
    with pytest.raises(ValueError, match="more than 8 tokens"):
        slots.run([(slot, 0, range(1, 10))], "last")
    with pytest.raises(ValueError, match="after the end"):
        slots.run([(slot, 1, [3])], "last")
    with pytest.raises(ValueError, match="holds 0 tokens, not 1"):
        slots.fork(slot, 1)
    slots.release(slot)
    with pytest.raises(ValueError, match="free already"):
        slots.release(slot)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MambaConfig(vocab_size=32, hidden_size=32, num_hidden_layers=1), "mamba.*a state instead"),
        (Llama4TextConfig(**COMMON), "llama4_text.*chunked attention"),
    ],
)
def test_models_without_a_cache_of_keys_are_refused(config: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SlotModel(AutoModelForCausalLM.from_config(config), 2)


def test_a_model_that_needs_one_length_for_all_rows_is_refused() -> None:
    bloom = BloomConfig(vocab_size=32, hidden_size=32, n_layer=1, n_head=2)
    with pytest.raises(UserError, match="rows of the engine's cache have different lengths"):
        SlotModel(AutoModelForCausalLM.from_config(bloom).eval(), 2, 16)


def test_attention_that_takes_no_mask_is_refused() -> None:
    flex = AutoModelForCausalLM.from_config(LlamaConfig(**COMMON))
    flex.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UserError, match="attn_implementation='sdpa'"):
        SlotModel(flex, 2)


def test_rotary_factors_that_change_with_length_limit_the_context() -> None:
    longrope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 64,
        "short_factor": [1.0] * 8,
        "long_factor": [2.0] * 8,
    }
    config = Phi3Config(**COMMON, rope_parameters=longrope, original_max_position_embeddings=64)
    assert SlotModel(AutoModelForCausalLM.from_config(config), 2).capacity == 64


def test_deterministic_mode_asks_for_the_capacity_of_a_long_context() -> None:
    config = LlamaConfig(**COMMON | {"max_position_embeddings": 131_072})
    long = AutoModelForCausalLM.from_config(config)
    with pytest.raises(UserError, match=r"131072 tokens: set engine\.capacity"):
        SlotModel(long, 2, deterministic=True)
    assert SlotModel(long, 2, 100, deterministic=True).capacity == 100


class TestPool:
    """Who keeps a slot, who copies, and who has to go."""

    def parked(self, pool: SlotPool, slots: SlotModel, length: int) -> Any:
        tenant = pool.take(None)
        assert tenant is not None
        slots.prefill([(tenant.slot, 0, list(range(1, length + 1)))])
        handle = pool.share(tenant, length)
        pool.leave(tenant)
        return handle

    def test_the_tip_is_taken_over_and_the_rest_copied(self) -> None:
        slots = SlotModel(model(), 3, 16)
        pool = SlotPool(slots)
        handle = self.parked(pool, slots, 5)
        first, second = pool.take(handle), pool.take(handle)
        assert first is handle.tenant
        assert second is not None
        assert second is not first
        assert slots.lengths[second.slot] == 5
        assert pool.alive(handle)

    def test_a_slot_is_free_when_its_last_handle_is_released(self) -> None:
        slots = SlotModel(model(), 1, 16)
        pool = SlotPool(slots)
        handle = self.parked(pool, slots, 5)
        other = pool.share(handle.tenant, 3)
        for _ in range(2):
            pool.release(handle)
        assert (slots.free, pool.alive(handle), pool.alive(other)) == (0, False, True)
        pool.release(other)
        assert slots.free == 1

    def test_the_longest_unused_goes_first_and_kept_ones_last(self) -> None:
        slots = SlotModel(model(), 3, 16)
        pool = SlotPool(slots)
        a, b, c = (self.parked(pool, slots, 5) for _ in range(3))
        assert pool.take(None, evict=False) is None
        assert pool.take(None, keep=[a]) is not None
        assert [pool.alive(h) for h in (a, b, c)] == [True, False, True]
        assert pool.lost == 1

    def test_busy_slots_are_never_taken(self) -> None:
        slots = SlotModel(model(), 1, 16)
        pool = SlotPool(slots)
        handle = self.parked(pool, slots, 5)
        assert pool.take(handle) is handle.tenant
        assert pool.take(None) is None
        assert pool.take(handle) is None

    def test_with_a_single_slot_the_longer_path_is_given_up(self) -> None:
        slots = SlotModel(model(), 1, 16)
        pool = SlotPool(slots)
        long = self.parked(pool, slots, 9)
        short = pool.share(long.tenant, 4)
        assert pool.take(short, evict=False) is None
        assert pool.take(short) is short.tenant
        assert (pool.alive(short), pool.alive(long), pool.lost) == (True, False, 1)


def test_a_full_device_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    slots = SlotModel(model(), 4)

    def full_device(*arguments: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(slots.model, "forward", full_device)
    with pytest.raises(UserError, match="ran out of memory with 1 paths of up to 3 tokens"):
        slots.run([(slots.acquire(), 0, [1, 2, 3])], "all")

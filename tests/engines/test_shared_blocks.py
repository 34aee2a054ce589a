"""Keys and values that paths have in common: there once, run once, and read once."""

import asyncio
from typing import Any

import numpy as np
import pytest
import torch
from engine_contract import KEY, whole
from random_models import CONFIGURATIONS, VOCABULARY, model, tokenizer

from butwait.engines import slots as slots_module
from butwait.engines.checkpoints import trial
from butwait.engines.engine import Prefix
from butwait.engines.kinds.transformers import TransformersSettings
from butwait.engines.kv import attention
from butwait.engines.kv.attention import Family, families, own_blocks, together, two_parts
from butwait.engines.kv.blocks import BLOCK, EMPTY, BlockTable
from butwait.engines.kv.prefixes import ROOTS, SharedPrefixes
from butwait.engines.settings import Sampling
from butwait.engines.slots import SlotModel
from butwait.engines.transformers import TransformersEngine
from butwait.problems.settings import PromptSettings


def tokens(seed: int, length: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, VOCABULARY, length).astype(np.int32)


def row(table: BlockTable, slot: int, length: int) -> list[int]:
    return table.view(np.array([slot]), length)[0].tolist()


def write(table: BlockTable, slot: int, start: int, count: int) -> list[tuple[int, int]]:
    sources, targets = table.make_room(*(np.array([n]) for n in (slot, start, count)))
    return list(zip(sources.tolist(), targets.tolist(), strict=True))


class TestTable:
    """Blocks of 16 columns, of which a row's first is no token's."""

    def test_a_fork_copies_the_block_that_it_writes_to_and_no_other(self) -> None:
        table = BlockTable(3)
        assert write(table, 0, 0, 40) == []
        assert row(table, 0, 40) == [2, 3, 4]
        table.place(1, table.hold(0, 40))
        table.place(2, table.hold(0, 20))
        assert table.held == 3
        assert write(table, 1, 40, 1) == [(4, 5)]
        assert write(table, 2, 20, 1) == [(3, 6)]
        assert row(table, 1, 41) == [2, 3, 5]
        assert row(table, 2, 21) == [2, 6]
        assert write(table, 0, 40, 1) == [], "nobody else reads its last block any more"

    def test_a_block_goes_with_who_held_it_last_and_is_used_again(self) -> None:
        table = BlockTable(2)
        write(table, 0, 0, 40)
        root = table.hold(0, 15)
        table.cut(0, 0)
        assert (table.held, row(table, 0, 1)) == (1, [EMPTY])
        write(table, 1, 0, 31)
        assert (table.size, table.held) == (5, 3)
        table.drop(root)
        table.cut(1, 0)
        assert table.held == 0

    def test_who_starts_again_earlier_gives_up_what_lay_behind(self) -> None:
        table = BlockTable(2)
        write(table, 0, 0, 60)
        table.place(1, table.hold(0, 60))
        assert write(table, 0, 20, 2) == [(3, 6)]
        assert (row(table, 0, 22), table.held) == ([2, 6], 5)
        table.cut(1, 10)
        assert (row(table, 1, 10), table.held) == ([2], 2)

    def test_rows_of_one_pass_are_written_as_one_after_another(self) -> None:
        """Whatever was forked, cut back and dropped before: every slot reads what it wrote."""
        rng, size = np.random.default_rng(0), 12
        table, cache = BlockTable(size), np.full((4000, BLOCK), -1)
        texts: list[list[int]] = [[] for _ in range(size)]
        kept: list[tuple[np.ndarray, list[int]]] = []
        for turn in range(120):
            for slot in rng.permutation(size)[:4].tolist():
                other, length = int(rng.integers(size)), len(texts[slot])
                if rng.random() < 0.5:
                    table.cut(slot, cut := int(rng.integers(length + 1)))
                    texts[slot] = texts[slot][:cut]
                elif other != slot:
                    table.cut(slot, 0)
                    end = int(rng.integers(len(texts[other]) + 1))
                    table.place(slot, table.hold(other, end))
                    texts[slot] = texts[other][:end]
            if turn % 3 == 0:
                kept.append((table.hold(0, len(texts[0])), texts[0][:]))
            if len(kept) > 5:
                table.drop(kept.pop(0)[0])
            slots = rng.permutation(size)[: rng.integers(1, size)]
            starts = np.array([rng.integers(len(texts[slot]) + 1) for slot in slots])
            counts = rng.integers(1, 40, len(slots))
            sources, targets = table.make_room(slots, starts, counts)
            cache[targets] = cache[sources]
            for slot, start, count in zip(slots, starts, counts, strict=True):
                new = rng.integers(0, 1000, count).tolist()
                texts[slot] = [*texts[slot][:start], *new]
                blocks = table.view(np.array([slot]), len(texts[slot]))[0]
                for at, token in enumerate(new, start=int(start) + 1):
                    cache[blocks[at // BLOCK], at % BLOCK] = token
            held = [table.view(np.array([i]), len(text))[0] for i, text in enumerate(texts)]
            for blocks, text in [*zip(held, texts, strict=True), *kept]:
                assert cache[blocks].reshape(-1)[1 : len(text) + 1].tolist() == text
            used = np.concatenate([*held, *(blocks for blocks, _ in kept)])
            assert table.held == len(set(used.tolist()))


def test_families_are_those_that_save_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "WORTH", 0.25)
    table = np.array([[2, 3, 4, 9], [2, 3, 5, 0], [7, 8, 6, 0], [2, 3, 4, 10], [7, 8, 11, 12]])
    found = families(table, 2)
    as_lists = sorted((f.rows.tolist(), f.blocks.tolist()) for f in found)
    assert as_lists == [([0, 1, 3], [2, 3]), ([2, 4], [7, 8])]
    own, before = own_blocks(table, [Family(np.array([0, 1, 3]), np.array([2, 3]))])
    assert own.tolist() == [[4, 9, 0, 0], [5, 0, 0, 0], [7, 8, 6, 0], [4, 10, 0, 0], [7, 8, 11, 12]]
    assert before.tolist() == [2, 2, 0, 2, 0]
    [family] = families(table[:4], 3)
    assert (family.rows.tolist(), family.blocks.tolist()) == ([0, 1, 3], [2, 3])
    assert families(table, 7) == families(table[:1], 1) == []
    assert families(np.array([[2, 3], [4, 5]]), 0) == []


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_what_rows_share_is_read_once_and_gives_the_same_numbers(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots_module, "LEAST", 2)
    monkeypatch.setattr(attention, "WORTH", 0.1)
    passes = []
    monkeypatch.setattr(
        attention, "two_parts", lambda *given: passes.append(len(given[4])) or two_parts(*given)
    )
    exact = model(kind, torch.float64)
    slots = SlotModel(exact, 8)
    assert slots._attention.splits == ("window" not in kind and "eager" not in kind)
    base, other = tokens(0, 70), tokens(1, 30)
    first, second = slots.acquire(), slots.acquire()
    slots.prefill([(first, 0, base), (second, 0, other)])
    taken = [first, *(slots.fork(first, n) for n in (70, 50, 33)), second, slots.fork(second, 20)]
    paths = [base, base, base[:50], base[:33], other, other[:20]]
    for step in range(3):
        new = tokens(2 + step, len(taken))
        out = slots.decode(np.array(taken), slots.lengths[taken], new)
        paths = [np.append(path, token) for path, token in zip(paths, new, strict=True)]
    for path, given in zip(paths, out, strict=True):
        with torch.inference_mode():
            expected = exact(torch.from_numpy(path)[None].long()).logits[0, -1]
        assert torch.allclose(given.double(), expected, atol=1e-5)
    assert bool(passes) == slots._attention.splits


def test_families_of_about_the_same_size_are_run_together() -> None:
    shared = [
        Family(np.array(rows), np.array([2 + i, 9]))
        for i, rows in enumerate(([0, 5], [1, 2, 3], [4, 6], list(range(7, 20))))
    ]
    large, small = together(shared, torch.device("cpu"))
    assert large.rows.tolist() == large.owners.tolist() == list(range(7, 20))
    assert large.blocks.tolist() == [[5, 9]]
    assert small.blocks.tolist() == [[3, 9], [2, 9], [4, 9]]
    assert small.rows.tolist() == [1, 2, 3, 0, 5, 5, 4, 6, 6], "padded with the last one"
    assert small.real.tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert small.owners.tolist() == [1, 2, 3, 0, 5, 4, 6]


def test_parts_put_together_are_the_whole() -> None:
    """Against attention written down: families of 3 and 2 rows, and a row of none."""
    n, kinds, group, size, common, own = 6, 2, 3, 8, 5, 4
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    query = random(n, kinds * group, 1, size)
    keys, values = random(n, kinds, own, size), random(n, kinds, own, size)
    mask = torch.rand(n, 1, 1, own, generator=draw) < 0.6
    mask[..., 0] = True
    shared = [Family(np.array([0, 2, 5]), np.array([2])), Family(np.array([1, 4]), np.array([3]))]
    [both] = together(shared, torch.device("cpu"))
    begun = random(2, kinds, common, size), random(2, kinds, common, size)
    found = two_parts(query, keys, values, mask, [(both, *begun)], 0.3)
    for row in range(n):
        [family] = [i for i, f in enumerate(shared) if row in f.rows] or [None]
        before = [] if family is None else [part[family] for part in begun]
        seen = mask[row, 0, 0]
        for head in range(kinds * group):
            kind = head // group
            k, v = (part[row, kind][seen] for part in (keys, values))
            if before:
                k = torch.cat([before[0][kind], k])
                v = torch.cat([before[1][kind], v])
            weights = (k @ query[row, head, 0] * 0.3).softmax(0)
            assert torch.allclose(found[row, 0, head], weights @ v, atol=1e-5)


def test_attention_that_is_not_the_usual_one_is_left_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a_model = model()
    kinds = SlotModel(a_model, 2)._attention
    assert trial.can_split(a_model, kinds)
    monkeypatch.setattr(attention, "HARMLESS", frozenset())
    assert not trial.can_split(a_model, kinds)


def engine(**settings: Any) -> TransformersEngine:
    chosen = TransformersSettings(**{"slots": 24, "prefill_chunk": 8} | settings)
    prompt = PromptSettings(style="plain", template="{question}")
    return TransformersEngine(model(), tokenizer(), chosen, prompt)


def few_shot(count: int) -> list[Prefix]:
    """Questions of 11 tokens behind 50 that are common."""
    paths = [np.concatenate([tokens(0, 50), tokens(1 + i, 11)]) for i in range(count)]
    return [Prefix(token_ids=path, prompt_length=len(path)) for path in paths]


async def asked(an_engine: TransformersEngine, paths: list[Prefix], together: bool) -> list[Any]:
    async def one(i: int) -> Any:
        keys = [KEY.at(particle=2 * i + j) for j in range(2)]
        return await an_engine.extend([paths[i]] * 2, whole(5), Sampling(), keys)

    if together:
        return await asyncio.gather(*map(one, range(len(paths))))
    return [await one(i) for i in range(len(paths))]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("deterministic", [True, False])
def test_what_questions_begin_with_is_run_once_and_counted_each_time(
    together: bool, deterministic: bool
) -> None:
    an_engine = engine(deterministic=deterministic, capacity=96)
    paths = few_shot(4)
    steps = asyncio.run(asked(an_engine, paths, together))
    # Deterministic mode shares whole chunks of 8.
    assert an_engine.shared_tokens == 3 * (48 if deterministic else 50)
    assert an_engine.counters.prefilled_tokens == 4 * 61
    alone = engine(deterministic=deterministic, capacity=96)
    keys = [KEY.at(particle=6), KEY.at(particle=7)]
    expected = asyncio.run(alone.extend([paths[3]] * 2, whole(5), Sampling(), keys))
    assert alone.shared_tokens == 0
    for a, b in zip(steps[3], expected, strict=True):
        assert a.token_ids.tolist() == b.token_ids.tolist()
        if deterministic:
            assert a.logprobs.tobytes() == b.logprobs.tobytes()
        else:
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)
    assert an_engine._slots.free == 24


@pytest.mark.parametrize("kinds", [[1] * 8, [1] * 7 + [2], [1, 2] * 4], ids=str)
def test_each_few_shot_prompt_behind_a_system_prompt_is_run_once(kinds: list[int]) -> None:
    """20 tokens that all begin with, 100 of a kind, 10 of a question."""
    slots, run = SlotModel(model(), 8, 200), list[int]()
    forward = slots._forward

    def counted(ids: Any, starts: Any, paths: Any, counts: np.ndarray, *more: Any) -> Any:
        run.append(int(counts.sum()))
        return forward(ids, starts, paths, counts, *more)

    slots._forward = counted  # type: ignore[method-assign]
    parts = [(tokens(0, 20), tokens(kind, 100), tokens(9 + i, 10)) for i, kind in enumerate(kinds)]
    taken = [slots.acquire() for _ in kinds]
    prefixes = SharedPrefixes(slots)
    prefixes.prefill(taken, [np.concatenate(each) for each in parts])
    # A prompt that is alone of its kind goes on from the other kind's 20 tokens.
    assert sum(run) == 20 + 100 * len(set(kinds)) + 8 * 10
    assert prefixes.saved_tokens == 8 * 130 - sum(run)


def test_beginnings_that_no_path_goes_on_from_make_room() -> None:
    slots = SlotModel(model(), 8, 200)
    prefixes, taken = SharedPrefixes(slots), [slots.acquire() for _ in range(3)]
    prefixes.prefill(taken, [tokens(i, 40) for i in range(3)])
    for slot in taken[1:]:
        slots.release(slot)
    assert slots.held_tokens == 3 * 3 * BLOCK
    prefixes.trim(8 * BLOCK)
    assert slots.held_tokens == 2 * 3 * BLOCK  # the one longest unused that is free
    prefixes.trim(0)
    assert slots.held_tokens == 3 * BLOCK
    again = slots.acquire()
    prefixes.prefill([again], [tokens(0, 40)])
    assert prefixes.saved_tokens == 40


def test_few_beginnings_are_kept_and_none_after_the_end() -> None:
    an_engine = engine()
    paths = [Prefix(token_ids=tokens(i, 40), prompt_length=40) for i in range(ROOTS + 3)]
    asyncio.run(asked(an_engine, paths, together=False))
    assert an_engine.shared_tokens == 0
    assert an_engine._slots.held_tokens == ROOTS * 3 * BLOCK
    asyncio.run(an_engine.close())
    assert an_engine._slots.held_tokens == 0


def test_a_population_holds_its_ancestors_once() -> None:
    """Sixteen paths of one prompt, each with ten tokens of its own."""
    slots = SlotModel(model(), 16, 200)
    prompt = tokens(0, 160)
    first = slots.acquire()
    slots.prefill([(first, 0, prompt)])
    taken = [first, *(slots.fork(first, 160) for _ in range(15))]
    assert slots.held_tokens == 11 * BLOCK
    for n in range(160, 170):
        slots.decode(np.array(taken), np.full(16, n), tokens(n, 16))
    assert slots.held_tokens == (10 + 16) * BLOCK
    for slot in taken:
        slots.cut(slot, 160)
        slots.release(slot)
    assert slots.held_tokens == 0


@pytest.mark.parametrize("masked", [False, True])
def test_a_trainers_autocast_attends_as_it_does_without_families(masked: bool) -> None:
    """Queries come out of a product, in half precision; keys out of a cache of whole numbers'."""
    torch.manual_seed(0)
    query = torch.randn(3, 4, 1, 8).bfloat16()
    keys, values = torch.randn(2, 3, 2, 32, 8).unbind()
    seen = torch.ones(3, 1, 1, 32, dtype=torch.bool)
    seen[..., 20:] = not masked
    group = together([Family(np.array([0, 2]), np.array([2]))], torch.device("cpu"))
    theirs = torch.randn(2, 1, 2, 16, 8).unbind()
    with torch.autocast("cpu", torch.bfloat16):
        split = two_parts(query, keys, values, seen, [(group[0], *theirs)], 8**-0.5)
        before = (part.expand(3, -1, -1, -1) for part in theirs)
        joined = [torch.cat(both, 2) for both in zip(before, (keys, values), strict=True)]
        first = torch.tensor([True, False, True]).view(3, 1, 1, 1).expand(-1, -1, -1, 16)
        whole_mask = torch.cat([first, seen], 3)
        one = torch.nn.functional.scaled_dot_product_attention(
            query, *(part.repeat_interleave(2, 1) for part in joined), attn_mask=whole_mask
        )
    assert split.dtype == one.dtype == torch.bfloat16
    torch.testing.assert_close(split.float(), one.transpose(1, 2).float(), atol=2e-2, rtol=2e-2)

"""What the gate charges: known trees, and that it lets everybody pass in the end."""

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from butwait.engines.engine import Engine, Prefix
from butwait.engines.gate import GatedEngine, TokenGate
from butwait.engines.kinds.transformers import TransformersSettings
from butwait.engines.models import load_causal_lm, load_tokenizer
from butwait.engines.scheduling.charges import Charges, StepLengths, blocks_by_tokens
from butwait.engines.settings import ModelSettings, Sampling, StepRule
from butwait.engines.transformers import TransformersEngine
from butwait.problems.settings import PromptSettings
from butwait.records import Key, Problem


def ids(*parts: tuple[int, int]) -> np.ndarray:
    """So many tokens of each kind."""
    return np.concatenate([np.full(n, token, np.int32) for token, n in parts])


def charged(*paths: np.ndarray, room: int = 0) -> int:
    charges = Charges()
    for path in paths:
        charges.add(blocks_by_tokens(path), room)
    return charges.tokens


def test_what_paths_have_in_common_is_charged_once() -> None:
    prompt = (7, 32)
    assert charged(ids(prompt, (1, 8))) == 40
    assert charged(ids(prompt, (1, 8)), ids(prompt, (2, 8))) == 48
    assert charged(ids(prompt, (1, 8)), ids(prompt, (1, 8)), room=5) == 50
    # Whole blocks of 16 alone: of 20 tokens in common, 4 lie in blocks that go on differently.
    assert charged(ids((7, 20), (1, 4)), ids((7, 20), (2, 4))) == 24 + 8
    # The same tokens behind another beginning are others.
    assert charged(ids((1, 16), (7, 16)), ids((2, 16), (7, 16))) == 64
    # Ancestors as well: 32 of the prompt, 16 of a step, and what each has alone.
    parent = (prompt, (3, 16))
    assert charged(ids(*parent, (1, 8)), ids(*parent, (2, 8)), ids(prompt, (4, 8))) == 48 + 24


def test_nothing_stays_charged() -> None:
    charges, paths = Charges(), [ids((7, n), (1, 5)) for n in (16, 32, 32)]
    for path in paths:
        charges.add(blocks_by_tokens(path), 3)
    for path in paths:
        charges.remove(blocks_by_tokens(path), 3)
    assert charges.tokens == 0


def test_a_step_is_charged_what_it_may_take_and_not_its_whole_reach() -> None:
    lengths, prefix = StepLengths(), Prefix(ids((7, 10), (1, 20)), prompt_length=10)
    limited, free = StepRule(max_tokens=500, max_step_tokens=64), StepRule(max_tokens=500)
    assert lengths.room(limited, prefix) == 64
    assert lengths.room(free, prefix) == 480  # nothing is known of its steps
    lengths.note(free, [30, 30])
    assert lengths.room(free, prefix) == 60
    lengths.note(free, [50])
    assert lengths.room(free, prefix) == 62  # 5 % of the new one
    assert lengths.room(StepRule(max_tokens=40), prefix) == 20


RULE = StepRule(delimiters=(), max_step_tokens=40, max_tokens=100, stop_at_box=False)


@pytest.fixture
def engine() -> TransformersEngine:
    """Whose paths do not end."""
    model = ModelSettings(name="tiny")
    engine = TransformersEngine(
        load_causal_lm(model),
        load_tokenizer(model),
        TransformersSettings(slots=8, capacity=128),
        PromptSettings(template="{question}"),
    )
    engine._eos_ids = frozenset()
    return engine


async def extended(engine: Engine, prefix: Prefix, *names: str) -> list[Prefix]:
    """One step, for a key of each name."""
    keys = [Key.of(0, name) for name in names]
    made = await engine.extend([prefix] * len(names), RULE, Sampling(), keys)
    return [step.prefix for step in made]


def test_the_engine_in_this_process_tells_its_load(engine: TransformersEngine) -> None:
    async def run() -> None:
        [parent] = await extended(engine, engine.start(Problem("p", "12 + 30 = ?", None)), "p")
        await extended(engine, parent, "a", "b", "c")

    asyncio.run(run())
    load, there = asyncio.run(engine.load()), engine._slots.held_tokens
    assert load.kv_use == there / load.capacity
    engine._cache_tokens = there
    engine.trim(0.5)
    assert 0 < engine._slots.held_tokens <= there // 2


def test_a_cache_that_is_lost_while_its_path_waits_is_charged_all_the_same(
    engine: TransformersEngine,
) -> None:
    """The blocks that one path gave up are another one's by then: they count for both."""

    async def run() -> tuple[int, int]:
        gate = TokenGate(1)
        gated = GatedEngine(engine, gate)
        await gate.enter(0, {0: 50}, 0)  # alone, and the others wait
        first = engine.start(Problem("p", "12 + 30 + 45 = ?", None))
        [waits] = await extended(engine, first, "p")
        one = asyncio.create_task(extended(gated, waits, "q"))
        await asyncio.sleep(0)
        await engine.load()
        engine.trim(0.0)
        second = engine.start(Problem("r", "90 - 71 - 10 = ?", None))
        [comes] = await extended(engine, second, "r")
        two = asyncio.create_task(extended(gated, comes, "s"))
        await asyncio.sleep(0)
        gate.bound = 1000
        gate.admit()
        await asyncio.gather(one, two)
        return gate.most, 50 + len(waits.token_ids) + len(comes.token_ids) + 2 * 40

    charged, held = asyncio.run(run())
    assert charged == held


Ask = st.tuples(
    st.integers(0, 3),  # rank
    st.lists(st.integers(0, 6), min_size=1, max_size=4),  # blocks of 16 tokens
    st.integers(0, 30),  # room
    st.integers(0, 4),  # turns that it stays
    st.integers(0, 3),  # turns after which it is cancelled, where that is 0 of 4
)


@settings(max_examples=40)
@given(st.lists(Ask, min_size=1, max_size=12), st.integers(1, 120), st.data())
def test_everybody_passes_in_the_end(asks: list[Any], bound: int, data: st.DataObject) -> None:
    changes = data.draw(st.lists(st.integers(1, 120), max_size=5))

    async def run() -> SimpleNamespace:
        gate, seen = TokenGate(bound), SimpleNamespace(passed=0, over=[])

        async def one(rank: int, blocks: list[int], room: int, turns: int) -> None:
            held = dict.fromkeys(blocks, 16)
            await gate.enter(rank, held, room)
            seen.passed += 1
            seen.over.append(gate.live > gate.bound and gate.live > room + sum(held.values()))
            try:
                for _ in range(turns):
                    await asyncio.sleep(0)
            finally:
                gate.leave(held, room)

        tasks = [asyncio.create_task(one(*ask[:4])) for ask in asks]
        gone = [task for task, ask in zip(tasks, asks, strict=True) if ask[4] == 0]
        for _ in range(3):
            await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        for change in changes:
            gate.bound = change
            gate.admit()
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await asyncio.gather(*tasks, return_exceptions=True)
        seen.live, seen.left = gate.live, gate.turned
        return seen

    seen = asyncio.run(run())
    assert seen.live == 0
    assert changes or not any(seen.over), "more passed than fits, and not alone"
    assert seen.passed >= sum(1 for ask in asks if ask[4] != 0)


def test_a_path_larger_than_the_bound_passes_alone_and_older_searches_first() -> None:
    order: list[str] = []

    async def run() -> None:
        gate = TokenGate(40)

        async def one(name: str, rank: int, tokens: int) -> None:
            held = {hash(name): tokens}
            await gate.enter(rank, held, 0)
            order.append(f"{name} {gate.live}")
            await asyncio.sleep(0)
            gate.leave(held, 0)

        await asyncio.gather(
            one("first", 2, 30), one("newer", 3, 10), one("huge", 1, 90), one("old", 0, 20)
        )

    asyncio.run(run())
    assert order == ["first 30", "newer 40", "old 20", "huge 90"]

"""The bound on live tokens: how much runs at a time, who goes first, and that results stay."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from butwait.engines.engine import Continuation, EngineCounters, Prefix
from butwait.engines.gate import GatedEngine, TokenGate
from butwait.engines.scripted import EOS, ScriptedEngine
from butwait.engines.settings import Sampling, StepRule
from butwait.records import Key, Problem
from butwait.reward_models.scripted import ScriptedRewardModel
from butwait.search.run import run_sampler
from butwait.search.samplers.particle_filter import ParticleFilterSettings

RULE = StepRule(delimiters=("\n",), max_tokens=10, max_step_tokens=4)
KEY = Key.of(0, "gate")


def prefix(length: int, fill: int) -> Prefix:
    return Prefix(np.full(length, fill, np.int32), prompt_length=length)


class Recorder:
    """An engine that answers after some turns and remembers what ran together."""

    counters = EngineCounters()

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.running = self.most = 0
        self.fails = False

    async def extend(
        self, prefixes: Sequence[Prefix], rule: StepRule, sampling: Sampling, keys: Sequence[Key]
    ) -> list[Continuation]:
        self.calls.append([int(p.token_ids[0]) for p in prefixes])
        tokens = sum(len(p.token_ids) + 4 for p in prefixes)
        self.running += tokens
        self.most = max(self.most, self.running)
        for _ in range(3):
            await asyncio.sleep(0)
        self.running -= tokens
        if self.fails:
            raise OSError("lost")
        nothing = np.zeros(0, np.float32)
        return [Continuation(p.token_ids, "", nothing, "step", p, 0) for p in prefixes]


def extend(engine: Any, prefixes: list[Prefix]) -> Any:
    return engine.extend(
        prefixes, RULE, Sampling(), [KEY.at(particle=i) for i in range(9)][: len(prefixes)]
    )


def test_what_runs_together_fits_under_the_bound_and_rows_keep_their_order() -> None:
    inner = Recorder()
    engine = GatedEngine(inner, TokenGate(20)).turn()
    prefixes = [prefix(6, fill) for fill in range(5)]  # 10 tokens each when the step ends
    made = asyncio.run(extend(engine, prefixes))
    assert inner.most == 20
    assert [int(c.token_ids[0]) for c in made] == [0, 1, 2, 3, 4]


def test_rows_on_the_same_tokens_go_together_as_far_as_they_fit() -> None:
    inner = Recorder()
    engine = GatedEngine(inner, TokenGate(20)).turn()
    asyncio.run(extend(engine, [prefix(6, f) for f in (1, 2, 1, 1, 1)]))
    assert inner.calls == [[1, 1, 1], [2], [1]]  # 6 tokens that they share, and 4 for each step


def test_it_says_whether_something_waited_since_it_was_asked() -> None:
    async def three() -> list[bool]:
        gate = TokenGate(10)
        said = [gate.held_back()]
        await gate.enter(0, {}, 6)
        said.append(gate.held_back())
        waiting = asyncio.create_task(gate.enter(0, {}, 6))
        await asyncio.sleep(0)
        said += [gate.held_back(), gate.held_back()]  # it waits still
        gate.leave({}, 6)
        await waiting
        return [*said, gate.held_back(), gate.held_back()]

    assert asyncio.run(three()) == [False, False, True, True, True, False]


def test_a_row_above_the_bound_runs_alone() -> None:
    inner = Recorder()
    engine = GatedEngine(inner, TokenGate(20)).turn()
    asyncio.run(extend(engine, [prefix(6, 0), prefix(40, 1), prefix(6, 2)]))
    assert inner.calls == [[0], [1], [2]]
    assert inner.most == 44


def test_the_older_search_goes_first() -> None:
    inner = Recorder()
    base = GatedEngine(inner, TokenGate(10))
    older, newer = base.turn(), base.turn()

    async def both() -> None:
        await asyncio.gather(
            extend(newer, [prefix(6, 20), prefix(6, 21), prefix(6, 22)]),
            extend(older, [prefix(6, 10), prefix(6, 11)]),
        )

    asyncio.run(both())
    assert inner.calls == [[20], [10], [11], [21], [22]]


@pytest.mark.parametrize("how", ["cancelled", "failed"])
def test_nothing_stays_taken(how: str) -> None:
    inner = Recorder()
    inner.fails = how == "failed"
    gate = TokenGate(10)
    engine = GatedEngine(inner, gate).turn()

    async def stopped() -> None:
        task = asyncio.create_task(extend(engine, [prefix(6, f) for f in range(4)]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert gate.live == 10
        if how == "cancelled":
            task.cancel()
        with pytest.raises(OSError if inner.fails else asyncio.CancelledError):
            await task
        assert gate.live == 0
        inner.fails = False
        await extend(engine, [prefix(6, 9)])

    asyncio.run(stopped())


def test_a_search_gives_the_same_tree_behind_a_gate() -> None:
    table = {
        "": {"a\n": 0.5, "b\n": 0.5},
        "a\n": {EOS: 0.5, "c\n": 0.5},
        "a\nc\n": {EOS: 1.0},
        "b\n": {EOS: 1.0},
    }
    settings = ParticleFilterSettings(particles=8, step=RULE, ess_threshold=1.1)

    def leaves(engine: Any) -> list[str]:
        tree = asyncio.run(
            run_sampler(
                Problem("p", "?", None),
                engine,
                ScriptedRewardModel(lambda problem, steps: len(steps) - 1.5),
                settings,
                KEY,
            )
        )
        return [tree.path_text(leaf) for leaf in tree.leaves.tolist()]

    free = leaves(ScriptedEngine(table))
    assert leaves(GatedEngine(ScriptedEngine(table), TokenGate(12))) == free
    assert len(set(free)) > 1


def test_a_call_that_is_cancelled_gives_back_what_its_first_rows_were_given() -> None:
    class Slots(Recorder):
        held = 0

        async def extend(self, *asked: Any) -> list[Continuation]:
            made = await super().extend(*asked)
            self.held += len(made)
            return made

        def release(self, prefixes: Sequence[Prefix]) -> None:
            self.held -= len(prefixes)

    async def cancelled() -> int:
        inner = Slots()
        engine = GatedEngine(inner, TokenGate(10)).turn()
        call = asyncio.ensure_future(extend(engine, [prefix(6, fill) for fill in range(4)]))
        while len(inner.calls) < 3:
            await asyncio.sleep(0)
        assert inner.held == 2
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        return inner.held

    assert asyncio.run(cancelled()) == 0

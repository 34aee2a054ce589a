"""``concurrency: auto``: a problem begins when rows would stand empty, which are counted."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from butwait.engines.scheduling.rows import Rows, asking, most_problems, places, rows_that_pay


class Pass:
    """An engine whose paths are extended in so many turns, path i in ``turns[i]`` of them."""

    def __init__(self, pays: int, spare: int | None = None) -> None:
        self.seen: list[int] = []
        self.slots = spare
        self.taken = 0
        room = None if spare is None else (lambda: spare - self.taken)
        self.rows = Rows(pays, room)

    async def extend(self, turns: Sequence[int]) -> None:
        with asking(len(turns)):
            await asyncio.gather(*map(self._row, turns))

    async def _row(self, turns: int) -> None:
        self.rows.add(1)
        self.seen.append(self.rows.at_work)
        for _ in range(turns):
            await asyncio.sleep(0)
        self.rows.add(-1)


def searched(engine: Any, concurrency: Any, problems: int, paths: int, scored: int = 0) -> Any:
    """Populations of so many paths, one of which takes long, in two steps; after each, so many
    turns of scoring. Returns the order of beginnings and the most problems in flight."""
    begun: list[int] = []
    most = open_ = 0
    gate = places(concurrency, engine)

    async def one(problem: int) -> None:
        nonlocal most, open_
        async with gate:
            begun.append(problem)
            open_ += 1
            most = max(most, open_)
            engine.taken += paths
            for _ in range(2):
                await engine.extend([2] * (paths - 1) + [20])
                for _ in range(scored):
                    await asyncio.sleep(0)
            engine.taken -= paths
            open_ -= 1

    async def run() -> None:
        async with asyncio.timeout(20):
            await asyncio.gather(*map(one, range(problems)))

    asyncio.run(run())
    return begun, most


def test_problems_begin_while_rows_stand_empty_the_oldest_first() -> None:
    engine = Pass(pays=16)
    begun, most = searched(engine, "auto", 12, 4)
    assert begun == list(range(12))
    assert 4 < most <= 16  # others fill the rows of those that wait for their longest path
    fixed = Pass(pays=16)
    assert searched(fixed, 3, 12, 4)[1] == 3
    assert fixed.rows.figures()["problems"] == 3


def test_no_more_problems_than_there_is_room_for() -> None:
    assert searched(Pass(pays=64, spare=20), "auto", 10, 4)[1] <= 5
    # One always begins, however large.
    assert searched(Pass(pays=4, spare=2), "auto", 3, 8)[1] == 1


def test_a_reward_model_that_holds_all_up_is_not_buried() -> None:
    engine = Pass(pays=8)
    _, most = searched(engine, "auto", 60, 4, scored=400)
    assert most == 4 * 8 // 4


def test_nothing_begins_while_the_memory_is_full() -> None:
    engine = Pass(pays=64)
    engine.rows.full = True
    assert searched(engine, "auto", 5, 4)[1] == 1


def test_places_of_those_that_fail_are_given_back() -> None:
    engine = Pass(pays=8)
    gate = places("auto", engine)

    async def failing() -> None:
        async with gate:
            raise OSError("lost")

    async def run() -> list[Any]:
        async with asyncio.timeout(5):
            waiting = [asyncio.create_task(failing()) for _ in range(6)]
            waiting[3].cancel()
            return await asyncio.gather(*waiting, return_exceptions=True)

    ends = asyncio.run(run())
    assert [type(end) for end in ends].count(OSError) == 5
    assert searched(engine, "auto", 3, 4)[0] == [0, 1, 2]


def test_what_stands_empty_is_counted() -> None:
    now = 0.0
    rows = Rows(10, clock=lambda: now)
    rows.note(3)
    now = 5.0  # no problem is in flight
    rows.open(2)
    rows.note(10)
    now = 7.0
    rows.note(4)
    now = 10.0
    rows.open(-2)
    now = 99.0
    assert rows.figures() == {"rows": 10, "at_work": 6.4, "empty": 0.36, "problems": 2}
    assert Rows(10).figures() == {}


@pytest.mark.parametrize(
    ("concurrency", "problems", "paths", "engine", "most"),
    [
        (8, 100, 16, {}, 8),
        (8, 3, 16, {}, 3),
        ("auto", 1000, 16, {}, 128),
        ("auto", 1000, 4096, {}, 1),
        ("auto", 1000, 16, {"slots": 64}, 16),
        ("auto", 1000, 16, {"slots": 4096}, 128),
        ("auto", 1000, 16, {"max_rows": 256}, 64),
        ("auto", 1000, 16, {"max_rows": 256, "urls": ["a", "b", "c"]}, 192),
    ],
)
def test_the_most_problems_in_flight(
    concurrency: Any, problems: int, paths: int, engine: dict[str, Any], most: int
) -> None:
    pays = rows_that_pay(SimpleNamespace(**engine))
    assert most_problems(concurrency, problems, paths, pays) == most

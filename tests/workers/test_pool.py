"""A pool without processes: workers of this process that are lost when a test says so."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from butwait.records import UserError
from butwait.running import progress
from butwait.running.shards import SetAsideError
from butwait.workers import pool as pools
from butwait.workers.host import Reply, WorkerLostError
from butwait.workers.pool import Pool

Act = Callable[["Toy", Any], Awaitable[Any]]


class Toy:
    """A worker that does what the test says, until it is lost."""

    def __init__(self, host: "Host", index: int) -> None:
        self.host, self.index, self.at = host, index, 0
        self.lost = asyncio.get_running_loop().create_future()

    async def call(self, item: Any) -> Reply:
        if self.lost.done():  # it is known: as the real ones, without a turn of the loop
            raise WorkerLostError(str(self.lost.result()), begun=False)
        self.at += 1
        self.host.most = max(self.host.most, self.at)
        work = asyncio.ensure_future(self.host.act(self, item))
        try:
            await asyncio.wait({work, self.lost}, return_when=asyncio.FIRST_COMPLETED)
            if self.lost.done():
                raise WorkerLostError(str(self.lost.result()))
            self.host.done[item] += 1
            return Reply(work.result(), policy_tokens=2, begun=self.host.begun(self.at - 1))
        finally:
            self.at -= 1

    def lose(self, why: str = "gone") -> None:
        if not self.lost.done():
            self.lost.set_result(why)

    async def close(self) -> None:
        self.host.closed += 1


class Host:
    def __init__(self, act: Act, starts: Callable[[int, int], None] = lambda i, n: None) -> None:
        self.act, self.starts = act, starts
        self.started = Counter[int]()
        self.done = Counter[Any]()
        self.most = self.closed = 0
        self.made: list[Toy] = []
        self.begun: Callable[[int], int] = lambda others: 0

    async def start(self, index: int) -> Toy:
        self.started[index] += 1
        self.starts(index, self.started[index])
        self.made.append(Toy(self, index))
        return self.made[-1]


async def square(worker: Toy, item: int) -> int:
    await asyncio.sleep(0)
    return item * item


def run(host: Host, count: int, room: int, items: int = 20) -> tuple[list[Any], Pool]:
    """What becomes of each item: its result, or what was raised."""

    async def all_of_them() -> tuple[list[Any], Pool]:
        async with Pool(host, count, room, name="item {}".format) as pool:
            found = await asyncio.gather(*map(pool.do, range(items)), return_exceptions=True)
            return found, pool

    return asyncio.run(all_of_them())


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "WAITS", (0.0, 0.0, 0.0))


@pytest.mark.parametrize(("count", "room"), [(1, 1), (1, 20), (3, 2), (64, 1)])
def test_every_item_is_done_once_and_no_worker_has_more_than_its_room(
    count: int, room: int
) -> None:
    host = Host(square)
    found, pool = run(host, count, room)
    assert found == [i * i for i in range(20)]
    assert set(host.done.values()) == {1}
    assert len(host.done) == 20
    assert host.most <= room
    assert pool.policy_tokens == 40
    assert host.closed == count


def test_items_go_to_the_worker_that_has_the_least_to_do() -> None:
    seen = Counter[int]()

    async def act(worker: Toy, item: int) -> None:
        seen[worker.index] += 1
        await asyncio.sleep(0.01)

    run(Host(act), 4, 5)
    assert seen == {0: 5, 1: 5, 2: 5, 3: 5}


def test_workers_that_are_ready_later_get_their_part() -> None:
    """Eight items for four workers, the first of which could be at all of them."""
    seen, ready = Counter[int](), asyncio.Event()

    class Slow(Host):
        async def start(self, index: int) -> Toy:
            for _ in range(10 * index):
                await asyncio.sleep(0)
            return await super().start(index)

    async def act(worker: Toy, item: int) -> None:
        seen[worker.index] += 1
        if seen.total() == 8:
            ready.set()
        await ready.wait()

    run(Slow(act), 4, 64, items=8)
    assert seen == {0: 2, 1: 2, 2: 2, 3: 2}


def test_nobody_waits_for_a_worker_that_gets_no_place() -> None:
    """Once another has done something: then it is given as much as it takes."""

    class Full(Host):
        async def start(self, index: int) -> Toy:
            if index:
                await asyncio.get_running_loop().create_future()
            return await super().start(index)

    host = Full(square)
    found, _ = run(host, 2, 64)
    assert found == [i * i for i in range(20)]
    assert host.most == 10


@pytest.mark.parametrize(("begins", "most"), [(64, 12), (4, 6), (0, 4)])
def test_a_worker_is_given_more_where_it_begins_what_it_has(begins: int, most: int) -> None:
    """Up to what it may be at; no more than it takes, which others could do."""
    done = [asyncio.Event() for _ in range(40)]

    async def act(worker: Toy, item: int) -> int:
        await done[item].wait()
        return item

    host = Host(act)
    host.begun = lambda others: min(others + 1, begins)

    async def work() -> list[Any]:
        async with Pool(host, 1, 4, most=12) as pool:
            assert pool.size == 12
            asked = [asyncio.ensure_future(pool.do(item)) for item in range(40)]
            for event, each in zip(done, asked, strict=True):
                event.set()
                await each
                for _ in range(5):  # what it makes room for is handed out
                    await asyncio.sleep(0)
            return [each.result() for each in asked]

    assert asyncio.run(work()) == list(range(40))
    assert host.most == most


@pytest.mark.parametrize("count", [1, 2])
def test_a_worker_that_ends_while_it_has_nothing_to_do_holds_up_nothing(count: int) -> None:
    """Several items are handed to it in one turn before the first finds that it is gone."""
    host = Host(square)

    async def work() -> tuple[list[Any], Pool]:
        async with Pool(host, count, 4) as pool:
            first = await asyncio.gather(*map(pool.do, range(6)))
            host.made[0].lose()
            return first + await asyncio.wait_for(
                asyncio.gather(*map(pool.do, range(6, 14))), timeout=60
            ), pool

    found, pool = asyncio.run(work())
    assert found == [i * i for i in range(14)]
    assert (pool.health.restarts, pool.health.set_aside) == (1, {})
    assert host.started == {0: 2} | dict.fromkeys(range(1, count), 1)


def test_an_item_that_is_handed_out_as_its_worker_ends_is_done_by_the_next() -> None:
    """The call of the one before finds the loss, and the seat is empty, before its own begins."""

    async def act(worker: Toy, item: int) -> int:
        if worker is host.made[0]:
            await asyncio.sleep(60)
        return item

    host = Host(act)

    async def work() -> list[int]:
        async with Pool(host, 1, 4) as pool:
            first = asyncio.ensure_future(pool.do(1))
            while not (host.made and host.made[0].at):
                await asyncio.sleep(0)
            handle = host.made[0]
            handle.lose()
            while pool._seats[0].handle is handle:  # every turn one more
                others.append(asyncio.ensure_future(pool.do(2)))
                await asyncio.sleep(0)
            return await asyncio.wait_for(asyncio.gather(first, *others), timeout=60)

    others: list[asyncio.Future[int]] = []
    assert asyncio.run(work()) == [1, *[2] * len(others)]


def test_a_fault_of_the_pool_itself_leaves_nobody_waiting() -> None:
    def heard(reply: Reply) -> None:
        raise ZeroDivisionError("of its own")

    async def work() -> list[Any]:
        async with Pool(Host(square), 2, 2, heard=heard) as pool:
            asked = asyncio.gather(*map(pool.do, range(9)), return_exceptions=True)
            return await asyncio.wait_for(asked, timeout=60)

    assert [repr(error) for error in asyncio.run(work())] == ["ZeroDivisionError('of its own')"] * 9


def test_workers_that_have_ended_are_told_of_no_more(tmp_path: Path) -> None:
    def told() -> Any:
        return json.loads((tmp_path / ".progress.json").read_text())["workers"]

    async def work() -> Any:
        async with Pool(Host(square), 2, 2) as pool:
            await pool.do(3)
            with progress.task("searching", 1) as task:
                task.advance(1)  # which writes
            return told()

    with progress.reported(tmp_path, "mine", {"search": "search"}):
        assert [worker["state"] for worker in asyncio.run(work())] == ["healthy"] * 2
        assert told() is None


def test_a_lost_workers_items_are_done_elsewhere() -> None:
    """Whatever it was at when it was lost: nothing is lost and nothing is doubled."""
    lost = False

    async def act(worker: Toy, item: int) -> int:
        nonlocal lost
        await asyncio.sleep(0.002)
        if item == 3 and not lost:
            lost = True
            worker.lose()
            await asyncio.sleep(1)
        return item * item

    host = Host(act)
    found, pool = run(host, 2, 4)
    assert found == [i * i for i in range(20)]
    assert set(host.done.values()) == {1}
    assert len(host.done) == 20
    assert (pool.health.restarts, pool.health.set_aside) == (1, {})


@pytest.mark.parametrize(("count", "room"), [(1, 1), (2, 1), (2, 8), (3, 64)])
def test_only_the_item_that_ends_workers_is_set_aside(count: int, room: int) -> None:
    """Those that were on the same workers are done: it is alone on two in the end."""
    endings = Counter[str]()

    async def act(worker: Toy, item: int) -> int:
        await asyncio.sleep(0.001)
        if item == 7:
            endings["alone" if worker.at == 1 else "together"] += 1
            worker.lose("out of memory")
            await asyncio.sleep(1)
        return item * item

    found, pool = run(Host(act), count, room)
    error = found.pop(7)
    assert found == [i * i for i in range(20) if i != 7]
    assert isinstance(error, SetAsideError)
    assert str(error) == "item 7 was set aside: out of memory"
    assert endings["alone"] == 2
    assert pool.health.set_aside == {"item 7": "out of memory"}


def test_the_item_that_ends_workers_is_found_by_halves() -> None:
    """Of 64 items: on workers that are at 64, 32, 16, ... 2 items, and alone on two."""
    at: list[int] = []

    async def act(worker: Toy, item: int) -> int:
        for _ in range(5):
            await asyncio.sleep(0)
        if item == 7:
            at.append(worker.at)
            worker.lose()
            await asyncio.sleep(1)
        return item

    found, pool = run(Host(act), 1, 64, items=64)
    assert isinstance(found.pop(7), SetAsideError)
    assert found == [i for i in range(64) if i != 7]
    assert at == [64, 32, 16, 8, 4, 2, 1, 1]
    assert pool.health.restarts == 8


def test_items_that_end_a_worker_together_are_done_by_fewer() -> None:
    """As where memory does not suffice for all that a worker is at: none is set aside."""

    async def act(worker: Toy, item: int) -> int:
        for _ in range(5):
            await asyncio.sleep(0)
        if worker.at > 6:
            worker.lose("out of memory")
            await asyncio.sleep(1)
        return item

    host = Host(act)
    found, pool = run(host, 2, 20, items=20)
    assert found == list(range(20))
    assert set(host.done.values()) == {1}
    assert (pool.health.restarts, pool.health.set_aside) == (2, {})


def test_a_fault_of_the_data_is_told_as_it_is_and_ends_no_worker() -> None:
    async def act(worker: Toy, item: int) -> int:
        if item == 2:
            raise UserError("problem 2 has no prompt")
        return item

    host = Host(act)
    found, pool = run(host, 2, 2)
    assert str(found[2]) == "problem 2 has no prompt"
    assert type(found[2]) is UserError
    assert [x for x in found if x is not found[2]] == [i for i in range(20) if i != 2]
    assert pool.health.restarts == 0


def test_a_worker_that_cannot_start_ends_the_pool_with_its_last_words() -> None:
    def starts(index: int, time: int) -> None:
        if index == 1:
            raise WorkerLostError("CUDA driver is too old")

    found, _ = run(Host(square, starts), 2, 64)
    told = {str(error) for error in found if isinstance(error, UserError)}
    assert told <= {"worker 1 ended 3 times in its start: CUDA driver is too old"}


def test_nothing_is_tried_again_where_the_job_itself_is_wrong() -> None:
    def starts(index: int, time: int) -> None:
        raise UserError("there is no model 'x'")

    host = Host(square, starts)
    found, _ = run(host, 1, 4)
    assert {str(error) for error in found} == {"there is no model 'x'"}
    assert host.started == {0: 1}


def test_others_go_on_without_a_worker_that_does_not_come_back() -> None:
    def starts(index: int, time: int) -> None:
        if index == 0 and time > 1:
            raise WorkerLostError("no such device")

    async def act(worker: Toy, item: int) -> int:
        await asyncio.sleep(0.005)
        if worker.index == 0:
            worker.lose()
            await asyncio.sleep(1)
        return item

    host = Host(act, starts)
    found, pool = run(host, 2, 1)
    assert found == list(range(20))
    assert (pool.health.healthy, pool.health.dead) == (1, 1)
    assert host.started == {0: 11, 1: 1}


def test_work_that_ends_every_worker_is_no_fault_of_the_problems() -> None:
    async def act(worker: Toy, item: int) -> int:
        worker.lose("illegal instruction")
        return await asyncio.sleep(1, item)

    found, _ = run(Host(act), 2, 4)
    told = [str(error) for error in found]
    assert "whatever workers are given ends them: illegal instruction" in told
    assert sum("set aside" in line for line in told) <= 2


@pytest.mark.parametrize("begun", [False, True])
def test_work_that_nobody_waits_for_any_more_makes_room(begun: bool) -> None:
    host = Host(square)
    given_up = []

    async def hangs(worker: Toy, item: int) -> int:
        try:
            await asyncio.sleep(60 if item == 0 else 0)
        except asyncio.CancelledError:
            given_up.append(item)
            raise
        return item

    class Patient(Toy):
        async def call(self, item: Any) -> Reply:
            return Reply(await hangs(self, item))

    async def start(index: int) -> Toy:
        return Patient(host, index)

    async def work() -> int:
        host.start = start
        async with Pool(host, 1, 1) as pool:
            first = asyncio.ensure_future(pool.do(0))
            second = asyncio.ensure_future(pool.do(1))
            while pool.health.healthy == 0 or (begun and not pool._seats[0].at):
                await asyncio.sleep(0)
            first.cancel()
            return await asyncio.wait_for(second, 5)

    assert asyncio.run(work()) == 1
    assert given_up == [0] if begun else given_up in ([], [0])

"""Workers that wait for a place in a Ray cluster, without Ray: its actors are futures."""

import asyncio
import sys
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from butwait.records import UserError
from butwait.workers import ray as workers
from butwait.workers.host import WorkerLostError
from butwait.workers.placement import Placement
from butwait.workers.ray_actor import Place, installed_version
from butwait.workers.settings import WorkersSettings


class LostError(Exception):
    """Of Ray."""


class Actor:
    """Gets its place, and is ready, when the test says so."""

    def __init__(self) -> None:
        self.placed, self.opened = Future[Any](), Future[Any]()
        self.place = SimpleNamespace(remote=lambda: SimpleNamespace(future=lambda: self.placed))
        self.open = SimpleNamespace(remote=lambda job: SimpleNamespace(future=lambda: self.opened))

    def settle(self, pid: int) -> None:
        self.placed.set_result(Place(pid, "1.2.3.4", installed_version()))


@pytest.fixture
def actors(monkeypatch: pytest.MonkeyPatch) -> list[Actor]:
    """In the order in which they are started, on a cluster of a node with two GPUs."""
    made: list[Actor] = []

    def remote() -> Actor:
        made.append(Actor())
        return made[-1]

    errors = SimpleNamespace(
        RayError=LostError,
        OutOfMemoryError=KeyError,
        RayTaskError=KeyError,
        ActorUnavailableError=KeyError,
    )
    ray = SimpleNamespace(
        remote=lambda cls: SimpleNamespace(options=lambda **_: SimpleNamespace(remote=remote)),
        nodes=lambda: [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": 2.0}}],
        available_resources=lambda: {"CPU": 4.0},
        kill=lambda actor: None,
        exceptions=errors,
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(workers, "connect", lambda *_: False)
    monkeypatch.setattr(workers, "_seen", lambda packed: ())
    monkeypatch.setattr(workers, "_LAST_WORDS_S", 0.0)
    monkeypatch.setattr(workers, "TOLD_S", 0.001)  # between looks
    return made


class Clock:
    """Stands still but where it is moved."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(workers, "time", clock)
    return clock


def test_nobody_gives_up_while_one_loads_its_models(
    actors: list[Actor], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second has waited for longer than its patience when there is room for it."""
    told: list[str] = []
    monkeypatch.setattr(workers, "say", lambda line, level: told.append(line))

    async def both() -> list[int]:
        host = workers.RayHost(b"", WorkersSettings(kind="ray", gpus=1), Placement(1, 1))
        assert host.count == 2
        first = asyncio.ensure_future(host.start(0))
        await asyncio.sleep(0)
        actors[0].settle(1)
        while not host._alive:
            await asyncio.sleep(0.001)
        second = asyncio.ensure_future(host.start(1))
        await asyncio.sleep(0)
        clock.now += workers.PATIENCE_S
        while f"for {workers.PATIENCE_S:.0f} s" not in "".join(told) and not second.done():
            await asyncio.sleep(0.001)
        assert not first.done()
        actors[0].opened.set_result(None)
        actors[1].settle(2)
        actors[1].opened.set_result(None)
        return [(await first).index, (await second).index]

    assert asyncio.run(both()) == [0, 1]
    assert "1 of the workers wait" in told[-1]


@pytest.mark.parametrize("late", [False, True])
def test_the_time_limit_of_a_plugin_is_no_loss_of_its_worker(
    actors: list[Actor], monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """``late``: its last words come after it is known to be gone, and after others."""
    monkeypatch.setattr(workers, "_LAST_WORDS_S", 60.0)
    waits = "butwait: waiting for score of the plugin 'a:b', 60 s (at a.py, line 2)"
    told = "the plugin 'a:b' has not come back from score for 600 s (at a.py, line 2); mend it"

    async def sleep(seconds: float) -> None:
        handle.said.append(f"butwait: {told}")

    monkeypatch.setattr(workers.asyncio, "sleep", sleep)
    handle = workers.RayHandle(0, None, set())
    handle.said.extend([waits] if late else [waits, f"butwait: {told}"])
    reply = Future[Any]()
    reply.set_exception(LostError("gone"))

    async def ask() -> Any:
        return await handle.asked(SimpleNamespace(future=lambda: reply))

    with pytest.raises(UserError) as error:
        asyncio.run(ask())
    assert str(error.value) == told


@pytest.mark.parametrize("refused", [False, True])
def test_one_that_was_lost_while_it_loaded_has_no_place_any_more(
    actors: list[Actor], clock: Clock, refused: bool
) -> None:
    async def both() -> list[Any]:
        host = workers.RayHost(b"", WorkersSettings(kind="ray", count=2, gpus=1), Placement(2, 1))
        first = asyncio.ensure_future(host.start(0))
        await asyncio.sleep(0)
        actors[0].settle(1)
        if refused:
            actors[0].opened.set_result("no such model")
        else:
            actors[0].opened.set_exception(LostError("gone"))
        (found,) = await asyncio.gather(first, return_exceptions=True)
        second = asyncio.ensure_future(host.start(1))
        await asyncio.sleep(0)
        clock.now += workers.PATIENCE_S
        return [found, *await asyncio.gather(second, return_exceptions=True)]

    first, second = asyncio.run(both())
    assert isinstance(first, UserError if refused else WorkerLostError)
    assert isinstance(second, UserError)
    assert "no worker has found a place" in str(second)

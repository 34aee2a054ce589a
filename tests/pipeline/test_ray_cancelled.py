"""Work on Ray that nobody waits for any more stops within a second, and its worker goes on."""

import asyncio
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from ray_alone import alone, scenario

pytest.importorskip("ray", reason="ray is not installed")

import ray

from butwait.workers.ray import _give_up

SOON_S = 1.0
"""Within how many seconds the last token must have been asked for."""


def cancelled(name: str, folder: Path, seconds: int) -> dict[str, Any]:
    return scenario(name, folder, seconds, "ray_cancelled.py")


@pytest.mark.timeout(120)
def test_a_cancelled_search_stops_and_leaves_nothing_on_its_worker(tmp_path: Path) -> None:
    """However early it is cancelled. Work that cancels itself is a mistake, and no lost worker."""
    found = cancelled("given_up", tmp_path, 110)
    assert found["stopped"] < SOON_S
    assert found["late"] < SOON_S
    assert found["begun"] > 0
    assert found["same"] == [True, True]
    assert found["left"] == [0, 0, 0]  # tasks there, handles of the engine there, tasks here
    assert found["itself"] == "the work on an item was cancelled by itself; mend what does it"
    assert found["health"] == "1/1"
    assert found["processes"] == 0 or not alone()  # others may begin where it is not alone


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_search_of_a_client_that_leaves_stops(tmp_path: Path) -> None:
    found = cancelled("served", tmp_path, 190)
    assert found["late"] < SOON_S
    assert found["same"]
    assert (found["running"], found["cancelled"]) == (["0.0"], ["2.0"])


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_run_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    found = cancelled("interrupted", tmp_path, 190)
    assert found["late"] < SOON_S
    assert found["code"] == 130
    assert found["told"] == "butwait: stopped; the same command goes on where it was"
    assert found["log"] == []
    assert found["left"] == 0 or not alone()


def test_a_cancel_is_repeated_until_the_call_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancel that comes as the call begins may be lost."""
    ended: Future[None] = Future()
    times: list[Any] = []

    class Asked:
        def future(self) -> Future[None]:
            return ended

    def cancel(asked: Any, recursive: bool) -> None:
        times.append(asked)
        if len(times) == 3:
            ended.set_result(None)

    monkeypatch.setattr(ray, "cancel", cancel)
    monkeypatch.setattr("butwait.workers.ray._AGAIN_S", 0.001)
    asked = Asked()

    async def give_up() -> None:
        _give_up(asked)
        await asyncio.sleep(0.1)

    asyncio.run(give_up())
    assert times == [asked] * 3

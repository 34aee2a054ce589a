"""`butwait serve` under load: nothing crashes, nothing is left, and every token is told."""

import asyncio
import signal
import threading
import time

import httpx2
import psutil
import pytest
from mixed_requests import WITHOUT_LEAVING, mixed
from served_process import QUESTION, Served, served

import butwait

pytestmark = pytest.mark.slow
CANCELLED_S = 1.0
"""Within how many seconds of a client's leaving its tokens must have stopped."""


def idle(server: Served, seconds: float = 10) -> None:
    """Waits until nothing runs or waits."""
    deadline = time.monotonic() + seconds
    while server.metric("butwait_requests_running") + server.metric("butwait_requests_waiting"):
        assert time.monotonic() < deadline, "requests are left"
        time.sleep(0.05)


def sampled(server: Served) -> float:
    return server.metric("butwait_engine_policy_tokens_total")


def test_a_thousand_mixed_requests(server: Served) -> None:
    asyncio.run(mixed(server.base, 150, seed=1))
    idle(server)
    warm = server.memory()
    seen = asyncio.run(mixed(server.base, 1000, seed=2))
    idle(server)
    assert seen.kinds["leaves"] > 100
    server.lives()
    assert server.memory() <= 1.1 * warm
    before = sampled(server)
    time.sleep(0.5)
    assert sampled(server) == before  # nobody is asked any more
    assert "Traceback" not in "".join(server.told)


def test_the_told_usage_is_what_the_engine_counted(server: Served) -> None:
    idle(server)
    before = sampled(server)
    seen = asyncio.run(mixed(server.base, 120, seed=3, shares=WITHOUT_LEAVING))
    idle(server)
    assert sampled(server) - before == seen.told > 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("method", ["sc", "pf"])
def test_tokens_stop_when_the_client_leaves(server: Served, method: str, stream: bool) -> None:
    """A search of a minute is left in its midst. Steps are counted when they are whole, so that the
    time that the process takes says more."""
    idle(server)
    body = {
        "model": f"tiny@{method}-512",
        "messages": [{"role": "user", "content": QUESTION}],
        "stream": stream,
        "max_tokens": 400,
        "seed": 0,
        "temperature": 2.0,
    }

    async def ask_and_leave() -> None:
        async with httpx2.AsyncClient(base_url=server.base, timeout=60, trust_env=False) as http:
            asking = asyncio.ensure_future(http.post("/v1/chat/completions", json=body))
            while not await asyncio.to_thread(server.metric, "butwait_requests_running"):
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.5)
            assert not asking.done(), "the search was too short to be left"
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(ask_and_leave())
    time.sleep(CANCELLED_S)
    assert server.metric("butwait_requests_running") == 0
    assert server.metric("butwait_requests_cancelled_total") > 0
    stopped, worked = sampled(server), server.worked()
    time.sleep(1)
    assert sampled(server) == stopped
    assert server.worked() - worked < 0.3


@pytest.mark.parametrize("method", ["particle_filter", "self_consistency"])
def test_the_same_seed_gives_the_answer_of_solve(server: Served, method: str) -> None:
    """Beside other requests, too: they share its batch."""
    found = butwait.solve(QUESTION, model="tiny", method=method, particles=8, seed=5)

    async def ask() -> list[httpx2.Response]:
        async with httpx2.AsyncClient(base_url=server.base, timeout=60, trust_env=False) as http:
            bodies = [
                {
                    "model": f"tiny@{method}-8",
                    "messages": [{"role": "user", "content": QUESTION}],
                    "seed": seed,
                }
                for seed in (5, 1, 2, 5)
            ]
            return await asyncio.gather(
                *(http.post("/v1/chat/completions", json=body) for body in bodies)
            )

    first, *_, last = asyncio.run(ask())
    for answer in (first, last):
        assert answer.status_code == 200, answer.text
        told = answer.json()
        (choice,) = told["choices"]
        assert choice["message"]["content"] == found.text
        assert choice["butwait"]["answer"] == found.answer
        assert told["usage"]["completion_tokens"] == found.usage.policy_tokens


def test_sigterm_drains_and_ends_with_0() -> None:
    """Streams that run are finished, nobody new is let in, no process is left."""
    with served() as server:
        below = psutil.Process(server.process.pid).children(recursive=True)
        body = {
            "model": "tiny@sc-16",
            "messages": [{"role": "user", "content": QUESTION}],
            "stream": True,
            "max_tokens": 200,
            "temperature": 2.0,
        }
        lines: list[list[str]] = [[] for _ in range(4)]
        begun = threading.Barrier(5)

        def read(mine: list[str]) -> None:
            with httpx2.Client(base_url=server.base, timeout=60, trust_env=False) as http:
                with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                    assert answer.status_code == 200
                    begun.wait(30)
                    mine.extend(answer.iter_lines())

        readers = [threading.Thread(target=read, args=(mine,)) for mine in lines]
        for reader in readers:
            reader.start()
        begun.wait(30)
        server.process.send_signal(signal.SIGTERM)
        for reader in readers:
            reader.join(40)
        assert server.process.wait(40) == 0, "".join(server.told)
        for mine in lines:
            assert [line for line in mine if line][-1] == "data: [DONE]"
        assert "Traceback" not in "".join(server.told)
        assert not [process for process in below if process.is_running()]
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{server.base}/healthz", trust_env=False)

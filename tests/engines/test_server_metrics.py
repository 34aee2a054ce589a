"""``live_tokens: auto``: what a server says at ``/metrics``, and what becomes of it."""

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from butwait.engines.engine import Continuation, EngineCounters, Prefix
from butwait.engines.gate import GatedEngine, TokenGate, Watch
from butwait.engines.kinds.openai import OpenAISettings
from butwait.engines.load import load_engine
from butwait.engines.scheduling.loads import Load, load_of
from butwait.engines.servers.metrics import MetricsPages
from butwait.engines.settings import ModelSettings, Sampling, StepRule
from butwait.problems.settings import PromptSettings
from butwait.records import Key

TEXT = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a \\"b\\", c"} 12.0
vllm:num_requests_waiting{engine="0",model_name="m"} 6.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:num_preemptions_total{engine="0",model_name="m"} 3.0
vllm:num_preemptions_created{engine="0",model_name="m"} 1.8e+09
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="100",sliding_window="None"} 1.0
process_open_fds 33.0
"""


def test_what_vllm_writes_is_read() -> None:
    assert load_of(TEXT) == Load(1600, 0.25, 3, 12, 6)


def test_engines_of_one_server_are_one() -> None:
    other = TEXT.replace('engine="0"', 'engine="1"').replace("0.25", "0.75")
    assert load_of(TEXT + other) == Load(3200, 0.75, 6, 24, 12)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>Not found</html>",
        "llamacpp:kv_cache_usage_ratio 0.3\n",
        TEXT.replace('num_gpu_blocks="100"', 'num_gpu_blocks="None"'),
        TEXT.replace("0.25", "NaN"),
        TEXT.replace("0.25", "much"),
    ],
)
def test_what_says_nothing_of_a_cache(text: str) -> None:
    assert load_of(text) is None


class Server:
    """Serves a page at ``/metrics``; None: it has none."""

    def __init__(self) -> None:
        outer, self.page, self.asked = self, TEXT, 0

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                there = self.path == "/metrics" and outer.page is not None
                outer.asked += 1
                self.send_response(200 if there else 404)
                self.end_headers()
                self.wfile.write((outer.page or "").encode() if there else b"{}")

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.server.shutdown()
    server.server.server_close()


def load(url: str) -> Load | None:
    settings = OpenAISettings(kind="openai", base_url=url)

    async def run() -> Load | None:
        pages = MetricsPages(settings, [url])
        try:
            return await pages.load()
        finally:
            await pages.close()

    return asyncio.run(run())


def test_the_page_beside_the_servers_paths_is_asked(server: Server) -> None:
    assert load(server.url) == load(server.url + "/") == Load(1600, 0.25, 3, 12, 6)
    server.page = None  # type: ignore[assignment]
    assert load(server.url) is None
    server.server.shutdown()
    server.server.server_close()
    assert load(server.url) is None


class Told:
    """An engine that is as full as it is told to be."""

    counters = EngineCounters()

    def __init__(self, load: Load | None) -> None:
        self.now, self.trimmed, self.lengths = load, 0, [0]

    async def load(self) -> Load | None:
        return self.now

    def trim(self, share: float) -> None:
        self.trimmed += 1

    async def extend(self, prefixes: Any, rule: Any, sampling: Any, keys: Any) -> Any:
        self.lengths.append(len(prefixes))
        await asyncio.sleep(0)
        nothing = np.zeros(0, np.float32)
        return [Continuation(p.token_ids, "", nothing, "step", p, 0) for p in prefixes]


RULE = StepRule(max_tokens=10, max_step_tokens=4)


async def extend(engine: GatedEngine, paths: int) -> None:
    prefixes = [Prefix(np.full(6, n, np.int32), prompt_length=6) for n in range(paths)]
    keys = [Key.of(0, "m").at(particle=n) for n in range(paths)]
    await engine.extend(prefixes, RULE, Sampling(), keys)


def watched(told: Any) -> tuple[GatedEngine, TokenGate]:
    gate = TokenGate(None)
    engine = GatedEngine(told, gate, watch=Watch(gate, told, 10, "the engine own", every=0))
    return engine, gate


def test_the_bound_follows_what_the_engine_says() -> None:
    async def run() -> dict[str, Any]:
        told = Told(Load(105, 0.5, preemptions=2))
        engine, gate = watched(told)
        await extend(engine.turn(), 4)  # type: ignore[arg-type]
        assert (gate.bound, gate.most) == (100, 40)
        told.now = Load(105, 0.85, preemptions=3)
        await extend(engine, 1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (gate.bound, told.trimmed) == (80, 1)
        told.now = None  # it is away for a while: the bound stays
        await extend(engine, 1)
        assert gate.bound == 80
        return engine.figures()

    figures = asyncio.run(run())
    assert [cap for _, cap in figures.pop("caps")] == [100, 80]
    assert figures == {"live": 40, "preemptions": 1}


def test_an_engine_that_tells_nothing_is_said_to_once(capsys: pytest.CaptureFixture[str]) -> None:
    async def run() -> float:
        engine, gate = watched(Told(None))
        for _ in range(3):
            await extend(engine, 30)
        return gate.bound

    assert asyncio.run(run()) == float("inf")
    told = "the engine own tells nothing of its cache, so live_tokens: auto bounds nothing"
    assert capsys.readouterr().out.count(told) == 1


def test_settings_make_it_so(server: Server) -> None:
    settings = OpenAISettings(
        kind="openai", base_url=server.url, live_tokens="auto", capacity=160, max_rows=40
    )
    tiny = ModelSettings(name="tiny")
    engine, _, _ = load_engine(settings, tiny, PromptSettings(), [], [])
    assert isinstance(engine, GatedEngine)
    assert engine.rows is not None
    assert engine.rows.pays == 40

    async def looked() -> float:
        assert engine._watch is not None
        await engine._watch.ready()
        await engine.close()
        return engine._gate.bound

    assert asyncio.run(looked()) == 1600

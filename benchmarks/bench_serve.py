"""`butwait serve` and its_hub's gateway, asked the same things before the same vLLM server.

    make bench-serve
    python benchmarks/bench_serve.py [--model smollm2] [--only its_hub]
    python benchmarks/bench_serve.py --only together   # needs no vLLM

Both stand before one vLLM server (a CPU's), which writes ``CAP`` tokens a path at most, whatever it
is asked, and both are asked for ``BUDGET`` samples, of which a vote chooses:

- ``answers``: the tokens that the answer tells, and those that the server counted (`/metrics`).
  Seconds to the answer, by the clock and of all processes' CPU time, over what the server
  wrote for it.
- ``stream``: the same as a stream: when its first byte, first text and end came, in how many pieces
  the text, and whether it told its usage, as asked.
- ``asked``: is ``max_tokens`` kept, and does a seed give the same answer twice?
- ``malformed``: the status of each bad body, and whether what came is an OpenAI error.
- ``left``: the client leaves after ``LEAVE_S``: tokens that the server wrote later than a second
  after that, as long as it wrote any.
- ``dead``: the same question when vLLM is dead: status, error, seconds (at most ``DEAD_S``).

``together``: `butwait serve` alone, the tiny model in its process: ``TOGETHER`` requests at once
over the same requests one after another.

Results go to ``benchmarks/results/serve.json``.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import yaml
from bench_engine import conditions
from bench_search import CAPACITY, LOG, cpu_seconds, server_counters, vllm_server

from butwait.engines.settings import ModelSettings
from butwait.running.files import write_json

RESULTS = Path(__file__).parent / "results" / "serve.json"
BUDGET = 8
"""Samples of a question."""
CAP = 128
"""Tokens of a path at most, by vLLM's own default: its_hub sends no limit."""
REPEATS = 3
LEAVE_S = 3.0
DEAD_S = 120.0
TOGETHER = 32
PARTICLES = 8
START_S = 300
QUESTION = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in "
    "May. How many clips did Natalia sell altogether in April and May? Put the final number in "
    "\\boxed{}."
)
EASY = "Calculate 7 + 8 - 6."
"""What the tiny model was trained on."""
Body = dict[str, Any]

MALFORMED: Mapping[str, bytes | Body] = {
    "no JSON": b"{",
    "empty": b"",
    "a list": b"[]",
    "no messages": {},
    "messages empty": {"messages": []},
    "a role that is none": {"messages": [{"role": "wizard", "content": "2 + 2?"}]},
    "content a number": {"messages": [{"role": "user", "content": 7}]},
    "temperature -1": {"temperature": -1},
    "temperature a word": {"temperature": "hot"},
    "max_tokens 0": {"max_tokens": 0},
    "n 1,000,000": {"n": 1_000_000},
    "another model": {"model": "another"},
    "a picture": {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
        ]
    },
}
"""Bad bodies: bytes as they are sent, or what they change of a good one."""


@dataclass(frozen=True)
class Gateway:
    """One that answers as OpenAI's API does.

    Attributes:
        base: its address, without ``/v1``.
        chosen: fields of a body that choose the model, the method and its budget.
    """

    name: str
    base: str
    chosen: Body

    def body(self, **more: Any) -> Body:
        return {"messages": [{"role": "user", "content": QUESTION}]} | self.chosen | more

    def client(self, seconds: float = 600) -> httpx2.Client:
        return httpx2.Client(base_url=self.base, timeout=seconds, trust_env=False)

    def ask(self, body: bytes | Body, seconds: float = 600) -> httpx2.Response:
        """The answer of a request whose body is no stream."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        with self.client(seconds) as client:
            return client.post(
                "/v1/chat/completions",
                content=content,
                headers={"Content-Type": "application/json"},
            )


@contextmanager
def started(command: list[str], ready: str, log: Path) -> Iterator[str]:
    """A server on a free port, which the command is told by ``{port}``; its base URL. ``ready`` is
    a path that it answers when it is."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [word.replace("{port}", str(port)) for word in command],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + START_S
            while True:
                try:
                    httpx2.get(base + ready, timeout=5, trust_env=False)
                    break
                except httpx2.TransportError:
                    pass
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{command[2]} did not start; see {log}")
                time.sleep(0.2)
            yield base
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def its_hub(upstream: str, model: str, folder: Path) -> Iterator[Gateway]:
    """its_hub's gateway, told of the server: its one method is a vote over samples."""
    module = "its_hub.integration.iaas.app_server"
    command = [sys.executable, "-m", module, "--port", "{port}", "--log-level", "WARNING"]
    with started(command, "/v1/models", folder / "its_hub.log") as base:
        told = {
            "endpoint": f"{upstream}/v1",
            "api_key": "none",
            "model": model,
            "alg": "self-consistency",
            "regex_patterns": [r"\\boxed\{([^}]*)\}"],
            "budget": BUDGET,
        }
        httpx2.post(f"{base}/configure", json=told, trust_env=False).raise_for_status()
        yield Gateway("its_hub", base, {"model": model, "budget": BUDGET})


@contextmanager
def butwait(upstream: str, model: str, folder: Path) -> Iterator[Gateway]:
    """`butwait serve` before the same server: as many samples, and a vote."""
    rule = {"delimiters": [], "max_tokens": CAP, "stop_at_box": False}
    told = {
        "model": model,
        # How log-probabilities are meant was said when the server was started.
        "engine": {
            "kind": "openai",
            "base_url": f"{upstream}/v1",
            "capacity": CAPACITY,
            "any_logprobs": True,
        },
        "prompt": {"template": "{question}"},
        "methods": {"vote": {"kind": "self_consistency", "samples": BUDGET, "step": rule}},
    }
    config = folder / "serve.yaml"
    config.write_text(yaml.safe_dump(told))
    with served("--config", str(config), log=folder / "butwait.log") as base:
        yield Gateway("butwait", base, {"model": f"{model}@vote"})


@contextmanager
def served(*words: str, log: Path) -> Iterator[str]:
    """`butwait serve` with these words; its base URL."""
    command = [sys.executable, "-m", "butwait", "serve", "--port", "{port}", *words]
    with started(command, "/healthz", log) as base:
        yield base


GATEWAYS = {"its_hub": its_hub, "butwait": butwait}


def generated(upstream: str) -> float:
    return server_counters(upstream)["generated"]


def prompts(upstream: str) -> float:
    """Prompt tokens that the server was sent so far, cached ones too."""
    text = httpx2.get(f"{upstream}/metrics", trust_env=False).text
    lines = [line for line in text.splitlines() if line.startswith("vllm:prompt_tokens_total{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def settled(upstream: str) -> float:
    """Tokens that the server wrote so far, once it writes no more."""
    before, now = -1.0, generated(upstream)
    while now != before:
        time.sleep(1)
        before, now = now, generated(upstream)
    return now


def asked_once(gateway: Gateway, upstream: str, body: Body) -> Body:
    """One question: what its answer tells and what the server counted."""
    wrote, read = settled(upstream), prompts(upstream)
    cpu, start = cpu_seconds(), time.perf_counter()
    answer = gateway.ask(body)
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu
    if answer.status_code != 200:
        raise SystemExit(f"{gateway.name}: {answer.status_code}: {answer.text}")
    told = answer.json()
    (choice,) = told["choices"]
    names = ("prompt", "completion", "total")
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "told": {name: told["usage"][f"{name}_tokens"] for name in names},
        "counted": {"prompt": prompts(upstream) - read, "completion": settled(upstream) - wrote},
        "finish_reason": choice["finish_reason"],
        "text": choice["message"]["content"][-60:],
    }


def streamed(gateway: Gateway, upstream: str) -> Body:
    """The same as a stream: when what came, and its usage beside the server's count."""
    wrote = settled(upstream)
    found: Body = {"first_byte_s": None, "first_text_s": None, "texts": 0, "comments": 0}
    body = gateway.body(stream=True, stream_options={"include_usage": True})
    start = time.perf_counter()
    usage, last = None, None
    with gateway.client() as client:
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            found["status"] = answer.status_code
            for line in answer.iter_lines():
                now = round(time.perf_counter() - start, 2)
                found["first_byte_s"] = found["first_byte_s"] or now
                found["comments"] += line.startswith(":")
                if not line.startswith("data:"):
                    continue
                last = line[5:].strip()
                chunk = {} if last == "[DONE]" else json.loads(last)
                usage = chunk.get("usage") or usage
                choices = chunk.get("choices") or [{}]
                if choices[0].get("delta", {}).get("content"):
                    found["texts"] += 1
                    found["first_text_s"] = found["first_text_s"] or now
    found["seconds"] = round(time.perf_counter() - start, 2)
    found["ends_with_done"] = last == "[DONE]"
    found["told"] = usage and usage.get("completion_tokens")
    return found | {"counted": settled(upstream) - wrote}


def left(gateway: Gateway, upstream: str, stream: bool) -> Body:
    """The client leaves. Tokens that the server writes from a second after that, and for how long
    it writes."""
    before = settled(upstream)
    with gateway.client(LEAVE_S) as client:
        try:
            with client.stream(
                "POST", "/v1/chat/completions", json=gateway.body(stream=stream)
            ) as answer:
                start = time.perf_counter()
                for _ in answer.iter_raw():
                    if time.perf_counter() - start > LEAVE_S:
                        break
        except httpx2.ReadTimeout:
            pass
    gone, at_leave = time.perf_counter(), generated(upstream)
    time.sleep(1)
    after_a_second = generated(upstream)
    last, end = after_a_second, time.perf_counter()
    while time.perf_counter() - end < 3:
        time.sleep(0.2)
        if (now := generated(upstream)) != last:
            last, end = now, time.perf_counter()
    return {
        "written_when_left": at_leave - before,
        "in_the_first_second": after_a_second - at_leave,
        "later": last - after_a_second,
        "wrote_on_for_s": round(end - gone, 1) if last > after_a_second else 0.0,
    }


def judged(answer: httpx2.Response) -> Body:
    """The status, and whether the body, or a stream's event, is an OpenAI error."""
    events = [line for line in answer.text.splitlines() if line.startswith('data: {"error"')]
    try:
        error = json.loads(events[0][6:] if events else answer.text).get("error")
    except (ValueError, AttributeError):
        error = None
    proper = isinstance(error, dict) and {"message", "type", "param", "code"} <= set(error)
    return {"status": answer.status_code, "openai_error": proper}


def malformed(gateway: Gateway) -> dict[str, Body]:
    """Of each bad body the status, and whether the answer is an OpenAI error."""
    found = {}
    for name, bad in MALFORMED.items():
        body = bad if isinstance(bad, bytes) else gateway.body(**bad)
        if name == "no messages":
            del body["messages"]
        try:
            found[name] = judged(gateway.ask(body, DEAD_S))
        except httpx2.TransportError as error:
            found[name] = {"status": type(error).__name__, "openai_error": False}
    return found


def dead(gateway: Gateway, stream: bool) -> Body:
    """A question behind which nothing answers."""
    start = time.perf_counter()
    try:
        answer = gateway.ask(gateway.body(stream=stream), DEAD_S)
        found = judged(answer) | {"text": answer.text[:200]}
    except httpx2.TransportError as error:
        found = {"status": type(error).__name__, "openai_error": False}
    return found | {"seconds": round(time.perf_counter() - start, 1)}


def a_hundred(times: Sequence[Body], clock: str) -> float:
    """Seconds for a hundred tokens that the server wrote, the median."""
    each = (one[clock] / one["counted"]["completion"] for one in times)
    return round(100 * statistics.median(each), 2)


def compared(gateway: Gateway, upstream: str) -> Body:
    """All that is asked while the server lives."""

    def told(name: str, found: Any) -> Any:
        print(gateway.name, name, json.dumps(found), flush=True)
        return found

    asked_once(gateway, upstream, gateway.body(max_tokens=16))  # warm-up
    times = [asked_once(gateway, upstream, gateway.body()) for _ in range(REPEATS)]
    few = asked_once(gateway, upstream, gateway.body(max_tokens=16, seed=3, temperature=1.0))
    again = asked_once(gateway, upstream, gateway.body(max_tokens=16, seed=3, temperature=1.0))
    return {
        "answers": told("answers", times),
        "seconds_per_100_tokens": told("seconds_per_100_tokens", a_hundred(times, "seconds")),
        "cpu_seconds_per_100_tokens": a_hundred(times, "cpu_seconds"),
        "stream": told("stream", streamed(gateway, upstream)),
        "asked": told(
            "asked",
            {
                "tokens_of_16_each": few["counted"]["completion"] / BUDGET,
                "same_seed_same_text": few["text"] == again["text"],
            },
        ),
        "left_answer": told("left_answer", left(gateway, upstream, stream=False)),
        "left_stream": told("left_stream", left(gateway, upstream, stream=True)),
        "malformed": told("malformed", malformed(gateway)),
    }


def beside(model: ModelSettings, names: Sequence[str], log: Path) -> Body:
    """Each gateway before the same server, one after another; the server is killed at last."""
    found: dict[str, Body] = {}
    more = ["--override-generation-config", json.dumps({"max_new_tokens": CAP})]
    with ExitStack() as standing, ExitStack() as server:
        upstream = server.enter_context(vllm_server(model, log, more))
        gateways = [
            standing.enter_context(GATEWAYS[name](upstream, model.name, log.parent))
            for name in names
        ]
        for gateway in gateways:
            found[gateway.name] = compared(gateway, upstream)
        server.close()  # by SIGKILL
        for gateway in gateways:
            for way, stream in (("dead_answer", False), ("dead_stream", True)):
                found[gateway.name][way] = dead(gateway, stream)
                print(gateway.name, way, found[gateway.name][way], flush=True)
    return found


def together(folder: Path) -> Body:
    """``TOGETHER`` requests one after another, and at once: the same seeds, so the same tokens."""
    log = folder / "together.log"
    with served("--model", "tiny", "--particles", str(PARTICLES), log=log) as base:
        limits = httpx2.Limits(max_connections=TOGETHER)
        client = httpx2.Client(base_url=base, timeout=600, limits=limits, trust_env=False)
        question = {"role": "user", "content": EASY}

        def ask(seed: int) -> int:
            body = {"model": "tiny", "messages": [question], "seed": seed, "max_tokens": 64}
            answer = client.post("/v1/chat/completions", json=body)
            answer.raise_for_status()
            return int(answer.json()["usage"]["completion_tokens"])

        def timed(at_once: int) -> Body:
            with ThreadPoolExecutor(at_once) as threads:
                start = time.perf_counter()
                tokens = sum(threads.map(ask, range(TOGETHER)))
                seconds = time.perf_counter() - start
            return {"seconds": round(seconds, 2), "tokens": tokens}

        runs = {"one_after_another": [], "at_once": []}
        timed(TOGETHER)
        for _ in range(REPEATS):
            runs["one_after_another"].append(timed(1))
            runs["at_once"].append(timed(TOGETHER))
        client.close()

    def median(name: str) -> float:
        return statistics.median(run["seconds"] for run in runs[name])

    found = {"requests": TOGETHER, "particles": PARTICLES, "model": "tiny", "runs": runs}
    ratio = median("one_after_another") / median("at_once")
    return found | {"at_once_over_one_after_another": round(ratio, 2), "at_least": 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--only", choices=[*GATEWAYS, "together"], help="default: all")
    parser.add_argument("--log", type=Path, default=LOG)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    model = ModelSettings(name=arguments.model, dtype=arguments.dtype)
    found: Body = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    if arguments.only in (None, "together"):
        found["together"] = together(arguments.log.parent) | conditions(threads)
        print(found["together"], flush=True)
    if names := [name for name in GATEWAYS if arguments.only in (None, name)]:
        conditioned = conditions(threads) | {"model": model.name, "dtype": model.dtype}
        for name, told in beside(model, names, arguments.log).items():
            found[name] = told | {"conditions": conditioned}
    write_json(arguments.output, found)


if __name__ == "__main__":
    main()

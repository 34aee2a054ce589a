"""Records what a real server answers, to be played back by tests/engines/test_recorded_servers.py.

The server has the package's tiny model under the name ``tiny``, on this machine, with a context of
256 tokens:

    vllm serve src/butwait/models/tiny --served-model-name tiny --max-model-len 256 \\
        --host 127.0.0.1 --port 8000 --dtype float32 --enforce-eager --no-enable-chunked-prefill \\
        --logprobs-mode processed_logprobs --enable-prompt-tokens-details
    python scripts/record_server.py --url http://127.0.0.1:8000 --out vllm.jsonl

It is asked twice over: by the ``openai`` engine (``PATHS``; a proxy in between writes down what
went to and fro), and by requests that other clients make (``REQUESTS``). A line of the file is one
exchange: ``case``, ``method``, ``path``, ``body``, ``status``, ``headers``, ``reply`` (as text),
and ``cut`` where the connection broke before the reply's end.

With ``--kill`` one path alone is asked for, and the process of that number is killed as soon as
its first tokens are there: the server, the worker behind it, or what a gateway asks.

With ``--reward-model`` the server pools: it has that folder's Qwen2.5-Math-PRM under the name
``prm``, and scores ``SOLUTIONS``.
"""

import argparse
import asyncio
import http.client
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from butwait.engines.engine import Continuation, Engine
from butwait.engines.kinds.openai import OpenAISettings, start_openai
from butwait.engines.models import load_tokenizer
from butwait.engines.settings import ModelSettings, Sampling, StepRule
from butwait.problems.settings import PromptSettings
from butwait.records import OPEN, Key, Problem, UserError
from butwait.reward_models.kinds.pooling import PoolingSettings
from butwait.reward_models.load import load_reward_model
from butwait.reward_models.reward_model import Path as Solution
from butwait.reward_models.reward_model import RewardModel, Step

MODEL = ModelSettings(name="tiny", device="cpu")
TURNS = PromptSettings(template="{question}")
QUESTION = "Calculate 7 + 8 - 6."
GREEDY = Sampling(temperature=0)
KEPT = ("Content-Type", "Location", "Retry-After")
"""Headers of a reply that are written down."""


@dataclass(frozen=True)
class Walk:
    """A path that the engine grows step by step, to its end.

    Attributes:
        rule: where its steps end.
        sampling: how its tokens are drawn.
        settings: of the engine, beside its address.
        question: what is asked.
        scored: whether its tokens are scored at the end.
    """

    rule: StepRule
    sampling: Sampling = GREEDY
    settings: dict[str, Any] = field(default_factory=dict)
    question: str = QUESTION
    scored: bool = False


WHOLE = StepRule(delimiters=(), max_tokens=60, stop_at_box=False)
BEGIN = StepRule(delimiters=(), max_tokens=6)
PATHS = {
    "steps": Walk(StepRule(delimiters=("\n",), max_tokens=60)),
    "whole": Walk(WHOLE, settings={"mode": "completions"}, scored=True),
    "turns": Walk(BEGIN.model_copy(update={"max_step_tokens": 3}), settings={"mode": "chat"}),
    "sampled": Walk(BEGIN, Sampling()),
    "shaped": Walk(BEGIN, Sampling(temperature=0.7, top_k=5, top_p=0.9)),
    "full": Walk(StepRule(max_tokens=500), question="Calculate 7" + " + 8" * 121),
    "too_long": Walk(BEGIN, settings={"mode": "completions"}, question="8" * 260),
    "unknown": Walk(BEGIN, settings={"served_model": "nobody"}),
}

DIES = Walk(StepRule(delimiters=(), max_tokens=200, stop_at_box=False))
"""The path in the midst of which a server dies."""

IDS = [1, 284, 201, 292, 25, 260, 26, 16, 2, 201, 1, 294, 201]
TEXT = "<|im_start|>user\nCalculate 7 + 8.<|im_end|>\n<|im_start|>assistant\n"
SAID = [{"role": "user", "content": "Calculate 7 + 8."}]
BEGUN = [*SAID, {"role": "assistant", "content": "7 + 8 = "}]
FEW = {"model": "tiny", "max_tokens": 4, "temperature": 0}
LIKELY = {"logprobs": True, "top_logprobs": 1}
HALF = FEW | {"prompt": IDS, "logprobs": 1, "grammar": 'root ::= "½7"'}
"""For llama.cpp: the tiny model's first two tokens of this are the bytes of one character."""
REQUESTS: dict[str, tuple[str, dict[str, Any] | None]] = {
    "models": ("/models", None),
    "text": ("/completions", FEW | {"prompt": TEXT, "logprobs": 1}),
    "ids": ("/completions", FEW | {"prompt": IDS, "logprobs": 1}),
    "ids stream": ("/completions", FEW | {"prompt": IDS, "logprobs": 1, "stream": True}),
    "chat": ("/chat/completions", FEW | LIKELY | {"messages": SAID}),
    "chat stream": ("/chat/completions", FEW | LIKELY | {"messages": SAID, "stream": True}),
    "chat silent": ("/chat/completions", FEW | {"messages": SAID}),
    "chat silent stream": ("/chat/completions", FEW | {"messages": SAID, "stream": True}),
    "two": ("/completions", FEW | {"prompt": IDS, "n": 2, "temperature": 1.0}),
    "stop": ("/completions", FEW | {"prompt": IDS, "logprobs": 1, "stop": [" = "]}),
    "begun": (
        "/chat/completions",
        FEW
        | LIKELY
        | {"messages": BEGUN, "continue_final_message": True, "add_generation_prompt": False},
    ),
    "unknown": ("/completions", FEW | {"prompt": IDS, "model": "nobody"}),
    "too long": ("/completions", FEW | {"prompt": IDS * 20}),
    "beyond": ("/completions", FEW | {"prompt": [*IDS, 10**6]}),
    "negative": ("/completions", FEW | {"prompt": [*IDS, -1]}),
    "nothing": ("/completions", FEW | {"prompt": []}),
    "hot": ("/completions", FEW | {"prompt": IDS, "temperature": -1}),
    "half": ("/completions", HALF),
    "half stream": (
        "/completions",
        HALF | {"stream": True, "stream_options": {"include_usage": True}},
    ),
    "nowhere": ("/nowhere", FEW),
}

_TEXTS = ("First we add.\n\n", "1 + 2 = 3.\n\n", "So \\boxed{3}")
SOLUTIONS = [
    Solution(tuple(Step(np.zeros(1, np.int32), text) for text in _TEXTS[:n])) for n in (3, 1, 2)
]


def made(url: str, path: Walk) -> Engine:
    """The engine that grows a path at the server ``url``."""
    settings = {"kind": "openai", "base_url": url, "retries": 0, "timeout_s": 60}
    chosen = OpenAISettings(**settings | path.settings)
    return start_openai(MODEL, load_tokenizer(MODEL), chosen, TURNS)


async def grown(
    engine: Engine, path: Walk
) -> tuple[list[Continuation], np.ndarray | None, str | None]:
    """A path's steps, the score of its tokens where one is asked for, and the sentence that an
    error ended it with."""
    steps: list[Continuation] = []
    score = None
    try:
        begin = prefix = engine.start(Problem("q", path.question, None))
        while not steps or steps[-1].finish in OPEN:
            key = Key.of(0, "recorded").at(step=len(steps))
            steps += await engine.extend([prefix], path.rule, path.sampling, [key])
            prefix = steps[-1].prefix
        if path.scored:
            [score] = await engine.score([begin], [prefix.token_ids[begin.prompt_length :]])
    except UserError as error:
        return steps, score, str(error)
    finally:
        await engine.close()
    return steps, score, None


def scored(model: RewardModel) -> list[float]:
    """The logits of the solutions."""

    async def ask() -> list[float]:
        try:
            problem = Problem("q", "What is 1 + 2?", "3")
            return [score.logit for score in await model.score(problem, SOLUTIONS)]
        finally:
            await model.close()

    return asyncio.run(ask())


class Recorder:
    """What was asked and answered.

    Args:
        target: host and port of the server.
        victim: the process that is killed when a path's first tokens are there.

    Attributes:
        case: what the next exchanges belong to.
        lines: one for each exchange.
    """

    def __init__(self, target: str, victim: int | None = None) -> None:
        self.target, self.victim = target, victim
        self.case = ""
        self.lines: list[dict[str, Any]] = []

    def ask(self, method: str, path: str, body: Any) -> tuple[int, dict[str, str], bytes]:
        """Asks the server, and writes down what it says."""
        connection = http.client.HTTPConnection(self.target, timeout=120)
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        reply, cut = b"", False
        dies = (body or {}).get("max_tokens") == DIES.rule.max_tokens
        try:
            while piece := response.read1():
                reply += piece
                if dies and self.victim is not None:
                    os.kill(self.victim, signal.SIGKILL)
                    self.victim = None
        except (http.client.IncompleteRead, ConnectionError):
            cut = True
        connection.close()
        headers = {name: value for name in KEPT if (value := response.headers[name]) is not None}
        line = {"case": self.case, "method": method, "path": path, "body": body}
        line |= {"status": response.status, "headers": headers, "reply": reply.decode()}
        line |= {"cut": True} if cut else {}
        self.lines.append(line)
        return response.status, headers, reply


class _Proxy(BaseHTTPRequestHandler):
    def __init__(self, recorder: Recorder, *args: Any) -> None:
        self._recorder = recorder
        super().__init__(*args)

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self._pass_on(None)

    def do_POST(self) -> None:
        self._pass_on(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _pass_on(self, body: Any) -> None:
        status, headers, reply = self._recorder.ask(self.command, self.path, body)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """The engine hangs up where a step ends."""


@contextmanager
def proxied(recorder: Recorder) -> Iterator[str]:
    """The address of a proxy that writes down what goes through it."""
    with _Quiet(("127.0.0.1", 0), partial(_Proxy, recorder)) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{proxy.server_address[1]}"
        finally:
            proxy.shutdown()


def record_policy(recorder: Recorder) -> None:
    """All paths and all requests."""
    with proxied(recorder) as url:
        for name, path in PATHS.items():
            recorder.case = name
            steps, _, error = asyncio.run(grown(made(f"{url}/v1", path), path))
            print(name, [(step.text, step.finish) for step in steps], error or "")
    for name, (where, body) in REQUESTS.items():
        recorder.case = f"request: {name}"
        recorder.ask("GET" if body is None else "POST", f"/v1{where}", body)
        print(recorder.case, recorder.lines[-1]["status"])


def record_death(recorder: Recorder) -> None:
    """A path whose server dies."""
    recorder.case = "dies"
    with proxied(recorder) as url:
        steps, _, error = asyncio.run(grown(made(f"{url}/v1", DIES), DIES))
        print(recorder.case, [(step.text, step.finish) for step in steps], error or "")


def record_reward_model(recorder: Recorder, folder: Path) -> None:
    """The scores of all solutions."""
    recorder.case = "pooling"
    with proxied(recorder) as url:
        settings = {"kind": "pooling", "base_url": url, "served_model": "prm", "retries": 0}
        chosen = PoolingSettings(name=str(folder), **settings)
        print(recorder.case, scored(load_reward_model(chosen, None)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True, help="of the server, without /v1")
    parser.add_argument("--out", type=Path, required=True, help="the .jsonl file to write")
    parser.add_argument("--reward-model", type=Path, help="folder of the model that pools")
    parser.add_argument("--kill", type=int, help="the process to be killed in the midst of a path")
    given = parser.parse_args()
    recorder = Recorder(urlsplit(given.url).netloc, given.kill)
    if given.kill is not None:
        record_death(recorder)
    elif given.reward_model is not None:
        record_reward_model(recorder, given.reward_model)
    else:
        record_policy(recorder)
    with given.out.open("w", encoding="utf-8") as file:
        for line in recorder.lines:
            file.write(json.dumps(line, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()

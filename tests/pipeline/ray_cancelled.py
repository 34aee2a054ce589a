"""What tests do with work on Ray that nobody waits for any more (``ray_alone.py``)."""

import asyncio
import hashlib
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

from butwait.engines.kinds.scripted import ScriptedSettings
from butwait.engines.settings import ModelSettings
from butwait.problems.settings import PromptSettings
from butwait.records import Key, Problem, SearchTree, UserError
from butwait.running.plugins import find_modules_in
from butwait.search.samplers.samples import SelfConsistencySettings
from butwait.search.storage import write_shard
from butwait.stages.searching import Growing
from butwait.workers.crew import Crew, at_work
from butwait.workers.job import Job
from butwait.workers.settings import WorkersSettings

CALLS = Path("calls.txt")
PLUGIN = '''
"""A policy that notes each of its calls, and work that tells what is left in its process."""
import asyncio, time
from dataclasses import dataclass
from butwait.engines.scripted import ScriptedEngine
from butwait.stages.searching import Growing

def next_line(question, text):
    if "endless" in question:
        return {"a\\n": 1.0}
    return {"a\\n": 0.5, "b\\n": 0.5} if not text else {"\\\\boxed{3}": 0.7, "\\\\boxed{5}": 0.3}

class Noting(ScriptedEngine):
    async def extend(self, prefixes, rule, sampling, keys):
        prompt = prefixes[0].token_ids[: prefixes[0].prompt_length].tolist()
        with open("calls.txt", "a") as file:
            print(time.time(), self.tokenizer.decode(prompt), file=file)
        return await super().extend(prefixes, rule, sampling, keys)

def policy():
    return Noting(next_line, ["a\\n", "b\\n", "\\\\boxed{3}", "\\\\boxed{5}"], delay=0.02)

@dataclass(frozen=True)
class Watched:
    growing: Growing

    async def __call__(self, opened, problem):
        if problem.id == "left":
            return len(asyncio.all_tasks()) - 1, opened.engine.held
        if problem.id == "itself":
            raise asyncio.CancelledError
        return await self.growing(opened, problem)
'''
STEP = {"delimiters": ["\n"], "max_tokens": 400}
ENGINE = {"kind": "scripted", "script": "watched:policy"}


def given_up(folder: Path) -> dict[str, Any]:
    """Searches of eight seconds that are cancelled, on a worker that does one at a time. In a
    process of its own, with which its cluster ends."""
    before = set(psutil.pids())
    words = [sys.executable, __file__, searches.__name__, str(folder)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"processes": _left_of(before)}


def searches(folder: Path) -> dict[str, Any]:
    """What ``given_up`` tells."""
    _prepare(folder)
    alone = asyncio.run(_tree())
    CALLS.write_text("")
    return asyncio.run(_searches(alone))


async def _tree() -> str:
    """Of the search that nobody cancels, in this process."""
    async with at_work(_job(), WorkersSettings()) as crew:
        return _told(await crew.do(Problem("short", "short", "3")))


async def _searches(alone: str) -> dict[str, Any]:
    chance = random.Random(0)
    async with at_work(_job(), WorkersSettings(kind="ray", count=1)) as crew:
        await crew.do(Problem("left", "left", None))
        own = len(asyncio.all_tasks())
        stopped = await _cancelled(crew, "endless", lambda: len(_calls()) > 5)
        same = [_told(await crew.do(Problem("short", "short", "3"))) == alone]
        # Before it begins there, while it does, and beside its end.
        late = [
            await _cancelled(crew, f"endless {i}", pause=chance.uniform(0, 0.004))
            for i in range(30)
        ]
        for _ in range(5):
            await _cancelled(crew, "short", pause=chance.uniform(0.04, 0.06))
        try:
            itself = await crew.do(Problem("itself", "itself", None))
        except UserError as error:
            itself = str(error)
        same.append(_told(await crew.do(Problem("short", "short", "3"))) == alone)
        left = await crew.do(Problem("left", "left", None))
        assert crew.health is not None
        return {
            "stopped": stopped,
            "late": max(late),
            "begun": len({asked for _, asked in _calls() if asked.startswith("endless ")}),
            "same": same,
            "left": [*left, len(asyncio.all_tasks()) - own],
            "itself": itself,
            "health": str(crew.health),
        }


async def _cancelled(
    crew: Crew, question: str, due: Callable[[], bool] = lambda: True, pause: float = 0.0
) -> float:
    """Seconds from the cancellation of a search to its last call of the engine."""
    work = asyncio.create_task(crew.do(Problem(question, question, "3")))
    await asyncio.sleep(pause)
    while not due():
        await asyncio.sleep(0.01)
    work.cancel()
    cancelled = time.time()
    await asyncio.wait([work])
    # The only place is free again.
    await asyncio.wait_for(crew.do(Problem("left", "left", None)), 60)
    return max((at - cancelled for at, asked in _calls() if asked == question), default=0.0)


def served(folder: Path) -> dict[str, Any]:
    """``butwait serve`` with its searches on Ray, two of whose clients leave."""
    _prepare(folder)
    before = set(psutil.pids())
    settings = {
        "model": {"name": "none"},
        "engine": ENGINE,
        "step": STEP,
        "workers": {"kind": "ray", "count": 1},
        "concurrency": 1,
    }
    Path("serve.yaml").write_text(yaml.safe_dump(settings))
    words = [sys.executable, "-m", "butwait", "serve", "--config", "serve.yaml", "--port", "0"]
    paths = filter(None, (str(folder), os.environ.get("PYTHONPATH")))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    server = subprocess.Popen(words, stdout=subprocess.PIPE, env=environment, text=True)
    assert server.stdout is not None
    lines = (re.search("http://(.*?)/v1", line) for line in server.stdout)
    place = next(found[1] for found in lines if found)
    try:
        said = _said(place)
        late = [_left(place, stream) for stream in (False, True)]
        figures = _ask(place, "GET", "/metrics").decode()
        return {
            "late": max(late),
            "same": _said(place) == said,
            "running": re.findall("^butwait_requests_running (.*)$", figures, re.M),
            "cancelled": re.findall("^butwait_requests_cancelled_total (.*)$", figures, re.M),
        }
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
        _left_of(before)


def _said(place: str) -> str:
    found = json.loads(_ask(place, "POST", "/v1/chat/completions", "short"))
    return str(found["choices"][0]["message"]["content"])


def _ask(place: str, *words: str) -> bytes:
    connection = _asked(place, *words)
    answer = connection.getresponse().read()
    connection.close()
    return answer


def _asked(
    place: str, verb: str, path: str, question: str = "", stream: bool = False
) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(place, timeout=60)
    body = {
        "model": "none@sc-4",
        "messages": [{"role": "user", "content": question}],
        "stream": stream,
        "seed": 0,
    }
    about = {"Content-Type": "application/json"}
    connection.request(verb, path, json.dumps(body) if question else None, about)
    return connection


def _left(place: str, stream: bool) -> float:
    """Seconds from the leaving of a client to the last call of the engine for it."""
    before = len(_calls())
    connection = _asked(place, "POST", "/v1/chat/completions", "endless", stream)
    while len(_calls()) < before + 10:
        time.sleep(0.01)
    connection.close()
    gone = time.time()
    time.sleep(2)
    return _calls()[-1][0] - gone


def interrupted(folder: Path) -> dict[str, Any]:
    """A run on Ray that is stopped by Ctrl-C."""
    _prepare(folder)
    Path("questions.jsonl").write_text('{"id": "q", "question": "endless", "answer": "3"}\n')
    search = {"kind": "search", "problems": "train", "sampler": _sampler().model_dump()}
    recipe = {
        "name": "mine",
        "model": {"name": "none"},
        "engine": ENGINE,
        "problems": {"train": {"source": "questions.jsonl"}},
        "workers": {"kind": "ray", "count": 1},
        "stages": {"search": search},
    }
    Path("mine.yaml").write_text(yaml.safe_dump(recipe))
    before = set(psutil.pids())
    words = [sys.executable, "-m", "butwait", "run", "mine.yaml"]
    run = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while len(_calls()) < 10:
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    gone = time.time()
    told = run.communicate(timeout=60)[1]
    left = _left_of(before)
    log = Path("runs/mine/log.txt").read_text()
    return {
        "code": run.returncode,
        "told": told.strip(),
        "late": _calls()[-1][0] - gone,
        "left": left,
        "log": [line for line in log.splitlines() if "Traceback" in line or "is lost" in line],
    }


def _left_of(before: set[int]) -> int:
    """Processes that are there besides, after a while: a cluster ends with its owner."""
    until = time.monotonic() + 30
    while (left := set(psutil.pids()) - before) and time.monotonic() < until:
        time.sleep(0.1)
    return len(left)


def _prepare(folder: Path) -> None:
    (folder / "watched.py").write_text(PLUGIN)
    os.chdir(folder)
    CALLS.touch()
    find_modules_in([folder])


def _calls() -> list[tuple[float, str]]:
    """When the engine was called so far, in whichever process, and for which question."""
    lines = [line.split(" ", 1) for line in CALLS.read_text().splitlines(True) if line[-1] == "\n"]
    return [(float(at), question.strip()) for at, question in lines]


def _told(tree: SearchTree) -> str:
    """The hash of a tree as it is stored."""
    path = Path("tree.parquet")
    write_shard(path, [tree])
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sampler() -> SelfConsistencySettings:
    return SelfConsistencySettings.model_validate({"samples": 4, "step": STEP})


def _job() -> Job:
    from watched import Watched

    sampler = _sampler()
    return Job(
        Watched(Growing(sampler, Key.of(0, "search"))),
        ScriptedSettings.model_validate(ENGINE),
        ModelSettings(name="none"),
        PromptSettings(),
        None,
        [Problem("short", "short", "3")],
        [sampler.step],
        graders=1,
        concurrency=1,
    )


SCENARIOS = {function.__name__: function for function in (given_up, searches, served, interrupted)}

if __name__ == "__main__":
    print(json.dumps(SCENARIOS[sys.argv[1]](Path(sys.argv[2]))))

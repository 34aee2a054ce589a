"""A server in this process, asked as an ASGI server would ask it."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from butwait.engines.engine import Engine
from butwait.engines.scripted import EOS, ScriptedEngine
from butwait.server.app import Service, application
from butwait.server.jobs import Jobs
from butwait.server.methods import Methods
from butwait.server.serve import _job
from butwait.server.settings import ServeSettings
from butwait.workers.crew import at_work

LINES = {
    "": {"It is easy.\n": 1.0},
    "It is easy.\n": {"So 2.\n": 0.5, "So 3.\n": 0.5},
    "It is easy.\nSo 2.\n": {"\\boxed{2}": 1.0},
    "It is easy.\nSo 3.\n": {"\\boxed{3}": 0.9, EOS: 0.1},
}
"""A policy of three steps: the first is shared by all paths."""


def scripted(delay: float = 0.0) -> ScriptedEngine:
    return ScriptedEngine(LINES, delay=delay)


@dataclass
class Served:
    """A server, and its parts."""

    app: Any
    service: Service
    engine: Any


@asynccontextmanager
async def served(
    engine: Engine | None = None, keys: tuple[str, ...] = (), **settings: Any
) -> AsyncIterator[Served]:
    """With a scripted policy where no other is given."""
    engine = scripted() if engine is None else engine
    step = {"delimiters": ["\n"], "max_tokens": 64}
    methods = Methods(ServeSettings(**{"step": step, "particles": 4} | settings))
    job = replace(_job(methods), engine=engine)
    gc.freeze()  # what was imported is looked at once, and not for every server
    async with at_work(job, methods.recipe.workers) as crew:
        jobs = Jobs(methods.settings.concurrency, methods.settings.queue)
        service = Service(methods, crew, jobs, keys)
        yield Served(application(service), service, engine)


@dataclass
class Said:
    """What was answered."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    pieces: list[bytes] = field(default_factory=list)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """Of OpenAI's form, or the test fails."""
        told = self.json
        assert set(told) == {"error"}
        assert set(told["error"]) == {"message", "type", "param", "code"}
        assert isinstance(told["error"]["message"], str)
        return told["error"]

    @property
    def events(self) -> list[Any]:
        """Of a stream, without comments."""
        lines = self.body.decode().split("\n\n")
        found = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        return [e if e == "[DONE]" else json.loads(e) for e in found]


async def ask(
    app: Any,
    path: str,
    content: Any = None,
    *,
    headers: Mapping[str, str] | None = None,
    leave_after: float | None = None,
    method: str = "POST",
) -> Said:
    """Sends a request and gives what was answered; ``leave_after`` so many seconds the client is
    gone."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    sent = {"content-type": "application/json", "host": "127.0.0.1:2"} | dict(headers or {})
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in sent.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    said, first = Said(), True

    async def receive() -> dict[str, Any]:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": raw, "more_body": False}
        await asyncio.sleep(3600 if leave_after is None else leave_after)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            said.status = message["status"]
            said.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        else:
            said.pieces.append(message.get("body", b""))
            said.body += said.pieces[-1]

    await app(scope, receive, send)
    return said


def chat(question: str = "What is it?", **more: Any) -> dict[str, Any]:
    """The body of a chat."""
    return {"model": "tiny", "messages": [{"role": "user", "content": question}]} | more

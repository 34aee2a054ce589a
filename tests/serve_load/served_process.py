"""`butwait serve` as a process of its own, and what every answer of it must be."""

import asyncio
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import psutil

QUESTION = "Calculate 7 + 8 - 6."
KEY = "sk-right"
LIMITS = {
    "max_body_bytes": 100_000,
    "max_prompt_tokens": 64,
    "max_tokens": 200,
    "max_paths": 256,
    "concurrency": 2,
    "queue": 2,
    "timeout_s": 20,
    "keep_alive_s": 0.2,
    "body_timeout_s": 1,
}
"""Of the strict server."""
ERROR = {"message", "type", "param", "code"}
"""What OpenAI's errors have."""


@dataclass(frozen=True)
class Served:
    """A server that is ready.

    Attributes:
        base: its address, without ``/v1``.
        told: what it has printed so far, both streams.
    """

    process: subprocess.Popen[bytes]
    base: str
    told: list[str]

    @property
    def host_port(self) -> tuple[str, int]:
        host, port = self.base.removeprefix("http://").rsplit(":", 1)
        return host, int(port)

    def memory(self) -> int:
        """Bytes that it holds of the machine's memory."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def worked(self) -> float:
        """CPU seconds that it took so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        text = httpx2.get(f"{self.base}/metrics", trust_env=False, timeout=30).text
        found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        assert found, f"no {name} in {text}"
        return sum(map(float, found))

    def lives(self) -> None:
        assert self.process.poll() is None, "".join(self.told)
        answer = httpx2.get(f"{self.base}/healthz", trust_env=False, timeout=30)
        assert answer.status_code == 200


@contextmanager
def served(*words: str, environment: dict[str, str] | None = None) -> Iterator[Served]:
    """`butwait serve` on the tiny model and a free port; killed at the end if it is still there."""
    command = [sys.executable, "-m", "butwait", "serve", "--model", "tiny", "--port", "0", *words]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"} | (environment or {}),
    )
    told: list[str] = []
    address: list[str] = []
    ready = threading.Event()

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            told.append(line.decode(errors="replace"))
            if not ready.is_set() and (found := re.search(r"http://[\w.]+:\d+", told[-1])):
                address.append(found[0])
                ready.set()
        ready.set()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        ready.wait(120)
        assert address, "".join(told)
        yield Served(process, address[0], told)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        listener.join(10)


def proper_error(answer: Any) -> dict[str, Any]:
    """The error of an answer that is none, as OpenAI's clients read it."""
    assert "application/json" in str(answer.headers["content-type"]), answer.text
    error = answer.json()["error"]
    assert set(error) >= ERROR, error
    assert isinstance(error["message"], str)
    assert error["message"]
    assert "Traceback" not in error["message"]
    assert isinstance(error["type"], str)
    return dict(error)


async def raw(server: Served, data: bytes, seconds: float = 20, end: bool = False) -> bytes:
    """What comes back for these bytes, until the server closes, or until nothing came for half a
    second after something had. ``end`` closes our side first."""
    reader, writer = await asyncio.open_connection(*server.host_port)
    try:
        return await exchanged(reader, writer, data, seconds, end)
    finally:
        writer.close()


async def exchanged(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    data: bytes,
    seconds: float,
    end: bool,
) -> bytes:
    got = b""
    deadline = time.monotonic() + seconds

    async def send() -> None:
        try:
            writer.write(data)
            await writer.drain()
            if end:
                writer.write_eof()
        except (ConnectionError, OSError):
            pass  # it does not read all of what it refuses

    sending = asyncio.ensure_future(send())
    try:
        while time.monotonic() < deadline:
            wait = 0.5 if got else deadline - time.monotonic()
            try:
                piece = await asyncio.wait_for(reader.read(65536), wait)
            except TimeoutError:
                break
            except ConnectionError:
                break
            if not piece:
                break
            got += piece
    finally:
        sending.cancel()
    return got

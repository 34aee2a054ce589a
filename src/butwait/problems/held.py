"""A verifier that this process holds, such as a function of a notebook: no other process could
import it, so it is asked in forks of this one."""

import json
import os
import queue
import selectors
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from butwait.problems.verifying import Verify, handed, verdict
from butwait.records import UserError

_LOOK_S = 1.0
"""Seconds between looks at whether the process that forked a judge still lives."""


class HeldVerifier:
    """Processes that know one function, forked when this is made: before models are loaded, and
    their threads begun. Callable from any thread.

    Args:
        verify: the function; ``problems.verifying`` has what it takes and gives.
        size: processes, at most so many cases at a time.
        limit: seconds by the clock that it may take for a case.
    """

    def __init__(self, verify: Verify, size: int, limit: float) -> None:
        self._verify, self._size, self._limit = verify, size, limit
        self._idle: queue.SimpleQueue[_Judge] = queue.SimpleQueue()
        for _ in range(size):
            self._idle.put(_Judge(verify, limit))

    def ask(self, name: str, case: Mapping[str, Any]) -> dict[str, Any]:
        """What it says of a case: {"score", "status"}, or {"failed": why}.

        Args:
            name: what the function is called in sentences.
            case: ``question``, ``answer`` and ``metadata``.
        """
        try:
            asked = json.dumps(handed(name, case, reward=False))
        except UserError as error:
            return {"failed": str(error)}
        judge = self._idle.get()
        try:
            return dict(json.loads(judge.ask(asked)))
        except (OSError, ValueError, RecursionError) as error:
            judge.close()
            judge = _Judge(self._verify, self._limit)
            return {"failed": f"the verifier {name!r} could not be asked ({type(error).__name__})"}
        finally:
            self._idle.put(judge)

    def close(self) -> None:
        """Ends the processes. A second call does nothing."""
        for _ in range(self._size):
            judge = self._idle.get()
            judge.close()
            self._idle.put(judge)


class _Judge:
    """One forked process and its two pipes; used by one thread at a time."""

    def __init__(self, verify: Verify, limit: float) -> None:
        cases, self._cases = os.pipe()
        self._replies, replies = os.pipe()
        owner = os.getpid()
        self._process = os.fork()
        if self._process == 0:
            with suppress(BaseException):
                _serve(verify, limit, cases, replies, owner)
            os._exit(0)
        os.close(cases)
        os.close(replies)
        self._open = True

    def ask(self, case: str) -> str:
        """A line for a line. OSError where the process is gone."""
        with open(os.dup(self._cases), "wb") as file:
            file.write(case.encode() + b"\n")
        with open(os.dup(self._replies), "rb", buffering=0) as replies:
            line = b""
            while not line.endswith(b"\n"):
                part = replies.read(1 << 16)
                if not part:
                    raise BrokenPipeError("no reply")
                line += part
        return line.decode()

    def close(self) -> None:
        """Kills it, with what it works on."""
        if not self._open:
            return
        self._open = False
        with suppress(ProcessLookupError):
            os.killpg(self._process, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._cases)
        os.close(self._replies)


def _serve(verify: Verify, limit: float, cases: int, replies: int, owner: int) -> None:
    """Answers cases until the process that asks is gone."""
    os.setsid()  # Ctrl-C is the owner's to handle
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (what a verifier prints)
    rest = b""
    while os.getppid() == owner:
        if not _holds_something(cases, _LOOK_S):
            continue
        part = os.read(cases, 1 << 16)
        if not part:
            return
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            said = json.dumps(_judged(verify, json.loads(line), limit))
            os.write(replies, said.encode() + b"\n")


def _judged(verify: Verify, case: dict[str, Any], limit: float) -> dict[str, Any]:
    """The verdict of a case, in a fork of its own: whatever the function does ends there."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            found = verdict(case["name"], verify, case)
        except BaseException as error:  # whatever it is, the case has no verdict
            found = {"failed": str(error) or type(error).__name__}
        with suppress(BaseException), open(write, "w", encoding="utf-8") as pipe:
            json.dump(found, pipe)
        os._exit(0)
    os.close(write)
    try:
        said = _read(read, limit)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if said is None:
        return {"failed": f"the verifier {case['name']!r} took longer than {limit:g} s"}
    try:
        return dict(json.loads(said))
    except ValueError:
        return {"failed": f"the verifier {case['name']!r} ended its process"}


def _read(pipe: int, limit: float) -> bytes | None:
    """All that comes until the pipe closes; None where it does not in time."""
    deadline, parts = time.monotonic() + limit, list[bytes]()
    with open(pipe, "rb", buffering=0) as file:
        while _holds_something(pipe, max(0.0, deadline - time.monotonic())):
            part = file.read(1 << 16)
            if not part:
                return b"".join(parts)
            parts.append(part)
    return None


def _holds_something(pipe: int, seconds: float) -> bool:
    """Whether there is something to read, or the end, within so many seconds."""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        return bool(selector.select(seconds))

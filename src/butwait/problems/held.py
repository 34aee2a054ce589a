"""A verifier that this process holds, such as a function of a notebook: no other process could
import it, so it is asked in forks of this one."""

import json
import os
import queue
import select
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from butwait.problems.equality.pool import WorkerDiedError
from butwait.problems.verifying import Verify, judged

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

    def ask(self, case: Mapping[str, Any]) -> str:
        """What it says of a case, as JSON. Raises WorkerDiedError where a judge is gone."""
        judge = self._idle.get()
        try:
            return judge.ask(case)
        except OSError as error:
            judge.close()
            judge = _Judge(self._verify, self._limit)
            raise WorkerDiedError("the process of the verifier died") from error
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

    def ask(self, case: Mapping[str, Any]) -> str:
        """A line. OSError where the process is gone."""
        with open(os.dup(self._cases), "wb") as file:
            file.write(json.dumps(case).encode() + b"\n")
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
        if not select.select([cases], [], [], _LOOK_S)[0]:
            continue
        part = os.read(cases, 1 << 16)
        if not part:
            return
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            os.write(replies, json.dumps(judged(verify, json.loads(line), limit)).encode() + b"\n")

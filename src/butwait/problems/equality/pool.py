"""A pool of grading processes that can be killed, callable from any thread: for algebra
(``equality.worker``) and for functions of one's own (``problems.verifying``)."""

import contextlib
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

from butwait.records import UserError

START_LIMIT = 120.0
"""Seconds until a new process must have loaded what it needs, on a busy machine too."""
_PATIENCE = 60.0
"""Seconds for each second of the processor that a case may use, until its process counts as stuck.

A case ends itself after its time on the processor. This only ends a process that the machine does
not let run at all, and is no verdict on the case."""


class WorkerDiedError(RuntimeError):
    """A grading process ended without an answer to its case."""


class WorkerStuckError(WorkerDiedError):
    """A grading process took longer than its case may, and was killed."""


class WorkerPool:
    """Up to ``size`` grading processes, started when they are needed.

    The processes are new interpreters, not forks: the caller's threads and memory (torch, a
    model) are not in them. ``close`` kills them; they also leave by themselves when the process
    that made the pool ends, however it ends.
    """

    def __init__(self, module: str, words: Sequence[object], size: int, time_limit: float) -> None:
        """
        Args:
            module: what a process runs. It says ``ready`` and answers each line with a line.
            words: of its command line.
            size: processes.
            time_limit: processor seconds that it gives a case.
        """
        self._command = [sys.executable, "-P", "-m", module, *map(str, words)]
        self._size, self._time_limit = size, time_limit
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(size):
            self._idle.put(None)
        self._workers: set[_Worker] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._owner = os.getpid()

    def ask(self, case: Mapping[str, Any], load: str = "", limit: float | None = None) -> str:
        """What a process says of the case, a line.

        Waits for a free process.

        Args:
            case: as JSON holds it.
            load: a line that the process must have answered with ``loaded`` before the case; what
                else it says is the reply.
            limit: seconds by the clock that the case may take; None: those of the processor that
                the pool was made with, however long they take.

        Raises:
            WorkerStuckError: the case took longer than ``limit``.
            WorkerDiedError: two processes in a row died.
        """
        if os.getpid() != self._owner:
            raise RuntimeError("a Grader belongs to the process that made it; make one in each")
        worker = self._idle.get()
        try:
            for last_attempt in (False, True):
                worker = worker or self._start()
                try:
                    return worker.ask(case, load, limit)
                except (WorkerDiedError, OSError) as error:
                    self._discard(worker)
                    worker = None
                    stuck = isinstance(error, TimeoutError)  # which is an OSError
                    if limit is not None and stuck:
                        raise WorkerStuckError("a grading process hangs") from None
                    if last_attempt:
                        raise WorkerDiedError("grading processes die") from None
            raise AssertionError("unreachable")
        finally:
            self._idle.put(worker)

    def start(self) -> None:
        """Starts a process now, without waiting for it, so that the first case need not wait."""
        try:
            worker = self._idle.get_nowait()
        except queue.Empty:
            return  # every process is at work
        try:
            worker = worker or self._start()
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Kills every process and waits for it. A second call does nothing."""
        with self._lock:
            if self._closed or os.getpid() != self._owner:
                return
            self._closed = True
            for worker in self._workers:
                worker.kill()
        # Threads at work see their process end and give it back; only then are its pipes closed.
        for idle in [self._idle.get() for _ in range(self._size)]:
            if idle is not None:
                self._discard(idle)
            self._idle.put(None)

    def _start(self) -> "_Worker":
        with self._lock:
            if self._closed:
                raise RuntimeError("this Grader is closed")
            worker = _Worker(self._command, self._time_limit)
            self._workers.add(worker)
            return worker

    def _discard(self, worker: "_Worker") -> None:
        with self._lock:
            self._workers.discard(worker)
        worker.kill()
        worker.close()


class _Worker:
    """One process and its two pipes; used by one thread at a time."""

    def __init__(self, command: Sequence[str], time_limit: float) -> None:
        self._time_limit = time_limit
        self._started = False
        self._loaded: set[str] = set()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by kill)
        # A session of its own: the whole family can be killed, and Ctrl-C does not reach it.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            bufsize=0,
        )

    def ask(self, case: Mapping[str, Any], load: str, limit: float | None) -> str:
        """The reply. TimeoutError where it does not come in time; WorkerDiedError."""
        if not self._started:
            self._wait_for_start()
        if load not in self._loaded and load:
            reply = self._reply(load, max(START_LIMIT, limit or 0.0))
            if reply != "loaded":
                return reply
            self._loaded.add(load)
        patience = _PATIENCE * (1 + self._time_limit)
        return self._reply(json.dumps(case), patience if limit is None else limit)

    def _reply(self, line: str, limit: float) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        return self._read_line(limit)

    def _wait_for_start(self) -> None:
        try:
            self._read_line(START_LIMIT)
        except (WorkerDiedError, TimeoutError):
            if self._process.poll() is not None and self._process.returncode < 0:
                raise WorkerDiedError("a grading process was killed at its start") from None
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines() or [
                "no output"
            ]
            raise UserError(
                f"the grading process did not start ({lines[-1]}); reinstall butwait's dependencies"
            ) from None
        self._started = True
        self._errors.close()

    def kill(self) -> None:
        """Kills the process and what it started, in its session or in one of its own."""
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            family = psutil.Process(self._process.pid).children(recursive=True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()

    def close(self) -> None:
        """Waits for the killed process and closes its files."""
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._errors):
            assert file is not None
            with contextlib.suppress(OSError):
                file.close()

    def _read_line(self, limit: float) -> str:
        assert self._process.stdout is not None
        deadline, line = time.monotonic() + limit, b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                # No selector waits for longer than some days.
                if not selector.select(min(max(0.0, deadline - time.monotonic()), 1e6)):
                    raise TimeoutError
                part = self._process.stdout.read(4096)
                if not part:
                    raise WorkerDiedError("a grading process ended")
                line += part
        return line.decode().strip()

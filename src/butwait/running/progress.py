"""Progress of long work: a bar with ETA on a terminal, a line now and then elsewhere, and for other
terminals ``RUN/.progress.json`` (``butwait status``). That file is a help and never a hindrance:
what cannot be written is not written, and the run goes on."""

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from butwait.records.errors import UserError
from butwait.running.log import note, say, without_secrets
from butwait.running.terminal import console, heard, visible

NAME = ".progress.json"
BETWEEN_S = 1.0
"""Seconds between two writes, while the work goes on."""
WARM_UP_S = 2.0
"""Of a task: what is done in them (stored results are counted first) is in no rate."""
SHOWN = 2000
"""Characters of an error that are kept."""


class Task(Protocol):
    """One piece of long work."""

    def advance(self, n: int = 1, **fields: Any) -> None:
        """``n`` more units are done; ``fields`` are figures to show beside the bar."""
        ...


class _BarTask:
    """For a terminal; the log gets the lines."""

    def __init__(self, bar: RichProgress, description: str, total: int) -> None:
        self._bar = bar
        self._id = bar.add_task(description, total=total, figures="")
        self._lines = _LineTask(description, total, note)

    def advance(self, n: int = 1, **fields: Any) -> None:
        figures = "  ".join(f"{name} {value}" for name, value in fields.items())
        self._bar.update(self._id, advance=n, figures=figures)
        self._lines.advance(n, **fields)


class _Pace:
    """Of a task: what is done of it, and how fast this session does it."""

    def __init__(self) -> None:
        self.done = 0
        self._begun = time.monotonic()
        self._warm: tuple[float, int] | None = None

    def advance(self, n: int) -> float | None:
        """Counts ``n`` more units. Units a second; None: nobody knows yet."""
        self.done += n
        at = time.monotonic()
        if self._warm is None:
            if at - self._begun >= WARM_UP_S:
                self._warm = at, self.done
            return None
        since, before = self._warm
        return (self.done - before) / (at - since) if at > since else None


class _LineTask:
    """For logs: one line every ten seconds and one at the end."""

    def __init__(self, description: str, total: int, tell: Callable[[str, int], None]) -> None:
        self._description, self._total, self._pace = description, total, _Pace()
        self._start = self._last = time.monotonic()
        self._tell = tell

    def advance(self, n: int = 1, **fields: Any) -> None:
        rate = self._pace.advance(n)
        done, now = self._pace.done, time.monotonic()
        if now - self._last < 10 and done < self._total:
            return
        self._last = now
        spent = f"{now - self._start:.0f} s"
        left = f", {(self._total - done) / rate:.0f} s left" if rate else ""
        figures = "".join(f"  {name} {value}" for name, value in fields.items())
        self._tell(
            f"  {self._description}: {done}/{self._total}  {spent}{left}{figures}",
            logging.INFO,
        )


class _ReportedTask:
    """Another task, whose units the run's report counts too."""

    def __init__(self, shown: Task, report: "_Report", description: str, total: int) -> None:
        self._shown, self._report = shown, report
        self._pace = _Pace()
        self._about = {"task": description, "total": total}
        report.write(self._about | {"done": 0, "rate": None, "figures": {}}, now=True)

    def advance(self, n: int = 1, **fields: Any) -> None:
        self._shown.advance(n, **fields)
        rate = self._pace.advance(n)
        figures = {name: str(value) for name, value in fields.items()}
        about = {"done": self._pace.done, "rate": rate, "figures": figures}
        self._report.write(self._about | about)  # another task may have been shown within this one


class _Report:
    """``RUN/.progress.json``: who works there, on what, and how far it is. Times are UTC."""

    def __init__(self, run: Path, content: dict[str, Any]) -> None:
        self._run, self._content = run, content
        self._written = -BETWEEN_S

    def write(self, changes: Mapping[str, Any], *, now: bool = False) -> None:
        """Takes the changes, and writes them unless it wrote a moment ago (``now``: at once)."""
        self._content |= changes
        at = time.monotonic()
        if not now and at - self._written < BETWEEN_S:
            return
        self._written = at
        # No flush to the disk, which may take long: after a crash of the machine it may be gone.
        temporary = self._run / f".{NAME}.{os.getpid()}.partial"
        with suppress(OSError, ValueError):
            try:
                text = json.dumps(self._content | {"updated": _now()}, allow_nan=False)
                temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
                os.replace(temporary, self._run / NAME)
            finally:
                temporary.unlink(missing_ok=True)


@contextmanager
def reported(run: Path, recipe: str, stages: Mapping[str, str]) -> Iterator[None]:
    """Tells other terminals of a run, and how it ends.

    Args:
        run: its folder.
        recipe: the recipe's name.
        stages: name -> kind, in the order in which they run.
    """
    about = {
        "recipe": recipe,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started": _now(),
        "state": "running",
        "error": None,
        "stages": [{"name": name, "kind": kind} for name, kind in stages.items()],
        "stage": None,
        "due": None,
    }
    with _reporting(_Report(run, about | _NO_TASK)) as report:
        report.write({}, now=True)
        try:
            yield
        except BaseException as error:
            failed = isinstance(error, Exception)
            said = (
                str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            )
            told = without_secrets(said)[:SHOWN] if failed else None
            report.write({"state": "failed" if failed else "stopped", "error": told}, now=True)
            raise
        report.write({"state": "finished", "stage": None} | _NO_TASK, now=True)


@contextmanager
def reported_on(run: Path) -> Iterator[None]:
    """Goes on with the report of the process that launched this one, which waits for it."""
    try:
        content = json.loads((run / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        yield
        return
    with _reporting(_Report(run, content)):
        yield


def begin_stage(name: str) -> None:
    """The report's next stage."""
    if _report is not None:
        _report.write({"stage": name, "stage_started": _now()} | _NO_TASK, now=True)


def show_due(names: Sequence[str]) -> None:
    """Puts the stages that are not finished into the report (null: nobody knows yet). Their folders
    may hold older results, so machines that join go by it (``butwait.pipeline.join``)."""
    if _report is not None:
        _report.write({"due": list(names)}, now=True)


def show_workers(workers: Sequence[Mapping[str, Any]] | None) -> None:
    """Puts what the workers do into the report: ``index``, ``state``, ``done``, ``restarts``. None:
    they have ended, which is written at once."""
    if _report is not None:
        told = None if workers is None else [dict(worker) for worker in workers]
        _report.write({"workers": told}, now=workers is None)


_NO_TASK: dict[str, Any] = {
    "task": None,
    "done": None,
    "total": None,
    "rate": None,
    "figures": {},
    "workers": None,
}


@contextmanager
def _reporting(report: _Report) -> Iterator[_Report]:
    global _report
    before, _report = _report, report
    try:
        yield report
    finally:
        _report = before


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").removesuffix("+00:00") + "Z"


_report: _Report | None = None


class _SilentTask:
    def advance(self, n: int = 1, **fields: Any) -> None:
        pass


_silent = False


def silence() -> None:
    """No progress in this process: it is one of several that do the same."""
    global _silent
    _silent = True


def tell(line: str) -> None:
    """A line about the work that begins."""
    if not _silent:
        say(f"  {line}")


@contextmanager
def task(description: str, total: int, *, silent: bool = False) -> Iterator[Task]:
    """Shows ``description`` with ``total`` units of work until the block ends."""
    description = visible(description)
    if silent or _silent:
        yield _SilentTask()
        return
    with _shown(description, total) as shown:
        if _report is None:
            yield shown
            return
        report = _report
        try:
            yield _ReportedTask(shown, report, description, total)
        finally:
            report.write({}, now=True)


@contextmanager
def _shown(description: str, total: int) -> Iterator[Task]:
    if heard(logging.INFO) and sys.stdout.isatty():
        columns = (
            TextColumn("  {task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
        )
        with RichProgress(*columns, console=console()) as bar:
            yield _BarTask(bar, description, total)
    else:
        yield _LineTask(description, total, say)

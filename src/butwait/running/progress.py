"""Progress of long work: a bar with ETA on a terminal, a line now and then elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from butwait.running.log import note, say
from butwait.running.terminal import console, heard, visible


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


class _LineTask:
    """For logs: one line every ten seconds and one at the end."""

    def __init__(self, description: str, total: int, tell: Callable[[str, int], None]) -> None:
        self._description, self._total, self._done = description, total, 0
        self._start = self._last = time.monotonic()
        self._tell = tell

    def advance(self, n: int = 1, **fields: Any) -> None:
        self._done += n
        now = time.monotonic()
        if now - self._last < 10 and self._done < self._total:
            return
        self._last = now
        elapsed = now - self._start
        left = elapsed / max(self._done, 1) * (self._total - self._done)
        figures = "".join(f"  {name} {value}" for name, value in fields.items())
        self._tell(
            f"  {self._description}: {self._done}/{self._total}  {elapsed:.0f} s, "
            f"{left:.0f} s left{figures}",
            logging.INFO,
        )


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
    elif heard(logging.INFO) and sys.stdout.isatty():
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

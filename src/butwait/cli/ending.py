"""How a command ends: with one sentence on stderr, and an exit code that says what happened."""

import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from butwait.running import stops

TRACEBACK = "BUTWAIT_TRACEBACK"
"""Names the environment variable that shows the whole traceback before the sentence."""
GRACE = 10.0
"""Seconds after SIGTERM in which what is open is closed. What is finished is on disk."""


def run_to_end(command: Callable[[], Any]) -> None:
    """Runs the command line; a user's mistake is one sentence on stderr, and several are a line
    each.

    Exit codes: 2 after a mistake, what the disk or the system refuses, and a plugin that fails; 130
    after Ctrl-C; 143 after SIGTERM; 1 after a fault of butwait's own, whose traceback stands in the
    run's log, or on stderr where there is none.
    """
    terminated = threading.Event()
    stops.begin()
    try:
        with _terminable(terminated):
            command()
    except BaseException as error:
        if _is_stop(error):
            logging.getLogger("asyncio").disabled = True  # it tells of what was under way
            print(f"\nbutwait: {stops.told()}", file=sys.stderr)
            _leave(143 if terminated.is_set() else 130)
        told = _told(error)
        if told is None and not isinstance(error, Exception):
            raise  # the command line's own exit
        from butwait.running.log import told_in
        from butwait.running.terminal import visible

        log = told_in(error)
        if os.environ.get(TRACEBACK) or (told is None and log is None):
            traceback.print_exception(error)
        for line in (told or _own_fault(error, log)).split("\n"):
            print(f"butwait: {visible(line)}", file=sys.stderr)
        _leave(1 if told is None else 2)


def _own_fault(error: BaseException, log: Path | None) -> str:
    from butwait.running.log import REPORT

    said = str(error).partition("\n")[0]
    found = f"{type(error).__name__}: {said}" if said else type(error).__name__
    traces = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(traces[-1].filename).name}:{traces[-1].lineno}" if traces else ""
    held = "the traceback above" if log is None else f"{log}, which holds the traceback"
    return (
        f"a fault of butwait itself ({found}{where}); please report it with {held}, at {REPORT} "
        "(finished work is kept)"
    )


def _is_stop(error: BaseException | None) -> bool:
    """Whether Ctrl-C is at the bottom of it: the command line makes an exit of that, and what is
    being closed may fail then."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _told(error: BaseException) -> str | None:
    """The sentence for an error that is none of butwait's faults; None for one that may be."""
    if isinstance(error, SystemExit) and "butwait.running.plugins" not in sys.modules:
        return None  # the command line's own, and what follows takes a moment to import
    from butwait.records.errors import UserError
    from butwait.running.plugins import failed_plugin
    from butwait.running.refusals import refusal

    if isinstance(error, UserError):
        return str(error)
    return failed_plugin(error) or refusal(error, "the command could not go on")


@contextmanager
def _terminable(terminated: threading.Event) -> Iterator[None]:
    """SIGTERM in the block is Ctrl-C that sets ``terminated``. What does not end in time is left:
    a stop at any moment loses nothing that is finished."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    timer = threading.Timer(GRACE, _give_up)
    timer.daemon, own = True, os.getpid()

    def stop(number: int, frame: Any) -> None:
        if os.getpid() != own:
            os._exit(143)  # a fork
        if terminated.is_set():
            return
        terminated.set()
        timer.start()
        interrupt = signal.getsignal(signal.SIGINT)  # an event loop has its own
        if callable(interrupt):
            interrupt(signal.SIGINT, frame)
        else:
            raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _give_up() -> None:
    from butwait.running.log import note

    note("left without closing what was open")
    print(f"\nbutwait: {stops.told()}", file=sys.stderr, flush=True)
    os._exit(143)


def _leave(code: int) -> NoReturn:
    try:
        sys.stdout.flush()
    except (OSError, ValueError):  # a full disk: the interpreter would complain at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)

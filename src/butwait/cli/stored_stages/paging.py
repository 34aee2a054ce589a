"""A long answer goes through a pager where it stands on a terminal."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

from butwait.records import UserError

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def paged() -> Iterator["Console"]:
    """The console to write to: a pager's (``PAGER``, else less) on a terminal, else stdout's. A
    pager that is left early ends the block."""
    from butwait.running.terminal import console

    words = _pager() if sys.stdout.isatty() else []
    if not words:
        yield console(highlight=False)
        return
    environment = {"LESS": "FRX", **os.environ}  # colours; no pager for what fits the screen
    try:
        pager = subprocess.Popen(words, stdin=subprocess.PIPE, text=True, env=environment)
    except OSError as error:
        raise UserError(f"PAGER: {words[0]} does not start: {error.strerror}") from error
    screen = _to(pager, console(highlight=False))
    try:
        with suppress(_LeftError, KeyboardInterrupt):
            yield screen
    finally:
        with suppress(BrokenPipeError):
            assert pager.stdin is not None
            pager.stdin.close()
        while pager.poll() is None:
            with suppress(KeyboardInterrupt):  # it is the pager's
                pager.wait()


class _LeftError(Exception):
    """The pager was left."""


def _pager() -> Sequence[str]:
    """The command; nothing where the user wants none or there is none."""
    asked = os.environ.get("PAGER")
    if asked is None:
        return ["less"] if shutil.which("less") else []
    try:
        words = shlex.split(asked)
    except ValueError as error:
        raise UserError(f"PAGER cannot be read ({error}): {asked}") from error
    return [] if words == ["cat"] else words


def _to(pager: "subprocess.Popen[str]", screen: "Console") -> "Console":
    from rich.console import Console

    class Paged(Console):
        def on_broken_pipe(self) -> NoReturn:
            raise _LeftError

    return Paged(
        file=pager.stdin,
        emoji=False,
        highlight=False,
        force_terminal=True,
        width=screen.width,
        color_system=screen.color_system,  # type: ignore[arg-type]  # a name that it gave itself
    )

"""``butwait view``: runs as a page in the browser, or as a folder that holds the page."""

import os
import sys
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread

from butwait import __version__
from butwait.records import UserError
from butwait.running.log import RESULT, say
from butwait.running.run_state import RUNS, bytes_told, runs_in, the_run
from butwait.view.export import check_export, export
from butwait.view.library import Library
from butwait.view.server import INDEX, ViewServer, static


def view(
    runs: Sequence[Path], port: int | None = None, browser: bool = True, out: Path | None = None
) -> None:
    """Serves the runs until Ctrl-C, or writes them to ``out``; without any, those under ``runs/``.

    Raises UserError for what is no run, a port that is taken, and an ``out`` that holds something
    else.
    """
    static()
    find = _finder(runs)
    if out is not None:
        check_export(out, find())
        count, size = export(Library(find, live=False, version=__version__), out)
        say(f"{out / INDEX}: {count:,} pieces of data, {bytes_told(size)}", RESULT)
        return
    library = Library(find, live=True, version=__version__)
    with ViewServer(library, port) as server:
        Thread(target=_prepare, daemon=True).start()
        say(f"{server.address} shows {_told(library)}; Ctrl-C ends it", RESULT)
        if browser and _has_screen():
            webbrowser.open(server.address)
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            return


def _finder(given: Sequence[Path]) -> Callable[[], list[Path]]:
    """What lists the runs: the given ones, or those that there are at the moment."""
    if given:
        found = list(dict.fromkeys(the_run(path).absolute() for path in given))
        return lambda: found
    folder = RUNS.absolute()
    if not runs_in(folder):
        raise UserError(f"there is no run under {RUNS}/: give a run's folder")
    return lambda: runs_in(folder)


def _told(library: Library) -> str:
    count = len(library.folders())
    return f"{count} runs" if count > 1 else "the run"


def _prepare() -> None:
    """What reading the first tree would import."""
    import pyarrow as pa
    import scipy.special  # noqa: F401

    pa.array([0.0]).to_numpy()


def _has_screen() -> bool:
    """Whether a browser would open in a window, and not in this terminal."""
    return sys.platform == "darwin" or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )

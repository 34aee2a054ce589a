"""Ends a Ray cluster of our own with the process that started it, however that ended.

Ray's server and node end with it by themselves, some of their helpers do not, and the folder of
the session stays. Run as ``python -m butwait.workers.ray_watch PID FOLDER``.
"""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

LOOK_S = 0.2
END_S = 30.0


def main(pid: int, folder: Path) -> None:
    """Waits for the end of a process; then kills all that write into the folder, and removes it."""
    with suppress(psutil.NoSuchProcess):
        owner = psutil.Process(pid)
        while owner.is_running() and owner.status() != psutil.STATUS_ZOMBIE:
            time.sleep(LOOK_S)
    until = time.monotonic() + END_S
    quiet = 0
    # Workers may start while the others are killed.
    while quiet < 3 and time.monotonic() < until:
        left = list(_of(folder))
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        quiet = 0 if left else quiet + 1
        time.sleep(LOOK_S)
    shutil.rmtree(folder, ignore_errors=True)


def _of(folder: Path) -> Iterator[psutil.Process]:
    """Processes of the cluster in this folder: it is in their command, or they write into it."""
    inside = f"{folder}{os.sep}"
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with suppress(psutil.Error, OSError):
            named = any(inside in word for word in process.cmdline())
            if named or any(
                file.path.startswith(inside) and getattr(file, "mode", "w") != "r"
                for file in process.open_files()
            ):
                yield process


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))

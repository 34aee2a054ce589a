"""Files and folders that appear whole or not at all, and go at once."""

import glob
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from butwait.records import UserError
from butwait.running.refusals import refusals_told

# Names on the way: not whole yet; whole, and to come back unless its successor came; to go.
_LEFT = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.(?P<what>partial|old|gone)", re.DOTALL)


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A temporary path beside ``target``, which takes its name when the block succeeds.

    The temporary may be made a file or a folder. It is flushed to disk before the rename, so
    that a crash leaves the old content or the new, never a part. A folder's old content is moved
    aside for a moment: ``recover``, which the next writer of the target calls, puts it back if the
    new did not come. What the disk refuses, a full one for example, is a UserError.
    """
    _check_replaceable(target)
    with refusals_told(f"{target} was not written"):
        target.parent.mkdir(parents=True, exist_ok=True)
        recover(target.parent, f".{glob.escape(target.name)}.*")
        with _replacing(target) as temporary:
            yield temporary


def expanded(name: str | Path) -> Path:
    """The path, with ``~`` and ``~user`` as their folders. As it stands where there is no such
    user: it leads nowhere, which whoever looks there tells."""
    with suppress(ValueError):  # a zero byte
        return Path(os.path.expanduser(name))
    return Path(name)


def check_output(target: Path, *inputs: Path, option: str = "--out") -> None:
    """Whether a file can be written there, before what is to be in it is computed.

    Raises UserError for a folder, a device or a pipe, something inside of a file, and one of the
    inputs, which would be lost.
    """
    if target.is_dir():
        raise UserError(f"{option} {target} is a folder; give the name of a file")
    _check_replaceable(target)
    around = next(folder for folder in target.absolute().parents if os.path.lexists(folder))
    if not around.is_dir():
        raise UserError(f"{option} {target}: {around} is no folder; choose another name")
    for read in inputs:
        if target.exists() and read.exists() and target.samefile(read):
            raise UserError(f"{option} {target} is the file that is read; choose another name")


def _check_replaceable(target: Path) -> None:
    """Raises UserError where a rename would put a file in place of a device or a pipe."""
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise UserError(f"{target} is a device or a pipe; choose the name of a file")


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    temporary, old = _beside(target, "partial"), _beside(target, "old")
    try:
        yield temporary
        _flush(temporary)
        if temporary.is_dir() and target.exists():
            os.replace(target, old)
        os.replace(temporary, target)
        _flush_folder(target.parent)
        _discard(old)
    finally:
        with suppress(OSError):  # what went wrong before is what to tell
            if old.exists() and not target.exists():
                os.replace(old, target)
            _remove(temporary)


def recover(folder: Path, pattern: str = "**/.*") -> None:
    """Mends what a killed process left in a folder: old content that lacks its successor comes
    back, everything else that it had not finished goes.

    Args:
        folder: where to look.
        pattern: of the names to look at; by default at any depth.
    """
    for left in list(folder.glob(pattern)):
        found = _LEFT.fullmatch(left.name)
        if found is None or _alive(int(found["pid"])) or not left.exists():
            continue
        if found["what"] == "old" and not left.with_name(found["name"]).exists():
            os.replace(left, left.with_name(found["name"]))
        else:
            _discard(left)


def leftovers(folder: Path) -> list[Path]:
    """What ``recover`` would remove, at any depth."""
    found = []
    for left in sorted(folder.glob("**/.*")):
        name = _LEFT.fullmatch(left.name)
        if name is None or _alive(int(name["pid"])):
            continue
        if name["what"] != "old" or left.with_name(name["name"]).exists():
            found.append(left)
    return found


def remove(path: Path) -> None:
    """Removes a file or a folder, at once: what a kill leaves of a folder has another name, which
    ``recover`` knows. Nothing happens where there is none."""
    recover(path.parent, f".{glob.escape(path.name)}.*")
    _discard(path)


def write_json(target: Path, value: Any) -> None:
    """Writes ``value`` as indented JSON, atomically. NaN is refused: it is no JSON."""
    with atomic_path(target) as path:
        path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _beside(target: Path, what: str) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}.{what}")


def _discard(path: Path) -> None:
    """Removes what ``path`` holds, which nobody finds under its name from the first moment."""
    if path.is_dir() and not path.is_symlink():
        found = _LEFT.fullmatch(path.name)
        gone = _beside(path.with_name(found["name"]) if found else path, "gone")
        if path != gone:
            _remove(gone)
            with suppress(FileNotFoundError):  # another process was faster
                os.replace(path, gone)
        path = gone
    _remove(path)


def _flush(path: Path) -> None:
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    for file in files:
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _alive(pid: int) -> bool:
    """Whether another process of this number runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

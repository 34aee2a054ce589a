"""Files that appear whole or not at all."""

import glob
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from butwait.records import UserError


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A temporary path beside ``target``, which takes its name when the block succeeds.

    The temporary may be made a file or a folder. It is flushed to disk before the rename, so
    that a crash leaves the old content or the new, never a part; what a killed process left is
    removed by the next that writes the same target. A full disk is a UserError.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        if not _alive(left.name.split(".")[-2]):
            _remove(left)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    _remove(temporary)  # of a process that had the same number
    try:
        yield temporary
        _flush(temporary)
        if temporary.is_dir() and target.exists():
            _remove(target)
        os.replace(temporary, target)
        _flush_folder(target.parent)
    except OSError as error:
        if error.errno == 28:  # ENOSPC
            raise UserError(
                f"the disk is full: {target} was not written; free some space and run the same "
                "command again (finished work is kept)"
            ) from error
        raise
    finally:
        _remove(temporary)


def write_json(target: Path, value: Any) -> None:
    """Writes ``value`` as indented JSON, atomically. NaN is refused: it is no JSON."""
    with atomic_path(target) as path:
        path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


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


def _alive(pid: str) -> bool:
    """Whether a process of this number runs."""
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

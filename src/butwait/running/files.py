"""Files that appear whole or not at all."""

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

    The temporary may be made a file or a folder. One process at a time may write a target. It is flushed to disk before the rename, so
    that a crash leaves the old content or the new, never a part. A full disk is a UserError.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # The name is fixed, so that what a killed process left is replaced and not collected.
    temporary = target.with_name(f".{target.name}.partial")
    _remove(temporary)
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


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

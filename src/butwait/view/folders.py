"""The folders and files of a run, as far as a page may read them."""

import os
import pickle
import re
import stat
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from butwait.records import UserError
from butwait.running.json_lines import Row, read_log
from butwait.running.run_state import read_json

Kept = TypeVar("Kept")

_SHARD = re.compile(r"shard-(\d{1,9})\.parquet")
_SPOOLED = re.compile(r"(\d{1,9})\.parquet")
_STEP, _SEARCHED = re.compile(r"\d{8,9}"), re.compile(r"([0-9a-f]{20})\.parquet")
_PLACE = re.compile(r"(\d{1,9})-(\d{1,9})|s\d{1,9}|g\d{1,9}-[0-9a-f]{20}")
_MOST_KEPT = 64 << 20
"""Bytes of digests that are kept of a run's files, pickled; in memory they are some times that."""


class UnknownNameError(KeyError):
    """A name of no known form: nothing was ever there."""


@dataclass(frozen=True, slots=True)
class Part:
    """A Parquet file of finished problems.

    Attributes:
        path: of a shard, or of one problem of a shard that is not whole.
        name: short, the same as long as the file is there: the shard's number, or "s" and the
            problem's place, or "g", the step and a fingerprint of the question's id.
        first: place of its first problem in the stage's own order; of a search within a training,
            the step.
        step: the optimiser step after which a training searched; None in a stage of searches.
    """

    path: Path
    name: str
    first: int
    step: int | None = None


class Folder:
    """A run's folder. Nothing outside of it is read, wherever a link in it leads.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._root = path.resolve()
        self._kept: OrderedDict[Hashable, tuple[Hashable, Any, int]] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def within(self, path: Path) -> bool:
        """Whether a path leads into the run."""
        try:
            return path.resolve().is_relative_to(self._root)
        except (OSError, RuntimeError):  # links in a circle
            return False

    def is_file(self, path: Path) -> bool:
        """Whether it is a plain file of the run: reading a pipe would never end."""
        try:
            return stat.S_ISREG(path.stat().st_mode) and self.within(path)
        except (OSError, ValueError):  # a NUL in the name
            return False

    def stage(self, name: str) -> Path:
        """The folder of a stage. Raises UserError where there is none."""
        path = self.path / name
        plain = name not in ("", "..") and not name.startswith(".") and "/" not in name
        if not plain or "\0" in name or not self.is_file(path / "stage.json"):
            raise UserError(f"{self.path} has no stage {name!r} (yet)")
        return path

    def stages(self) -> list[str]:
        """The stages that have a record, by name."""
        found = (p for p in _entries(self.path) if not p.name.startswith("."))
        return [p.name for p in found if self.is_file(p / "stage.json")]

    def record(self, name: str) -> dict[str, Any]:
        """What ``stage.json`` says; {} while it cannot be read."""
        path = self.path / name / "stage.json"
        return read_json(path) if self.is_file(path) else {}

    def made(self, name: str) -> str | None:
        """What a stage was made of, as far as its record says."""
        found = self.record(name).get("fingerprint")
        return found if isinstance(found, str) else None

    def json(self, path: Path) -> dict[str, Any]:
        """The object in a file; {} where there is none, or none that can be read."""
        return read_json(path) if self.is_file(path) else {}

    def rows(self, path: Path) -> list[Row]:
        """The whole lines of a JSON Lines file that may be growing; [] where there is none."""
        return self.digest(path, "rows", read_log) if self.is_file(path) else []

    def parts(self, folder: Path) -> list[Part]:
        """The finished files of a map of problems, in the order of their problems."""
        size = self.json(folder / ".shards.json").get("shard_size")
        size = size if isinstance(size, int) and size > 0 else 1 << 20
        found = [
            Part(path, str(int(number[1])), int(number[1]) * size)
            for path in _entries(folder)
            if (number := _SHARD.fullmatch(path.name)) and self.is_file(path)
        ]
        found += [
            Part(path, f"s{int(number[1])}", int(number[1]))
            for path in _entries(folder / ".spool")
            if (number := _SPOOLED.fullmatch(path.name)) and self.is_file(path)
        ]
        return sorted(found, key=lambda part: (part.first, part.name))

    def searched(self, folder: Path) -> list[Part]:
        """The trees that a training searched while it went on, in the order of its steps."""
        return [
            Part(path, f"g{int(step.name)}-{of[1]}", int(step.name), int(step.name))
            for step in _entries(folder)
            if _STEP.fullmatch(step.name)
            for path in _entries(step)
            if (of := _SEARCHED.fullmatch(path.name)) and self.is_file(path)
        ]

    def digest(self, path: Path, what: Hashable, read: Callable[[Path], Kept]) -> Kept:
        """``read(path)``, kept until the file is another one, or too much was read since.

        Args:
            path: a file.
            what: names what is read of it.
            read: reads it; its result is small.
        """
        about, key = path.stat(), (str(path), what)
        now = (about.st_ino, about.st_size, about.st_mtime_ns)
        with self._lock:
            then, kept, _ = self._kept.get(key, (None, None, 0))
            if then == now:
                self._kept.move_to_end(key)
                return kept
        found = read(path)
        size = len(pickle.dumps(found, pickle.HIGHEST_PROTOCOL))
        with self._lock:
            self._bytes += size - self._kept.pop(key, (None, None, 0))[2]
            self._kept[key] = (now, found, size)
            while self._bytes > _MOST_KEPT and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1][2]
        return found


def placed(tree: str) -> tuple[str, int]:
    """The part's name and the row that a tree's id ("3-7", "s12", "g120-...") names.
    UnknownNameError for another text."""
    found = _PLACE.fullmatch(tree)
    if found is None:
        raise UnknownNameError(tree)
    return (found[1], int(found[2])) if found[1] else (tree, 0)


@contextmanager
def parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """An open file, of which row groups and columns are read alone. UserError where it is damaged,
    or not whole yet."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, OSError, ValueError, IndexError) as error:
        raise UserError(unreadable(path)) from error


def unreadable(path: Path) -> str:
    """The sentence for a file that is damaged, or not whole yet."""
    return f"{path} cannot be read (yet): it is being written, or it is damaged"


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder))
    except OSError:
        return []

"""A resumable map over many items: results reach the disk one by one and end up in shards.

A finished item is spooled to its own file at once; when all items of a shard are finished they
are written as one shard and their spool files go. Every file appears atomically, so a kill at any
moment loses only what was unfinished, and a shard's bytes do not depend on how often the run was
killed or in which order its items finished. A folder that was begun keeps its shard size, whatever
is asked for later. An item that cannot be done at all (``SetAsideError``) holds up no other.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from butwait.records import UserError
from butwait.running.files import atomic_path, remove, write_json

_SPOOL = ".spool"
SPOOLED = f"{_SPOOL}/*.parquet"
"""The files of finished items whose shard is not whole yet, in a folder of shards."""
_SET_ASIDE = ".set_aside.json"
_NOTE = ".shards.json"
BY_ITSELF = "the work on an item was cancelled by itself; mend what does it"

Item = TypeVar("Item")
Result = TypeVar("Result")


class SetAsideError(UserError):
    """An item that cannot be done, while others can.

    Attributes:
        name: of the item.
        why: its last words.
    """

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name} was set aside: {why}")
        self.name = name
        self.why = why


@dataclass(frozen=True)
class Aside(Generic[Result]):
    """What results hold that is none of their identity (wall times), in a file of its own for each
    file of results.

    ``write`` stores it; ``restore`` puts it back into results that were read without it. ``name``
    is that of the folder beside the results' (a reader of that folder finds results alone).
    """

    name: str
    write: Callable[[Path, Sequence[Result]], None]
    restore: Callable[[Path, Sequence[Result]], None]

    def path(self, results: Path) -> Path:
        if results.parent.name == _SPOOL:
            return self.old_path(results)
        return results.parent.with_name(self.name) / results.name

    def old_path(self, results: Path) -> Path:
        """Where it lay, beside the results, before it had a folder."""
        return results.with_name(f"{self.name}-{results.name}")

    def find(self, results: Path) -> Path | None:
        """The file, in the folder or where older runs have it; None without one."""
        places = (self.path(results), self.old_path(results))
        return next((place for place in places if place.exists()), None)


@dataclass(frozen=True)
class ShardFormat(Generic[Result]):
    """How results are stored.

    ``write`` must give the same bytes for the same results, and ``read`` must give them back
    exactly, but for what goes ``aside``. Both are handed a path that is not the final one:
    ``map_shards`` makes files appear whole. ``brief`` reads as much of a finished shard as
    ``on_result`` is to be told of; without it that is all.
    """

    write: Callable[[Path, Sequence[Result]], None]
    read: Callable[[Path], list[Result]]
    suffix: str = ".parquet"
    aside: Aside[Result] | None = None
    brief: Callable[[Path], list[Result]] | None = None

    def store(self, path: Path, results: Sequence[Result]) -> None:
        """Writes a file of results, atomically. What goes aside is written first: a file of results
        that exists is never computed again."""
        if self.aside is not None:
            with atomic_path(self.aside.path(path)) as temporary:
                self.aside.write(temporary, results)
        with atomic_path(path) as temporary:
            self.write(temporary, results)

    def load(self, path: Path) -> list[Result]:
        """What ``store`` wrote."""
        results = self.read(path)
        if self.aside is not None and (kept := self.aside.find(path)) is not None:
            self.aside.restore(kept, results)
        return results

    def remove(self, path: Path) -> None:
        """Deletes what ``store`` wrote, where it is."""
        path.unlink(missing_ok=True)
        if self.aside is not None:
            self.aside.path(path).unlink(missing_ok=True)


async def map_shards(
    items: Sequence[Item],
    work: Callable[[Item], Awaitable[Result]],
    format: ShardFormat[Result],
    folder: Path,
    *,
    shard_size: int,
    concurrency: int,
    on_result: Callable[[Result], None] = lambda result: None,
    instead: Callable[[Item], Result | None] | None = None,
) -> list[Path]:
    """Computes ``work(item)`` for every item that is not on disk yet.

    Args:
        items: in a fixed order; item i belongs to shard i // (the folder's shard size).
        work: the computation; at most ``concurrency`` of them run at a time, across shards, so
            that the slowest item of a shard does not hold up the next shard.
        format: how results are stored.
        folder: where the shards go.
        shard_size: items in one file, where the folder has none yet.
        concurrency: items that are computed at a time.
        on_result: called with every result, stored ones first (for progress).
        instead: where the map is complete without the items that were set aside, the result that
            is stored for such a one; None: nothing is. ``set_aside`` names them. They are tried
            again where it is no longer given, and where nothing else was left.

    Returns:
        The shards' paths, in order.

    Raises:
        UserError: the shards of the folder are none of so many items; all other items are stored,
            and these were set aside.
        whatever ``work`` raises first; the other items are cancelled and finished ones stay on
        disk.
    """
    gate = asyncio.Semaphore(concurrency)
    shard_size = _shard_size(folder, format, len(items), shard_size)
    paths = _paths(folder, format, len(items), shard_size)
    skipped = set_aside(folder)
    if skipped and (instead is None or len(skipped) == len(items)):
        _take_up(folder, format, len(items), shard_size, skipped)
        skipped = {}
    lost: dict[int, SetAsideError] = {}

    async def one(index: int) -> Result | None:
        spooled = _spool(folder) / f"{index:08d}{format.suffix}"
        if spooled.exists():
            (result,) = format.load(spooled)
        else:
            try:
                async with gate:
                    result = await work(items[index])
            except SetAsideError as error:
                lost[index] = error
                return None if instead is None else instead(items[index])
            format.store(spooled, [result])
        on_result(result)
        return result

    async def shard(path: Path, indices: range) -> None:
        if path.exists():
            for result in (format.brief or format.load)(path):
                on_result(result)
        elif all(str(index) in skipped for index in indices):
            return
        else:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(i)) for i in indices]
            if any(task.cancelled() for task in tasks):  # by the work itself: no group tells
                raise UserError(BY_ITSELF)
            without = {str(i): [lost[i].name, lost[i].why] for i in indices if i in lost}
            if without and instead is None:
                return
            # One that a killed session had noted may be done by now.
            again = [str(i) for i in indices if str(i) in skipped]
            if without or again:
                for index in again:
                    del skipped[index]
                skipped.update(without)
                write_json(folder / _SET_ASIDE, skipped)
            if results := [r for task in tasks if (r := task.result()) is not None]:
                format.store(path, results)
        for i in indices:
            format.remove(_spool(folder) / f"{i:08d}{format.suffix}")

    try:
        async with asyncio.TaskGroup() as group:
            for number, path in enumerate(paths):
                start = number * shard_size
                group.create_task(shard(path, range(start, min(start + shard_size, len(items)))))
    except BaseExceptionGroup as errors:
        raise first_of(errors) from errors
    if lost and instead is None:
        told = {str(index): [error.name, error.why] for index, error in sorted(lost.items())}
        why = next(iter(lost.values())).why
        raise UserError(
            f"not done, for each of them ended two workers: {named(told)} ({why}); all others are "
            "stored: run the same command again to try them once more, or set workers.skip_failed: "
            "true to go on without them"
        )
    if len(skipped) == len(items) and items:
        why = next(iter(skipped.values()))[1]
        raise UserError(
            f"nothing is left without those that ended their workers: {named(skipped)} ({why}); "
            "mend what ends them (memory, for example) and run the same command again: it tries "
            "them once more"
        )
    remove(_spool(folder))
    return [path for path in paths if path.exists()]


def set_aside(folder: Path) -> dict[str, list[str]]:
    """Of a finished map: index -> (name, last words) of the items that it is complete without."""
    note = folder / _SET_ASIDE
    return json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}


def lost_shards(folder: Path) -> list[Path]:
    """Of a finished map: the Parquet shards that it wrote and that are gone; none where no note in
    the folder tells how many it wrote."""
    try:
        begun = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
        items, size = int(begun["items"]), int(begun["shard_size"])
        shards = range(-(-items // size))
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return []
    there = {path.name for path in folder.glob("shard-*.parquet")}
    if len(there) == len(shards):
        return []
    aside = set_aside(folder)
    return [
        path
        for number in shards
        if (path := folder / f"shard-{number:05d}.parquet").name not in there
        and not all(str(i) in aside for i in range(number * size, min((number + 1) * size, items)))
    ]


def named(items: Mapping[str, Sequence[str]]) -> str:
    """The items of ``set_aside``, for a sentence."""
    names = [name for name, *_ in items.values()]
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more


def store_early(results: Sequence[Result], format: ShardFormat[Result], folder: Path) -> None:
    """Stores results that were computed before, where ``map_shards`` finds them.

    Args:
        results: of all items, in order.
        format, folder: those of ``map_shards``.
    """
    for index, result in enumerate(results):
        format.store(_spool(folder) / f"{index:08d}{format.suffix}", [result])


def _take_up(
    folder: Path,
    format: ShardFormat[Result],
    items: int,
    size: int,
    skipped: Mapping[str, Sequence[str]],
) -> None:
    """Makes a folder as if its items that were set aside had never been tried: what else its shards
    hold goes back to the spool. The note goes last, so that a kill leaves nothing for a result."""
    for number, path in enumerate(_paths(folder, format, items, size)):
        indices = range(number * size, min((number + 1) * size, items))
        kept = [i for i in indices if str(i) not in skipped]
        if len(kept) == len(indices) or not path.exists():
            continue
        results = format.load(path)
        # Something stands in the place of each, or nothing does; else nobody knows whose is whose.
        held = next((those for those in (kept, indices) if len(those) == len(results)), ())
        for index, result in zip(held, results, strict=False):
            if str(index) not in skipped:
                format.store(_spool(folder) / f"{index:08d}{format.suffix}", [result])
        format.remove(path)
    (folder / _SET_ASIDE).unlink()


def _paths(folder: Path, format: ShardFormat[Result], items: int, size: int) -> list[Path]:
    count = -(-items // size)
    return [folder / f"shard-{number:05d}{format.suffix}" for number in range(count)]


def _shard_size(folder: Path, format: ShardFormat[Result], items: int, asked: int) -> int:
    """The folder's own shard size, which is noted beside the shards before the first of them."""
    note = folder / _NOTE
    if note.exists():
        begun = json.loads(note.read_text())
        if begun["items"] == items:
            return int(begun["shard_size"])
    # A copy may have lost the note; shards that are all there need none.
    there = sorted(folder.glob(f"shard-*{format.suffix}"))
    if note.exists() or (there and there != _paths(folder, format, items, asked)):
        raise UserError(
            f"the files in {folder} are not those of {items} items; remove the folder and run "
            "the same command again"
        )
    with atomic_path(note) as temporary:
        temporary.write_text(json.dumps({"items": items, "shard_size": asked}))
    return asked


def first_of(error: BaseException) -> BaseException:
    """The first error of groups within groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _spool(folder: Path) -> Path:
    return folder / _SPOOL

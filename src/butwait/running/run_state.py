"""What a run's folder says of the run: read from the disk alone, whoever works there."""

import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from butwait.records import UserError
from butwait.running.stages import LOCK, is_held

RUNS = Path("runs")
PROGRESS = ".progress.json"
State = Literal["running", "finished", "failed", "stopped", "killed", "unknown"]
_TAIL = 1 << 16
"""Bytes of a log that are read for its last line."""
_SHARD = re.compile(r"shard-(\d+)\.(?!.*\.)")


@dataclass
class StageState:
    """One stage. ``done`` and ``total`` are units of its own (problems, steps); None: unknown.

    Attributes:
        state: ``finished``, ``running``, ``begun`` (half finished, and nobody works on it) or
            ``waits``.
        seconds: of work, as far as they are written down.
    """

    name: str
    kind: str
    state: str
    done: int | None = None
    total: int | None = None
    seconds: float = 0.0
    servers: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass
class RunState:
    """A run.

    Attributes:
        path: its folder.
        recipe: the recipe's name; "" where nothing says it.
        state: ``killed``: it did not end by itself; ``unknown``: it began on another machine, and
            nothing says that it ended.
        told: the state as a sentence's part.
        stages: all of the recipe's, as far as the folder knows of them.
        stage: the one that is at work, or was last; "" where none is.
        rate: of it, units a second; None: nobody knows.
        left_s: seconds until it is finished, at this rate.
        figures: what its progress showed last.
        workers: of a run that is running, as it told them last; None: it has none.
        error: what ended it, where something did.
    """

    path: Path
    recipe: str
    state: State
    told: str
    stages: list[StageState]
    stage: str = ""
    task: str | None = None
    rate: float | None = None
    left_s: float | None = None
    figures: dict[str, str] = field(default_factory=dict)
    workers: list[dict[str, Any]] | None = None
    error: str | None = None
    pid: int | None = None
    host: str | None = None
    started: str | None = None
    updated: float = 0.0

    @property
    def finished(self) -> int:
        """Stages that are finished."""
        return sum(stage.state == "finished" for stage in self.stages)


def is_run(path: Path) -> bool:
    """Whether a folder is a run's."""
    marks = (path / name for name in (PROGRESS, LOCK))
    return path.is_dir() and (any(mark.exists() for mark in marks) or any(_records(path)))


def runs_in(folder: Path) -> list[Path]:
    """The runs in a folder, the newest first."""
    found = [path for path in _folders(folder) if not path.name.startswith(".") and is_run(path)]
    return sorted(found, key=last_change, reverse=True)


def the_run(path: Path | None, runs: Path = RUNS) -> Path:
    """The run that is meant: its folder, its name under ``runs/``, or the newest one there. Raises
    UserError where there is none."""
    if path is None:
        there = runs_in(runs)
        if not there:
            raise UserError(f"there is no run under {runs}/: give a run's folder")
        return there[0]
    for place in (path, runs / path):
        if is_run(place):
            return place
    raise UserError(
        f"{path} is no run: it holds no stage, and no progress of one (`butwait runs` lists those "
        f"under {runs}/)"
    )


def last_change(run: Path) -> float:
    """When a run wrote last, in seconds since 1970."""
    files = [run / PROGRESS, run / "log.txt", *_records(run)]
    times = [_time(file) for file in files]
    return max([*times, 0.0]) or _time(run)


def read_run(run: Path) -> RunState:
    """The state of a run. Files that are damaged or not there are told as far as they go."""
    held = is_held(run)  # first: a run that ends meanwhile has said so
    progress = read_json(run / PROGRESS)
    state, told = _state(run, progress, held)
    records = {path.parent.name: record for path, record in _stage_records(run)}
    listed = [s for s in _list(progress.get("stages")) if isinstance(s.get("name"), str)]
    known = {stage["name"]: str(stage.get("kind", "")) for stage in listed}
    known = known or {name: str(of.get("kind", "")) for name, of in records.items()}
    at = progress.get("stage") if state != "finished" else None
    at = at if isinstance(at, str) and at in known else ""
    if not progress and not known:
        state, told = ("running", told) if state == "running" else ("stopped", "nothing finished")
    for name in _outdated(progress, records, at):
        del records[name]
    stages = [
        _stage(run / name, kind, records.get(name, {}), state == "running" and name == at)
        for name, kind in known.items()
    ]
    if not progress and state == "stopped" and all(s.state == "finished" for s in stages):
        state, told = "finished", "finished"
    found = RunState(run, str(progress.get("recipe") or ""), state, told, stages, at)
    now = next((stage for stage in stages if stage.name == at), None)
    if now is not None:
        _add_task(found, now, progress)
    found.error = progress.get("error") if state in ("failed", "stopped") else None
    workers = progress.get("workers")
    at_work = state == "running" and isinstance(workers, list)  # else they are gone with it
    found.workers = _list(workers) if at_work else None
    pid, host, started = (progress.get(name) for name in ("pid", "host", "started"))
    found.pid = pid if isinstance(pid, int) else None
    found.host = host if isinstance(host, str) else None
    found.started = started if isinstance(started, str) else None
    found.updated = last_change(run)
    return found


def _state(run: Path, progress: Mapping[str, Any], held: bool) -> tuple[State, str]:
    pid, host, said = progress.get("pid"), progress.get("host"), progress.get("state")
    here = host in (None, socket.gethostname())
    if held:
        where = "" if here else f" on {host}"
        # Another command may hold the folder, and a run that has just begun has said nothing yet.
        known = said == "running" and isinstance(pid, int)
        return "running", f"running{where}" + (f", process {pid}" if known else "")
    if said == "running":
        if not here:
            since = ago(last_change(run))
            return "unknown", f"began on {host} (process {pid}), which was heard of {since}"
        return "killed", f"killed: process {pid} is gone, and did not say that it ended"
    if said == "failed":
        return "failed", "ended by a mistake"
    if said == "finished":
        return "finished", "finished"
    return "stopped", "stopped"


def _outdated(
    progress: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]], at: str
) -> list[str]:
    """Stages that are finished by an older recipe, and will be computed anew. That ``at`` which the
    run is has been begun anew."""
    due = progress.get("due")
    due = due if isinstance(due, list) and progress.get("state") != "finished" else []
    return [
        name
        for name, record in records.items()
        if name in due and name != at and record.get("status") == "complete"
    ]


def _stage(path: Path, kind: str, record: Mapping[str, Any], running: bool) -> StageState:
    complete = record.get("status") == "complete"
    state = "finished" if complete else "running" if running else "begun" if record else "waits"
    seconds, servers = record.get("seconds"), record.get("servers")
    stage = StageState(
        path.name,
        kind,
        state,
        seconds=float(seconds) if isinstance(seconds, int | float) else 0.0,
        servers=servers if isinstance(servers, dict) else {},
    )
    if state in ("running", "begun"):
        stage.done, stage.total = _counted(path, record)
    return stage


def _add_task(run: RunState, now: StageState, progress: Mapping[str, Any]) -> None:
    """What the progress of the stage at work says, where the disk does not say more."""
    done, total = (progress.get(name) for name in ("done", "total"))
    done, total = (n if isinstance(n, int) else None for n in (done, total))
    task, rate, figures = (progress.get(name) for name in ("task", "rate", "figures"))
    over = now.done == now.total and done != total  # its problems are done, and a training began
    if now.done is None or over or (now.total is None and total is not None):
        now.done, now.total = done, total
    run.task = task if isinstance(task, str) else None
    run.figures = {k: str(v) for k, v in figures.items()} if isinstance(figures, dict) else {}
    if run.state == "running" and isinstance(rate, int | float):
        run.rate = float(rate)
    if run.rate and now.done is not None and now.total is not None:
        run.left_s = max(0, now.total - now.done) / run.rate


def _counted(stage: Path, record: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """(done, total) of a stage that maps problems, by its shards and its spool, or of a training,
    by its newest logged step."""
    step, most = _trained(stage)
    if step is not None:
        return step, most
    done = total = None
    for note in sorted(stage.rglob(".shards.json")):
        about = read_json(note)
        items, size = about.get("items"), about.get("shard_size")
        if not isinstance(items, int) or not isinstance(size, int):
            continue
        done, total = (done or 0) + _finished_items(note.parent, items, size), (total or 0) + items
    if done is not None:
        return done, _attempts(record) or total
    return None, most


def _finished_items(folder: Path, items: int, size: int) -> int:
    """Those in whole shards, and those in the spool that stand in none yet."""
    names = [found for file in _files(folder) if (found := _SHARD.match(file.name))]
    shards = {int(found[1]) for found in names}
    spooled = {int(file.stem) for file in _files(folder / ".spool") if file.stem.isdigit()}
    whole = sum(min(size, items - number * size) for number in shards if number * size < items)
    return whole + sum(index // size not in shards for index in spooled)


def _attempts(record: Mapping[str, Any]) -> int | None:
    """Problems times methods of an evaluation, whose folders are made one after another."""
    methods = _mapping(_mapping(record.get("settings")).get("methods"))
    sets = _mapping(record.get("problem_sets"))
    counts = [_mapping(about).get("problems") for about in sets.values()]
    if not methods or not all(isinstance(n, int) for n in counts):
        return None
    return len(methods) * sum(n for n in counts if isinstance(n, int))


def _trained(stage: Path) -> tuple[int | None, int | None]:
    """(newest logged step, steps of the whole training), as far as they are on disk."""
    step = next((line.get("step") for line in _last_lines(stage / "log.jsonl")), None)
    states = stage.glob("work/checkpoint-*/trainer_state.json")
    newest = max(states, key=_time, default=None)
    most = None if newest is None else read_json(newest).get("max_steps")
    return tuple(int(n) if isinstance(n, int | float) else None for n in (step, most))  # type: ignore[return-value]


def _last_lines(log: Path) -> Iterator[dict[str, Any]]:
    """Whole lines of JSON at a log's end, the last first."""
    if not log.is_file():
        return
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            lines = file.read().splitlines()
    except OSError:
        return
    for line in reversed(lines):
        try:
            read = json.loads(line)
        except ValueError:
            continue  # it is being written
        if isinstance(read, dict):
            yield read


def _stage_records(run: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """In the order in which they were written last."""
    files = sorted(_records(run), key=_time)
    return ((file, read_json(file)) for file in files)


def _records(run: Path) -> list[Path]:
    folders = (path for path in _folders(run) if not path.name.startswith("."))
    return [path / "stage.json" for path in folders if (path / "stage.json").is_file()]


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(held for held in path.iterdir() if held.is_dir())
    except OSError:
        return []


def _files(path: Path) -> list[Path]:
    try:
        return [held for held in path.iterdir() if not held.name.startswith(".")]
    except OSError:
        return []


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; {} where there is none, or none that can be read."""
    try:
        if not path.is_file():  # nobody may ever write to a pipe
            return {}
        return _mapping(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def size_of(path: Path) -> int:
    """Bytes of all files in a folder, or of a file."""
    if not path.is_dir() or path.is_symlink():
        return _bytes(path)
    return sum(_bytes(Path(folder, name)) for folder, _, names in os.walk(path) for name in names)


def _bytes(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def bytes_told(size: float) -> str:
    """A size for people: "1.2 GB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def time_told(seconds: float) -> str:
    """A time for people: "3 min"."""
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length or (unit != "days" and seconds >= length):
            number = seconds / length
            return (
                f"{number:.1f} {unit}" if number < 10 and unit != "min" else f"{number:.0f} {unit}"
            )
    return f"{seconds:.0f} s"


def stamp(then: float) -> str:
    """A time, in seconds since 1970, for programs (UTC)."""
    return datetime.fromtimestamp(then, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def ago(then: float) -> str:
    """How long it is since a time, in seconds since 1970."""
    return f"{time_told(max(0.0, datetime.now(UTC).timestamp() - then))} ago"

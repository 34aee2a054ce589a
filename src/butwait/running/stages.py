"""Stage folders: what was computed from what, and whether it is finished.

``RUN/<stage>/stage.json`` names the stage's settings, its inputs and a fingerprint of both. A
finished stage with the same fingerprint is not run again. A stage whose fingerprint changed is
moved to ``RUN/.superseded/`` and comes back if the old settings do; nothing is overwritten. A
folder that holds something and has no record is refused.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from butwait.records import UserError
from butwait.running.files import recover, remove, write_json
from butwait.running.refusals import refusal
from butwait.running.shards import lost_shards

SCHEMA_VERSION = 1
SCRATCH = ("work", "best")
"""What a stage keeps in its folder to go on from after a kill. It goes, in this order, when the
stage is complete and not before."""
LOCK = ".lock"
"""In a run's folder: held by the process that works there."""
_RESULTS = ("trees", "attempts/*/*")
"""Folders of a stage whose shards are its result."""
_LOOK_SECONDS = 0.05
WORKERS = "workers.json"
"""How the workers of a stage fared, in its folder: no part of its result."""
_WORKERS = ".workers"
_WORKERS_SECONDS = 20


@dataclass
class Stage:
    """One stage's folder.

    Attributes:
        path: RUN/<name>.
        record: the content of stage.json.
        earlier: the one of another fingerprint that made way for it when it was opened.
        gone: files of its results that were gone when it was opened, complete by then.
    """

    path: Path
    record: dict[str, Any]
    earlier: "Stage | None" = None
    gone: int = 0
    _clock: float = field(default_factory=time.monotonic)

    @property
    def complete(self) -> bool:
        return self.record["status"] == "complete"

    def lost(self) -> list[Path]:
        """Files of results that a complete stage wrote and has no more."""
        if not self.complete:
            return []
        folders = (folder for part in _RESULTS for folder in sorted(self.path.glob(part)))
        return [file for folder in folders for file in lost_shards(folder)]

    def finish(self, metrics: dict[str, Any], cost: dict[str, int]) -> None:
        """Marks the stage complete. Its outputs must be on disk by now."""
        self.record |= {"status": "complete", "metrics": metrics, "cost": cost}
        self.save()
        self.tidy()

    def tidy(self) -> None:
        """Removes what a killed session left: the scratch of a complete stage, files that were
        being written in another."""
        if self.complete:
            for name in SCRATCH:
                remove(self.path / name)
        else:
            recover(self.path)

    def save(self) -> None:
        """Writes stage.json; ``seconds`` grows by the wall time since it was written last. A
        killed session counts up to its last save."""
        now = time.monotonic()
        self.record["seconds"] = round(self.record["seconds"] + now - self._clock, 3)
        self._clock = now
        write_json(self.path / "stage.json", self.record)


def open_stage(run: Path, header: dict[str, Any]) -> Stage:
    """The folder of a stage: finished, half-finished or new. A finished one that lost files of its
    results is half-finished.

    Args:
        run: the run's folder.
        header: ``name``, ``kind``, ``from``, ``fingerprint``, ``settings``, ``inputs``,
            ``versions`` and ``seed``.

    Raises:
        UserError: the folder holds something and no record, or its record is unreadable.
    """
    path = run / header["name"]
    existing, earlier = read_stage(path), None
    if existing and existing.record["fingerprint"] != header["fingerprint"]:
        earlier = _supersede(run, existing)
        existing = None
    kept = run / ".superseded" / f"{header['name']}-{header['fingerprint']}"
    if existing is None and kept.exists() and not _holds_something(path):
        remove(path)
        os.replace(kept, path)
        existing = read_stage(path)
    if existing is not None:
        existing.tidy()
        if gone := len(existing.lost()):
            # It goes on like any other that is half finished: what is there is not made again.
            existing.gone = gone
            existing.record |= {"status": "running", "metrics": {}, "cost": {}}
            existing.save()
        return existing
    if _holds_something(path):
        raise UserError(
            f"{path} holds files and no stage.json, so nothing says what they were made from; move "
            "the folder away or remove it, and run the same command again"
        )
    path.mkdir(parents=True, exist_ok=True)
    blank = {"status": "running", "seconds": 0.0, "metrics": {}, "cost": {}}
    stage = Stage(path, {"schema_version": SCHEMA_VERSION} | header | blank, earlier)
    stage.save()
    return stage


def _holds_something(path: Path) -> bool:
    """Whether a folder holds more than a record that was being written when its writer died."""
    if not path.is_dir():
        return path.exists()
    return any(not held.name.startswith(".stage.json.") for held in path.iterdir())


def read_stage(path: Path) -> Stage | None:
    """The stage in ``path``, or None where there is none.

    Raises:
        UserError: stage.json is unreadable.
    """
    file = path / "stage.json"
    if not file.exists():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        record["fingerprint"], record["status"], record["seconds"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is damaged ({type(error).__name__}); remove the folder {path} and run the "
            "same command again to compute this stage anew"
        ) from error
    return Stage(path, record)


def check_whole(folder: Path) -> None:
    """Raises UserError for a folder of results of a finished stage from which files are gone."""
    if not (gone := lost_shards(folder)):
        return
    for above in folder.absolute().parents[:3]:
        if (stage := read_stage(above)) is not None:
            if stage.complete:
                raise UserError(
                    f"{gone[0]} is gone"
                    + (f", and {len(gone) - 1} more" if gone[1:] else "")
                    + f": the finished stage {above.name!r} is not whole; run the recipe of "
                    f"{above.parent} again, which computes only what is gone"
                )
            return


@contextmanager
def locked(run: Path, otherwise: str = "") -> Iterator[None]:
    """Holds the run's folder for this process.

    Args:
        run: the folder, which is made where there is none.
        otherwise: what one may do where another process holds it; "": also take another folder,
            as where it cannot be written.

    Raises:
        UserError: another process holds it, or it cannot be written.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        handle = (run / LOCK).open("w")
    except OSError as error:
        told = refusal(error, f"the run folder {run} cannot be written") if otherwise else None
        raise UserError(
            told
            or f"the run folder {run} cannot be written ({error.strerror}); choose another with "
            "--run-dir"
        ) from error
    with handle:
        for last in (False, False, True):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if last:
                    raise UserError(
                        f"another butwait process is working in {run}; wait for it, or "
                        f"{otherwise or 'choose another folder with --run-dir'}"
                    ) from error
                time.sleep(_LOOK_SECONDS)  # it may be but ``is_held``
        _await_workers(run)
        yield


def is_held(run: Path) -> bool:
    """Whether a process holds the run's folder."""
    if not (run / LOCK).is_file():
        return False
    try:
        with (run / LOCK).open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def working(run: Path) -> Iterator[None]:
    """Held by every launched worker of a run: while one lives, ``locked`` admits no other run."""
    with (run / _WORKERS).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield


def _await_workers(run: Path) -> None:
    """Workers of a killed run end by themselves; a moment is theirs."""
    deadline = time.monotonic() + _WORKERS_SECONDS
    with (run / _WORKERS).open("w") as handle:
        while True:
            try:
                return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"workers of an earlier run are still at work in {run}; end them (they are "
                        "processes of `butwait.pipeline.worker` or `butwait.workers`) and run the "
                        "same command again"
                    ) from error
                time.sleep(0.1)


def _supersede(run: Path, stage: Stage) -> Stage:
    """Puts a stage aside; returns it where it is now."""
    kept = run / ".superseded" / f"{stage.path.name}-{stage.record['fingerprint']}"
    kept.parent.mkdir(exist_ok=True)
    remove(kept)
    os.replace(stage.path, kept)
    return Stage(kept, stage.record)

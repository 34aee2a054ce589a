"""``butwait runs`` lists runs; ``butwait clean`` removes what a run does not need any more."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from butwait.records import UserError
from butwait.running.files import leftovers, recover, remove
from butwait.running.log import RESULT, say
from butwait.running.refusals import refusals_told
from butwait.running.run_state import (
    ago,
    bytes_told,
    read_run,
    runs_in,
    size_of,
    stamp,
    the_run,
)
from butwait.running.stages import SCRATCH, locked, read_stage
from butwait.running.terminal import visible

SUPERSEDED = ".superseded"


def runs(folder: Path, as_json: bool) -> None:
    """Lists the runs in a folder, the newest first. Raises UserError for no folder."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: give a folder that holds runs")
    found = [(read_run(path), size_of(path)) for path in runs_in(folder)]
    if as_json:
        rows = [
            {
                "name": run.path.name,
                "run": str(run.path),
                "recipe": run.recipe,
                "stages": len(run.stages),
                "stages_done": run.finished,
                "state": run.state,
                "bytes": size,
                "updated": stamp(run.updated),
            }
            for run, size in found
        ]
        print(json.dumps(rows, indent=2))
        return
    if not found:
        say(f"there is no run under {folder}/", RESULT)
        return
    table = [("run", "recipe", "stages", "state", "size", "last written")]
    for run, size in found:
        done = f"{run.finished}/{len(run.stages)}"
        about = (done, run.state, bytes_told(size), ago(run.updated))
        table.append((run.path.name, run.recipe or "?", *about))
    widths = [max(len(visible(row[i])) for row in table) for i in range(len(table[0]))]
    for row in table:
        cells = (f"{visible(cell):{width}}" for cell, width in zip(row, widths, strict=True))
        say("  ".join(cells).rstrip(), RESULT)


@dataclass(frozen=True)
class Spare:
    """Something that can go.

    Attributes:
        path: where it is.
        what: what it is.
        size: bytes.
    """

    path: Path
    what: str
    size: int


def clean(run: Path, yes: bool) -> None:
    """Removes what is superseded, and what killed processes left, after asking.

    Raises UserError for no run, one that a process holds, and where nobody can be asked.
    """
    run = the_run(run)
    _check_elsewhere(run)
    with (
        refusals_told(f"{run} could not be cleaned"),
        locked(run, "stop it first (Ctrl-C loses nothing)"),
    ):
        found = spare(run)
        if not found:
            say(f"{run} holds nothing that could go", RESULT)
            return
        for each in found:
            name = each.path.relative_to(run)
            say(f"  {bytes_told(each.size):>8}  {name}: {each.what}", RESULT)
        total = bytes_told(sum(each.size for each in found))
        if not yes and not _agreed(run, total):
            say("nothing was removed", RESULT)
            return
        for each in found:
            remove(each.path)
        recover(run)
        kept = run / SUPERSEDED
        if kept.is_dir() and not any(kept.iterdir()):
            kept.rmdir()
        say(f"removed {total}", RESULT)


def spare(run: Path) -> list[Spare]:
    """What the run does not need."""
    kept = run / SUPERSEDED
    superseded = sorted(kept.iterdir()) if kept.is_dir() else []
    found = [
        Spare(path, f"superseded {ago(path.lstat().st_ctime)}", size_of(path))
        for path in superseded
    ]
    scratch = []
    for record in sorted(run.glob("*/stage.json")):
        stage = read_stage(record.parent)
        if stage is not None and stage.complete:
            scratch += [record.parent / name for name in SCRATCH]
    found += [
        Spare(path, "scratch of a finished stage", size_of(path))
        for path in scratch
        if path.exists()
    ]
    gone = [path for path in leftovers(run) if kept not in path.parents]
    return found + [Spare(path, "left by a killed process", size_of(path)) for path in gone]


def _agreed(run: Path, total: str) -> bool:
    if not (sys.stdin is not None and sys.stdin.isatty()):
        raise UserError(
            f"nothing was removed: there is no terminal to ask on; `butwait clean {run} --yes` "
            f"removes these {total}"
        )
    said = input(f"Remove these {total}? They cannot be brought back. [y/N] ")
    return said.strip().lower() in ("y", "yes")


def _check_elsewhere(run: Path) -> None:
    """Raises UserError where a process of another machine may be at work."""
    found = read_run(run)
    if found.state == "unknown":
        raise UserError(
            f"nothing was removed: {run} {found.told}, and nothing says that it ended; look there, "
            f"and where it did, remove {run / '.progress.json'}"
        )

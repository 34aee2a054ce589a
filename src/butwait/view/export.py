"""The page and all data of some runs as one folder that opens from disk."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from butwait.records import UserError
from butwait.running.files import atomic_path
from butwait.view.library import Library, everything
from butwait.view.script import script
from butwait.view.server import INDEX, page_files, static

_RUNS = Path("data") / "runs.js"


def check_export(target: Path, runs: Iterable[Path]) -> None:
    """Raises UserError where an export would replace something else, or change a run."""
    place = target.resolve()
    if target.exists() and not target.is_dir():
        raise UserError(f"--export {target} is a file; give the name of a folder")
    for run in runs:
        root = run.resolve()
        if place.is_relative_to(root) or root.is_relative_to(place):
            raise UserError(
                f"--export {target} and the run {run} lie in each other; choose another"
            )
    mine = (target / INDEX).is_file() and (target / _RUNS).is_file()
    if target.is_dir() and any(target.iterdir()) and not mine:
        raise UserError(
            f"--export {target} holds something else than an earlier export; choose another folder"
        )


def export(library: Library, target: Path) -> tuple[int, int]:
    """Writes the folder, whole or not at all; an earlier export is replaced.

    Returns:
        (files, bytes) written.
    """
    check_export(target, [folder.path for folder in library.folders().values()])
    count = size = 0
    with atomic_path(target) as folder:
        for path in page_files():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(static() / path, folder / path)
        for name, content in everything(library):
            data = script(name, content)
            path = folder / "data" / f"{name}.js"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            count, size = count + 1, size + len(data)
    return count, size

"""One process of a training on several devices; see ``launch.py``."""

import json
import logging
import os
import sys
import threading
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import psutil

from butwait.pipeline.launch import JOB, LOUD_FROM, MISTAKE, OUTCOME, PARENT
from butwait.problems.grading import Grader
from butwait.recipe.recipe import Recipe
from butwait.records import UserError
from butwait.running.files import write_json
from butwait.running.log import logged
from butwait.running.plugins import find_modules_in
from butwait.running.progress import reported_on, silence
from butwait.running.refusals import refusals_told
from butwait.running.stages import Stage, read_stage, working
from butwait.running.terminal import loud_from
from butwait.stages.context import StageRun
from butwait.stages.kinds import STAGES
from butwait.stages.problem_sets import stored_problem_sets


def main(folder: Path, name: str) -> int:
    """Does a stage whose inputs are finished; returns the exit code."""
    _end_with_parent()
    first = os.environ.get("RANK", "0") == "0"
    if not first:
        silence()
    content = json.loads((folder / name / JOB).read_text(encoding="utf-8"))
    find_modules_in([Path(place) for place in content["folders"]])
    recipe = Recipe.model_validate(content["recipe"], context=STAGES)
    if recipe.threads is not None:
        import torch

        torch.set_num_threads(recipe.threads)
    try:
        refused = f"{folder} could not be read or written"
        with (
            loud_from(int(os.environ.get(LOUD_FROM, logging.INFO))),
            working(folder),
            logged(folder, begins=False),
            reported_on(folder) if first else nullcontext(),
            refusals_told(refused),
            Grader() as grader,
        ):
            problems = stored_problem_sets(folder / "problems")
            names = recipe.order()
            done = {s: _stage(folder / s) for s in names[: names.index(name)]}
            stage = _stage(folder / name)
            run = StageRun(recipe, name, stage, done, problems, grader, launched=True)
            metrics, cost = recipe.kind(name).run(run)
    except UserError as error:
        # All processes find most mistakes, and each of them says the same.
        try:
            (folder / name / MISTAKE).write_text(f"{error}\n", encoding="utf-8")
        except OSError:  # on a full disk
            print(f"butwait: {error}", file=sys.stderr)
        return 2
    if first:
        write_json(folder / name / OUTCOME, {"metrics": metrics, "cost": cost})
    return 0


def _end_with_parent() -> None:
    """Ends this process when the run that had it launched is gone: a training that nobody waits
    for would go on, beside the next one."""
    if PARENT not in os.environ:
        return  # started by hand on another machine

    def watch(parent: psutil.Process) -> None:
        while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.5)

    def end() -> None:
        with suppress(psutil.NoSuchProcess):
            watch(psutil.Process(int(os.environ[PARENT])))
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _stage(path: Path) -> Stage:
    stage = read_stage(path)
    assert stage is not None, f"{path} holds no stage"
    return stage


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))

"""A machine joins a training on several: ``python -m butwait.pipeline.join RUN STAGE [MACHINE]``.

The run is on the first machine; each of the others, which see the same folder, is started with this
command, before or after it. It waits until the stage is due, does its part, and ends with it.

An older run may have left a finished stage that is due again, or the job of a driver that was
killed. So what lies in the folder counts where the run at work there says so (``due`` in its
``.progress.json``), or where it has stayed as it is for a while.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from butwait.pipeline.launch import JOB, command, wait_for
from butwait.recipe.recipe import Recipe
from butwait.records import UserError
from butwait.running.files import expanded
from butwait.running.plugins import find_modules_in
from butwait.running.run_state import PROGRESS, read_json
from butwait.running.stages import is_held, read_stage
from butwait.stages.kinds import STAGES
from butwait.training.settings import SHIPPED, LaunchSettings

USAGE = "python -m butwait.pipeline.join RUN STAGE [MACHINE]"
MACHINE = ("MACHINE_RANK", "SLURM_NODEID")
"""The environment's names for the number of this machine."""
LOOK_S = 0.5
"""Seconds between looks for the stage."""
CALM_S, NOBODY_S = 5.0, 60.0
"""Seconds that a folder must say the same before it is believed: where a run at work there says it
too (one that begins needs a moment to say anything), and where none seems to be."""
_FINISHED = "finished"


def main(words: list[str]) -> int:
    """Joins as the command line says; returns the exit code."""
    try:
        if len(words) not in (2, 3):
            raise UserError(f"write {USAGE}")
        folder, stage = Path(words[0]), words[1]
        machine = _number(words[2:])
        launch = _due(folder, stage)
        if launch is None:
            return 0
        if (there := _machines(launch)) <= machine:
            raise UserError(
                f"machine {machine} is none of the {there} of `launch.machines`: they count from 0"
            )
        return wait_for(command(folder, stage, launch, machine))
    except UserError as error:
        print(f"butwait: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _number(given: list[str]) -> int:
    """Of this machine, by the command line or the environment."""
    named = [*given, *(os.environ[name] for name in MACHINE if os.environ.get(name))]
    if not named:
        raise UserError(f"which machine is this? write {USAGE}, or export {MACHINE[0]}")
    if not named[0].isdecimal() or int(named[0]) == 0:
        raise UserError(
            f"{named[0]!r} is no machine that joins: they are 1, 2, ...; the run is on machine 0"
        )
    return int(named[0])


def _machines(launch: LaunchSettings) -> int:
    """That train together; a configuration of one's own may say so itself."""
    if launch.machines > 1 or launch.config in SHIPPED:
        return launch.machines
    from accelerate.commands.config.config_args import load_config_from_file

    own = load_config_from_file(str(expanded(launch.config)))
    return int(getattr(own, "num_machines", 1))


def _job(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _found(folder: Path, stage: str) -> tuple[Any, bool]:
    """What becomes of the stage: the job that launches it, ``_FINISHED``, or None (nobody knows
    yet); and whether a run at work says so."""
    job, done = _job(folder / stage / JOB), read_stage(folder / stage)
    finished = _FINISHED if done is not None and done.complete else None
    said = read_json(folder / PROGRESS)
    if said.get("state") != "running":
        return job or finished, False
    held, due = is_held(folder), said.get("due")
    if isinstance(due, list):
        return (job if stage in due else finished), held
    return (None if held else job or finished), False


def _due(folder: Path, stage: str) -> LaunchSettings | None:
    """How the stage is launched, when it is due; None where it is finished."""
    told, since = False, 0.0
    seen: Any = None
    while True:
        content, sure = _found(folder, stage)
        now = time.monotonic()
        if content != seen:
            seen, since = content, now
        if content is not None and now - since >= (CALM_S if sure else NOBODY_S):
            break
        if content is None and not told:
            print(f"waiting for {stage} of {folder}", flush=True)
            told = True
        time.sleep(LOOK_S)
    if content == _FINISHED:
        print(f"{stage} of {folder} is finished")
        return None
    find_modules_in([Path(place) for place in content["folders"]])
    recipe = Recipe.model_validate(content["recipe"], context=STAGES)
    launch = getattr(recipe.stages[stage], "launch", None)
    assert isinstance(launch, LaunchSettings)
    return launch


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

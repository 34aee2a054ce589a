"""A machine joins a training on several: ``python -m butwait.pipeline.join RUN STAGE [MACHINE]``.

The run is on the first machine; each of the others, which see the same folder, is started with this
command, before or after it. It waits until the stage is due, does its part, and ends with it.
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
from butwait.running.plugins import find_modules_in
from butwait.running.stages import read_stage
from butwait.stages.kinds import STAGES
from butwait.training.settings import SHIPPED, LaunchSettings

USAGE = "python -m butwait.pipeline.join RUN STAGE [MACHINE]"
MACHINE = ("MACHINE_RANK", "SLURM_NODEID")
"""The environment's names for the number of this machine."""
LOOK_S = 0.5
"""Seconds between looks for the stage."""


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

    own = load_config_from_file(str(Path(launch.config).expanduser()))
    return int(getattr(own, "num_machines", 1))


def _job(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _due(folder: Path, stage: str) -> LaunchSettings | None:
    """How the stage is launched, when it is due; None where it is finished."""
    told = False
    while (content := _job(folder / stage / JOB)) is None:
        done = read_stage(folder / stage)
        if done is not None and done.complete:
            print(f"{stage} of {folder} is finished")
            return None
        if not told:
            print(f"waiting for {stage} of {folder}", flush=True)
            told = True
        time.sleep(LOOK_S)
    find_modules_in([Path(place) for place in content["folders"]])
    recipe = Recipe.model_validate(content["recipe"], context=STAGES)
    launch = getattr(recipe.stages[stage], "launch", None)
    assert isinstance(launch, LaunchSettings)
    return launch


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

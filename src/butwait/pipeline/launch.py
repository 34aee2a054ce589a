"""A training on several devices: one process each, started by ``accelerate launch``.

The run itself stays one process. It writes down which stage is due, starts the workers, waits, and
reads what they found. A worker (``worker.py``) loads the finished stages from the run's folder and
does the one stage; only the first of them writes. On several machines ``accelerate launch`` is
started by hand on each (``docs/distributed.md``).
"""

import json
import subprocess
import sys
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from butwait.recipe.stages import Outcome
from butwait.records import UserError
from butwait.running.files import write_json
from butwait.running.packages import require
from butwait.stages.context import StageRun
from butwait.training.settings import LaunchSettings

GRACE = 40
"""Seconds in which workers end that are told to; ``torch.distributed.run`` takes 30 at most."""
JOB, OUTCOME, MISTAKE = "job.json", "outcome.json", "mistake.txt"


def run_on_devices(run: StageRun, launch: LaunchSettings) -> Outcome:
    """Runs a stage in ``launch.processes`` processes.

    Raises UserError with the sentence of the worker that found a mistake, where the workers end
    without an outcome, and where they could not even start.
    """
    folder = run.folder
    if launch.config in ("zero2", "zero3"):
        require("deepspeed", f"launch.config: {launch.config}")
    for left in (OUTCOME, MISTAKE):
        (folder / left).unlink(missing_ok=True)
    recipe = run.recipe.model_dump(mode="json", by_alias=True, exclude_unset=True)
    write_json(folder / JOB, {"recipe": recipe})
    # The workers hold the lock of the run too, as they may outlive this process.
    ended = _run(command(folder.parent, run.name, launch))
    if (folder / MISTAKE).exists() and (told := (folder / MISTAKE).read_text("utf-8").strip()):
        raise UserError(told)
    if ended or not (folder / OUTCOME).exists():
        raise UserError(
            f"the workers of stage {run.name!r} ended with code {ended} and no result; what they "
            "printed stands above (what they finished is kept: run the same command again)"
        )
    outcome = json.loads((folder / OUTCOME).read_text(encoding="utf-8"))
    return outcome["metrics"], outcome["cost"]


def _run(words: list[str]) -> int:
    """Runs a command and returns its exit code. Where this process is stopped, it is told to end
    its own children, which a kill would leave behind."""
    process = subprocess.Popen(words, close_fds=False)
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE)
        process.kill()
        raise


def command(folder: Path, stage: str, launch: LaunchSettings) -> list[str]:
    """The words that start the workers. Raises UserError for a configuration that is not there."""
    job = ["-m", "butwait.pipeline.worker", str(folder), stage]
    count = str(launch.processes)
    if launch.config == "cpu":
        # ``accelerate launch`` starts several processes without a GPU by MPI only.
        own = ["torch.distributed.run", "--standalone", "--nproc_per_node", count]
    else:
        shipped = files("butwait.pipeline") / "accelerate" / f"{launch.config}.yaml"
        config = str(shipped) if shipped.is_file() else launch.config
        if not Path(config).is_file():
            raise UserError(
                f"launch.config: {config!r} is no file, and none of cpu, ddp, fsdp2, zero2, zero3"
            )
        own = ["accelerate.commands.launch", "--config_file", config, "--num_processes", count]
    return [sys.executable, "-m", *own, *job]

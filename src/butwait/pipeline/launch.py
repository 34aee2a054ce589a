"""A training on several devices: one process each, started by ``accelerate launch``.

The run itself stays one process. It writes down which stage is due, starts the workers, waits, and
reads what they found. A worker (``worker.py``) loads the finished stages from the run's folder and
does the one stage; only the first of them writes. Other machines join by a command of their own
(``join.py``, ``docs/how_to/several_devices.md``).
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import psutil

from butwait.recipe.stages import Outcome
from butwait.records import UserError
from butwait.running.files import expanded, write_json
from butwait.running.packages import require
from butwait.running.plugins import folders
from butwait.running.terminal import loudness
from butwait.stages.context import StageRun
from butwait.training.settings import SHIPPED, LaunchSettings

PARENT = "BUTWAIT_PARENT"
"""The environment's name for the process whose end is that of the workers."""
LOUD_FROM = "BUTWAIT_LOUD_FROM"
"""The environment's name for the level of lines that workers show."""
ADDRESS = "MASTER_ADDR"
"""The environment's name for the address of the first machine, as torch and accelerate have it."""
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
    write_json(folder / JOB, {"recipe": recipe, "folders": folders()})
    try:
        ended = wait_for(command(folder.parent, run.name, launch))
    finally:
        (folder / JOB).unlink(missing_ok=True)  # other machines wait for it (``join.py``)
    if (folder / MISTAKE).exists() and (told := (folder / MISTAKE).read_text("utf-8").strip()):
        raise UserError(told)
    if ended or not (folder / OUTCOME).exists():
        raise UserError(
            f"the workers of stage {run.name!r} ended with code {ended} and no result; what they "
            "printed stands above (what they finished is kept: run the same command again)"
        )
    outcome = json.loads((folder / OUTCOME).read_text(encoding="utf-8"))
    return outcome["metrics"], outcome["cost"]


def wait_for(words: list[str]) -> int:
    """The exit code of the launcher. It and its workers end with this process, however that ends:
    the workers look after it (``worker.py``), and Linux tells the launcher."""
    launcher = subprocess.Popen(
        words,
        env=os.environ | {PARENT: str(os.getpid()), LOUD_FROM: str(loudness())},
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
    )
    try:
        return launcher.wait()
    finally:
        if launcher.poll() is None:
            top = psutil.Process(launcher.pid)
            tree = [*top.children(recursive=True), top]
            launcher.terminate()
            _, left = psutil.wait_procs(tree, timeout=2)
            for process in left:
                process.kill()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def command(folder: Path, stage: str, launch: LaunchSettings, machine: int = 0) -> list[str]:
    """The words that start the workers of a machine. Raises UserError for a configuration that is
    not there, and where the first machine's address is not known."""
    job = ["-m", "butwait.pipeline.worker", str(folder), stage]
    if launch.config == "cpu":
        # ``accelerate launch`` starts several processes without a GPU by MPI only.
        own = ["torch.distributed.run"]
        if launch.machines == 1:
            own.append("--standalone")
        else:
            address, port = _first_machine()
            own += ["--nnodes", str(launch.machines), "--node_rank", str(machine)]
            own += ["--master_addr", address, "--master_port", port]
        own += ["--nproc_per_node", str(launch.processes // launch.machines)]
    else:
        shipped = files("butwait.pipeline") / "accelerate" / f"{launch.config}.yaml"
        config = str(shipped if shipped.is_file() else expanded(launch.config))
        if not Path(config).is_file():
            raise UserError(
                f"launch.config: {config!r} is no file, and none of {', '.join(SHIPPED)}"
            )
        own = ["accelerate.commands.launch", "--config_file", config]
        own += ["--num_processes", str(launch.processes)]
        if launch.machines > 1:
            own += ["--num_machines", str(launch.machines)]
        if launch.machines > 1 and (shipped.is_file() or os.environ.get(ADDRESS)):
            address, port = _first_machine()
            own += ["--main_process_ip", address, "--main_process_port", port]
        if launch.machines > 1 or machine:
            own += ["--machine_rank", str(machine)]
    return [sys.executable, "-m", *own, *job]


def _first_machine() -> tuple[str, str]:
    """Address and port at which the processes of several machines meet."""
    address = os.environ.get(ADDRESS)
    if not address:
        raise UserError(f"launch.machines: export {ADDRESS}, the address of the first machine")
    return address, os.environ.get("MASTER_PORT", "29500")

"""Seconds until a newcomer sees something, each in a fresh process.

    python benchmarks/bench_front_door.py [--runs 3]

Measured, with compiled bytecode as an installed package has it:

- ``python``: an interpreter that does nothing, which is a part of all others.
- ``import``: ``import butwait``, and that neither torch nor transformers nor numpy came along.
- ``help``, ``completion``: ``butwait --help``, and what a shell asks at a press of the tab key.
- ``check``: ``butwait check quickstart``.
- ``solve``: ``butwait solve`` on the tiny model with 16 particles: torch and the model are loaded.

All run on one thread, so CPU seconds are what they take where nothing else runs, but for the disk;
these are held against the bars.

Results go to ``benchmarks/results/front_door.json``.
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from butwait.running.files import write_json

RESULTS = Path(__file__).parent / "results" / "front_door.json"
QUESTION = "Calculate 7 + 8 - 6."
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
HEAVY = "torch", "transformers", "numpy", "pydantic"
BUTWAIT = [sys.executable, "-m", "butwait"]
COMPLETION = {
    "_BUTWAIT_COMPLETE": "complete_bash",
    "COMP_WORDS": "butwait run q",
    "COMP_CWORD": "2",
}
CASES: dict[str, tuple[list[str], dict[str, str], float | None]] = {
    "python": ([sys.executable, "-c", "pass"], {}, None),
    "import": ([sys.executable, "-c", "import butwait"], {}, 0.3),
    "help": ([*BUTWAIT, "--help"], {}, 0.5),
    "completion": (BUTWAIT, COMPLETION, 0.5),
    "check": ([*BUTWAIT, "check", "quickstart"], {}, None),
    "solve": ([*BUTWAIT, "solve", QUESTION, "--model", "tiny"], {}, 10),
}
"""Name -> (command, environment, CPU seconds at most)."""


def seconds(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Wall and CPU seconds of one run."""
    before, start = _cpu(), time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start, _cpu() - before


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(runs: int) -> dict[str, Any]:
    """Medians over the runs, after one that is not counted."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        compiled = {"PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""} | ONE_THREAD
        for name, (command, added, bar) in CASES.items():
            environment = os.environ | compiled | added
            seconds(command, environment)
            each = [seconds(command, environment) for _ in range(runs)]
            wall, cpu = (statistics.median(times) for times in zip(*each, strict=True))
            found[name] = {"seconds": round(wall, 3), "cpu_seconds": round(cpu, 3)}
            if bar is not None:
                found[name] |= {"at_most": bar, "reached": cpu <= bar}
            print(f"{name:12}{wall:8.3f} s {cpu:8.3f} s of CPU", flush=True)
    return found


def heavy_imports() -> list[str]:
    """The heavy packages that ``import butwait`` brings along."""
    code = f"import sys, butwait; print(*(m for m in {HEAVY!r} if m in sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return said.stdout.split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "runs": arguments.runs}
    content = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine,
        "versions": {name: version(name) for name in ("torch", "transformers", "typer")},
        "heavy_imports": heavy_imports(),
        **measure(arguments.runs),
    }
    machine["load_at_end"] = round(os.getloadavg()[0], 1)
    write_json(arguments.output, content)


if __name__ == "__main__":
    main()

"""Everything that needs a card, in one command: `make gpu`, or

    python benchmarks/gpu.py [--parts engine seed_size ...] [--minutes 8] [--rehearse] [--plan]

Parts run one after another, the most wanted first, each in a process of its own with its own time
limit and without network. A part writes `benchmarks/results/gpu/NAME.json` after every figure, so
that a run that is cut keeps what it has. `--rehearse` runs all of them on the CPU with tiny sizes,
which says nothing about speed.
"""

import argparse
import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # the other check cannot be forked

# Imported before the parts are forked, once for all. Nothing here may touch the card: a process
# that did cannot be forked.
from gpu_parts import PARTS, Figures, SkippedError, touch_card

from butwait.running.files import write_json

RESULTS = Path(__file__).parent / "results" / "gpu"
PACKAGES = ("torch", "transformers", "trl", "vllm", "numpy")
GRACE = 3.0
"""Seconds between the request to stop and the end of a part."""


def machine() -> dict[str, Any]:
    """The card, its driver and what else the figures depend on."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout
    except OSError:
        said = ""
    name, driver, memory = (said.splitlines() or ["none, none, none"])[0].split(", ")
    return {
        "card": name,
        "driver": driver,
        "memory": memory,
        "cores": os.cpu_count(),
        "processor": platform.machine(),
    }


def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def commit() -> str | None:
    """Of the checkout; where it is a copy without history, what ``BUTWAIT_COMMIT`` says."""
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    except OSError:
        said = ""
    return said or os.environ.get("BUTWAIT_COMMIT")


def context(small: bool) -> BaseContext:
    """How parts are started: forked, unless something that was imported has touched the card."""
    fork: BaseContext = multiprocessing.get_context("fork")
    if small:
        return fork
    trial = fork.Process(target=touch_card)
    trial.start()
    trial.join(60)
    return fork if trial.exitcode == 0 else multiprocessing.get_context("spawn")


def work(name: str, small: bool, output: Path) -> None:
    """One part, in its own process."""
    os.setsid()  # what it starts ends with it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # a part that is cut tells what it has
    figures = Figures(output)
    try:
        PARTS[name].run(figures, small)
    except SkippedError as why:
        figures.add(skipped=str(why))
    except Exception:
        traceback.print_exc()
        figures.add(failed=traceback.format_exc(limit=-4).splitlines()[-1])
        os._exit(1)
    os._exit(0)


def stop(process: BaseProcess) -> None:
    """Ends a part and what it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid or 0, number)
        except ProcessLookupError:
            return
        process.join(GRACE)


def run_part(
    start: BaseContext,
    name: str,
    seconds: float,
    small: bool,
    folder: Path,
    about: dict[str, Any],
) -> str:
    """Runs a part for so many seconds at most and completes its file. Returns how it ended."""
    output = folder / f"{name}.json"
    output.unlink(missing_ok=True)
    started = time.monotonic()
    process = start.Process(target=work, args=(name, small, output))
    process.start()
    process.join(seconds)
    cut = process.is_alive()
    stop(process)
    figures = json.loads(output.read_text()) if output.exists() else {}
    ended = "cut" if cut else "skipped" if "skipped" in figures else "done"
    if not cut and process.exitcode:
        ended = "failed"
    spent = round(time.monotonic() - started, 1)
    content = {"part": name, "ended": ended, "seconds": spent, "limit": round(seconds, 1)}
    write_json(output, content | about | {"figures": figures})
    return ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--minutes", type=float, default=8.0, help="of all parts together")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, on the CPU")
    parser.add_argument("--plan", action="store_true", help="print the parts and their limits")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.plan:
        for name in arguments.parts:
            print(f"{name:14} {PARTS[name].seconds:4} s  {PARTS[name].what}")
        return
    about = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "rehearsal": arguments.rehearse,
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
    }
    if not arguments.rehearse and about["machine"]["card"] == "none":
        parser.error("nvidia-smi finds no card here; --rehearse runs the parts on the CPU")
    os.environ["CUDA_VISIBLE_DEVICES"] = "" if arguments.rehearse else "0"
    arguments.output.mkdir(parents=True, exist_ok=True)
    start = context(arguments.rehearse)
    end, failed = time.monotonic() + 60 * arguments.minutes, False
    for name in arguments.parts:
        seconds = min(PARTS[name].seconds, end - time.monotonic())
        if seconds < 5:
            print(f"{name}: not run, no time is left", flush=True)
            continue
        ended = run_part(start, name, seconds, arguments.rehearse, arguments.output, about)
        failed |= ended == "failed"
        print(f"{name}: {ended}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()

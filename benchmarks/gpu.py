"""Everything that needs a card, in one command: `make gpu`, or

    python benchmarks/gpu.py [--parts engine seed_size ...] [--minutes 8] [--rehearse] [--plan]

Parts run one after another, the most wanted first, each in a process of its own with its own time
limit and without network. `benchmarks/results/gpu/NAME.json` is written anew after every figure, so
that a run that is cut keeps what it has. `--rehearse` runs all of them on the CPU with tiny sizes,
which says nothing about speed; its files go to a temporary folder.
"""

import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # the other check cannot be forked

try:
    import argparse
    import ctypes
    import dataclasses
    import importlib
    import json
    import multiprocessing
    import platform
    import signal
    import subprocess
    import tempfile
    import threading
    import time
    import traceback
    from collections.abc import Collection
    from contextlib import suppress
    from datetime import UTC, datetime
    from importlib.metadata import PackageNotFoundError, version
    from multiprocessing.connection import Connection
    from multiprocessing.context import BaseContext
    from multiprocessing.process import BaseProcess
    from pathlib import Path
    from typing import Any, NoReturn

    from gpu_parts import PARTS, Figures, SkippedError

    from butwait.running.files import write_json
except ImportError as error:  # an old Python, or one that does not find butwait
    print(f"gpu.py: {sys.executable} cannot run this: {error}; `make gpu` runs it with Python 3.11 "
          "or newer (PYTHON=...)", file=sys.stderr)  # fmt: skip
    sys.exit(2)

RESULTS = Path(__file__).parent / "results" / "gpu"
PACKAGES = ("torch", "transformers", "trl", "vllm", "numpy")
GRACE = 3.0
"""Seconds between the request to stop and the end of a part."""
PATIENCE = 60.0
"""Seconds that the card may take for its first answer."""
SLOW = 2
"""How much longer than on a card a part of a rehearsal may take."""
IDLE = 1024
"""MiB of a card that may be taken, by a screen for example, where it counts as idle."""

stops: list[int] = []
"""Signals that asked for the end."""


def refuse(why: str) -> NoReturn:
    print(f"gpu.py: {why}", file=sys.stderr)
    sys.exit(2)


@dataclasses.dataclass(frozen=True)
class Card:
    """A line of nvidia-smi; what it does not tell is empty."""

    name: str
    driver: str
    memory: str
    uuid: str = ""
    used: str = ""

    def taken(self) -> str | None:
        """Why the card does not count as idle; None if it does."""
        amount = self.used.split()[0] if self.used.split() else ""
        if not amount.isdecimal():
            return "nvidia-smi does not tell how much of the card's memory is taken"
        if int(amount) <= IDLE:
            return None
        return f"{self.used} of the card were taken before the first part"


def cards() -> list[Card]:
    """What nvidia-smi tells. Ends the command with a sentence where it tells of no card."""
    query = "--query-gpu=name,driver_version,memory.total,uuid,memory.used"
    rehearse = "; --rehearse (make gpu REHEARSE=1) runs the parts on the CPU"
    try:
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"],
            capture_output=True, text=True, errors="replace", timeout=20,
        )  # fmt: skip
    except OSError as error:
        refuse(f"no card is found here: nvidia-smi cannot be run ({error.strerror}){rehearse}")
    except subprocess.TimeoutExpired as error:
        refuse(
            f"nvidia-smi gave no answer within {error.timeout:.0f} s: the driver hangs{rehearse}"
        )
    rows = [[cell.strip() for cell in line.split(", ")] for line in done.stdout.splitlines()]
    if done.returncode or not rows or any(len(row) < 3 for row in rows):
        said = " ".join((done.stdout + " " + done.stderr).split())[:300] or "nothing"
        refuse(f"no card is found here: nvidia-smi said {said!r}{rehearse}")
    return [Card(*row[:5]) for row in rows]


def keep_one_card() -> None:
    """The first of the cards that the user lets us see is the only one that parts see."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if not seen:
        refuse("CUDA_VISIBLE_DEVICES is empty, which hides every card; unset it, or name a card")
    os.environ["CUDA_VISIBLE_DEVICES"] = seen


def machine(card: Card) -> dict[str, Any]:
    """The card, its driver and what else the figures depend on."""
    return {
        "card": card.name,
        "driver": card.driver,
        "memory": card.memory,
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


def load(parts: Collection[str]) -> None:
    """Imports what parts need, once for all that are forked. Nothing of it may touch the card: a
    process that did cannot be forked. What cannot be imported fails in the part that needs it."""
    try:
        importlib.import_module("torch")
    except (ImportError, OSError) as error:
        refuse(f"{sys.executable} cannot import torch ({error}); install it there, or name a "
               "Python that has it (make gpu PYTHON=...)")  # fmt: skip
    for module in sorted({PARTS[name].place.split(":")[0] for name in parts}):
        with suppress(Exception):
            importlib.import_module(module)


def touch_card(answer: Connection) -> None:
    """In a process of its own: tells what torch makes of the card, or why it cannot use it, and
    whether another way to start a process could help."""
    import torch

    built = f"torch {torch.__version__} " + (
        f"(CUDA {torch.version.cuda})" if torch.version.cuda else "is built without CUDA and"
    )
    if not torch.cuda.is_available():
        seen = os.environ["CUDA_VISIBLE_DEVICES"]
        why = f"{built} cannot use the card (torch.cuda.is_available() is False"
        why += f", CUDA_VISIBLE_DEVICES={seen})"
        answer.send((None, why, False))
        return
    try:
        torch.zeros(1, device="cuda")
        found = torch.cuda.get_device_properties(0)
        memory = f"{found.total_memory // 2**20} MiB"
        answer.send(((found.name, str(getattr(found, "uuid", "")), memory), "", False))
    except Exception as error:
        answer.send((None, f"{built} cannot use the card: {str(error).splitlines()[0]}", True))


def reach_card(listed: list[Card]) -> tuple[BaseContext, Card]:
    """How parts are started, forked unless something that was imported has touched the card, and
    the card that they see. Ends the command with a sentence where torch cannot use it."""
    for way in ("fork", "spawn"):
        start: BaseContext = multiprocessing.get_context(way)
        ours, theirs = start.Pipe(duplex=False)
        trial = start.Process(target=touch_card, args=(theirs,), daemon=True)
        trial.start()
        theirs.close()
        found, why, again = None, f"the card gave no answer within {PATIENCE:.0f} s", False
        try:
            if ours.poll(PATIENCE):
                found, why, again = ours.recv()
        except EOFError:
            why, again = "the process that asked torch for the card died", True
        trial.join(GRACE)
        trial.kill()
        if found is not None:
            name, uuid, memory = found
            same = [card for card in listed if uuid and card.uuid.endswith(uuid)]
            if not same and len(listed) == 1 and "MIG" not in name:
                same = listed
            known = same[0] if same else Card(name, listed[0].driver, memory)
            return start, dataclasses.replace(known, name=name)
        if not again:
            break
    refuse(f"{why}; without it parts would run on the CPU: install a torch that fits the driver "
           "(nvidia-smi shows it), or --rehearse")  # fmt: skip


def end_with_parent(parent: int) -> None:
    """When the parent ends, this process, which leads its group, and what it started end too."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        time.sleep(GRACE)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def work(name: str, small: bool, output: Path, parent: int) -> None:
    """One part, in its own process; its figures go to ``output``."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # a part that is cut tells what it has
    os.setsid()  # what it starts ends with it
    end_with_parent(parent)
    figures, code = Figures(output), 0
    try:
        if not small and not importlib.import_module("torch").cuda.is_available():
            raise RuntimeError("torch cannot use the card in the part's process")
        PARTS[name].run(figures, small)
    except SkippedError as why:
        figures.add(skipped=str(why))
    except Exception:
        traceback.print_exc()
        figures.add(failed=traceback.format_exc(limit=-4).splitlines()[-1])
        code = 1
    finally:
        if os.getppid() != parent:  # nobody else ends what the part has started
            os.killpg(0, signal.SIGKILL)
    os._exit(code)


def stop(process: BaseProcess) -> None:
    """Ends a part and what it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid or 0, number)
        except ProcessLookupError:
            process.kill()  # it may not lead its group yet
        process.join(GRACE)


def heed_stops() -> None:
    """Signals that ask for the end are noted, and a part that runs is stopped in order."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: stops.append(number))


def run_part(
    start: BaseContext,
    name: str,
    seconds: float,
    small: bool,
    folder: Path,
    about: dict[str, Any],
) -> str:
    """Runs a part for so many seconds at most, or until a stop is asked for, and keeps its file up
    to date. Returns how it ended."""
    output, started = folder / f"{name}.json", time.monotonic()

    def spent() -> float:
        return time.monotonic() - started

    def keep(ended: str, figures: dict[str, Any]) -> None:
        spans = {"seconds": round(spent(), 1), "limit": round(seconds, 1)}
        write_json(output, {"part": name, "ended": ended} | spans | about | {"figures": figures})

    # Figures have a file of their own: whatever becomes of the part, NAME.json is ours alone.
    with tempfile.TemporaryDirectory(prefix="butwait-gpu-") as own:
        told, figures = Path(own) / "figures.json", {}
        keep("running", figures)
        process = start.Process(target=work, args=(name, small, told, os.getpid()))
        process.start()
        while process.is_alive() and spent() < seconds and not stops:
            process.join(min(0.5, max(0.0, seconds - spent())))
            if (found := _read(told)) != figures:
                figures = found
                keep("running", figures)
        cut = process.is_alive()
        stop(process)
        figures = _read(told)
    ended = "cut" if cut else "skipped" if "skipped" in figures else "done"
    if not cut and process.exitcode:
        ended = "failed"
        figures.setdefault("failed", f"its process ended with {process.exitcode}")
    keep(ended, figures)
    return ended


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {}


def skip_part(name: str, why: str, folder: Path, about: dict[str, Any]) -> str:
    """Stores that a part was not begun."""
    spans = {"seconds": 0.0, "limit": PARTS[name].seconds}
    content = {"part": name, "ended": "skipped"} | spans | about
    write_json(folder / f"{name}.json", content | {"figures": {"skipped": why}})
    return "skipped"


def folder_for(output: Path | None, rehearse: bool, parts: Collection[str]) -> Path:
    """Where files go. A rehearsal never takes the place of what a card measured."""
    if output is None and rehearse:
        output = Path(tempfile.mkdtemp(prefix="butwait-gpu-rehearsal-"))
        print(f"rehearsal: files go to {output}", flush=True)
    folder = output or RESULTS
    for name in parts if rehearse else ():
        file = folder / f"{name}.json"
        with suppress(ValueError, OSError):
            if not json.loads(file.read_text())["rehearsal"]:
                refuse(f"{file} holds what a card measured; give a rehearsal another --output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        refuse(f"--output {folder} cannot be made a folder ({error.strerror}); choose another")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--minutes", type=float, default=8.0, help="of all parts together")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, on the CPU")
    parser.add_argument("--plan", action="store_true", help="print the parts and their limits")
    parser.add_argument(
        "--output", type=Path,
        help="folder of the files; default: benchmarks/results/gpu, of a rehearsal a temporary one",
    )  # fmt: skip
    arguments = parser.parse_args()
    if arguments.plan:
        for name in arguments.parts:
            print(f"{name:14} {PARTS[name].seconds:4} s  {PARTS[name].what}")
        return
    small = arguments.rehearse
    start: BaseContext = multiprocessing.get_context("fork")
    if small:
        card, taken, device = Card("none", "none", "none"), None, "cpu"
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        load(arguments.parts)
    else:
        listed = cards()
        keep_one_card()
        load(arguments.parts)
        start, card = reach_card(listed)
        taken, device = card.taken(), f"cuda: {card.name}"
    folder = folder_for(arguments.output, small, arguments.parts)
    about = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "rehearsal": small,
        "device": device,
        "commit": commit(),
        "machine": machine(card),
        "versions": versions(),
    }
    heed_stops()
    end, failed = time.monotonic() + 60 * arguments.minutes, False
    for name in arguments.parts:
        seconds = min(PARTS[name].seconds * (SLOW if small else 1), end - time.monotonic())
        if seconds < 5:
            print(f"{name}: not run, no time is left", flush=True)
            continue
        if taken and PARTS[name].fills:
            ended = skip_part(name, f"it fills the card, and {taken}", folder, about)
        else:
            ended = run_part(start, name, seconds, small, folder, about)
        failed |= ended == "failed"
        print(f"{name}: {ended}", flush=True)
        if stops:
            sys.exit(128 + stops[0])
    sys.exit(failed)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # before the first part
        sys.exit(130)

"""Runs scenarios with real Ray clusters, each in a network and a process table of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ALONE = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
"""What a scenario has for itself: its network and its processes."""


def scenario(
    name: str, folder: Path, seconds: int, script: str = "ray_scenarios.py"
) -> dict[str, Any]:
    """What a scenario found (``ray_scenarios.py``)."""
    words = [str(Path(__file__).with_name(script)), name, str(folder)]
    found: dict[str, Any] = json.loads(done_alone(words, folder, seconds)[-1])
    print(found)
    return found


def done_alone(script: list[str], folder: Path, seconds: int) -> list[str]:
    """The lines that a script prints, which has its network and its processes for itself."""
    # The shell is the parent of whoever is left, and buries them.
    words = ["bash", "-c", 'ip link set lo up; "$@"; exit $?', "alone", sys.executable, *script]
    done = subprocess.run(
        [*alone(), *words], cwd=folder, capture_output=True, text=True, timeout=seconds
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done.stdout.splitlines()


def alone() -> list[str]:
    """The words that give a command its own network; none where the system forbids that."""
    own = ["unshare", *([] if os.getuid() == 0 else ["--map-root-user"]), *ALONE]
    try:
        allowed = subprocess.run([*own, "true"], capture_output=True).returncode == 0
    except OSError:
        allowed = False
    return own if allowed else []

"""The parts of `benchmarks/gpu.py`, and where a part writes what it has measured.

Nothing is imported here that a wheel brings: a part whose wheels are missing fails alone.
"""

import dataclasses
import json
import threading
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from butwait.running.files import write_json

SEED = 0


class SkippedError(Exception):
    """What a part needs is not here."""


class Figures:
    """What a part has measured, in its file at once."""

    def __init__(self, output: Path) -> None:
        self._output, self._all = output, {"seed": SEED}
        self._lock = threading.Lock()

    def add(self, **figures: Any) -> None:
        with self._lock:
            self._all |= figures
            write_json(self._output, self._all)
        for name, value in figures.items():
            print(f"  {name}: {json.dumps(value)}", flush=True)


@dataclasses.dataclass(frozen=True)
class Part:
    """Attributes:
    what: in a line.
    seconds: it may take.
    place: ``module:function``, imported in the part's own process. It takes the figures, and
        whether tiny sizes are asked for.
    fills: whether it takes all of the card's memory.
    """

    what: str
    seconds: int
    place: str
    fills: bool = False

    def run(self, figures: Figures, small: bool) -> None:
        resolve_name(self.place)(figures, small)


PARTS = {
    "seed_size": Part(
        "Phi-4's shape beside a 7B reward model: tokens/s, memory", 120, "gpu_engines:seed_size"
    ),
    "engine": Part("tokens/s of SmolLM2's shape with 512 rows", 40, "gpu_engines:engine_speed"),
    "attention": Part(
        "one layer's attention of a decoded token, three ways", 15, "gpu_card:attention"
    ),
    "full_card": Part(
        "a full card is one sentence, and the next engine runs",
        25,
        "gpu_engines:full_card",
        fills=True,
    ),
    "training": Part(
        "reward model, search, SFT, GRPO-Direct; memory goes back; then vLLM on the same card",
        135,
        "gpu_training:training",
    ),
    "reward_beside": Part(
        "the filter with a reward model of the policy's size", 35, "gpu_engines:reward_beside"
    ),
    "forks": Part("forking a cache against running paths again", 30, "gpu_engines:forks"),
    "vllm": Part("vLLM: filter against plain sampling", 55, "gpu_engines:vllm_speed"),
}
"""In the order of their worth. Together 455 s: what is left of 8 minutes is for the start."""

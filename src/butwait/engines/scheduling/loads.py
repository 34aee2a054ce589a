"""What an engine says of its cache: where samples for the governor come from."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Load:
    """An engine at a moment.

    Attributes:
        capacity: tokens that its cache holds.
        kv_use: share of the cache that is in use, in [0, 1].
        preemptions: paths that were given up while they ran, so far.
        running, waiting: paths in its batch, and before it.
    """

    capacity: int
    kv_use: float
    preemptions: int = 0
    running: int = 0
    waiting: int = 0


@runtime_checkable
class TellsLoad(Protocol):
    """An engine whose cache can be looked at."""

    async def load(self) -> Load | None:
        """Its load; None where nothing is known yet, or any more."""

    def trim(self, share: float) -> None:
        """Gives up parked caches until no more than this share of the cache is in use."""


def together(loads: Sequence[Load]) -> Load:
    """Of several engines, one at least. The fullest one counts, as it is the one that preempts."""
    return Load(
        sum(load.capacity for load in loads),
        max(load.kv_use for load in loads),
        sum(load.preemptions for load in loads),
        sum(load.running for load in loads),
        sum(load.waiting for load in loads),
    )


_LINE = re.compile(r"^(vllm:\w+?)(?:_total)?(?:\{(.*)\})?\s+(\S+)(?:\s+\S+)?$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
CONFIG, USE = "vllm:cache_config_info", "vllm:kv_cache_usage_perc"
PREEMPTED, RUNNING, WAITING = (
    f"vllm:num_{name}" for name in ("preemptions", "requests_running", "requests_waiting")
)
OLD_USE = "vllm:gpu_cache_usage_perc"
"""Of vLLM before 0.10."""


def load_of(text: str) -> Load | None:
    """What vLLM's metrics (Prometheus' text) say, its engines together; None where they say
    nothing of a cache."""
    found: dict[str, list[float]] = {}
    capacities: list[int] = []
    for name, labels, value in _samples(text.splitlines()):
        found.setdefault(name, []).append(value)
        if name == CONFIG:
            blocks, size = labels.get("num_gpu_blocks", ""), labels.get("block_size", "")
            if blocks.isdecimal() and size.isdecimal():
                capacities.append(int(blocks) * int(size))
    uses = found.get(USE) or found.get(OLD_USE)
    if not uses or not sum(capacities):
        return None
    preempted, running, waiting = (
        int(sum(found.get(name, []))) for name in (PREEMPTED, RUNNING, WAITING)
    )
    return Load(sum(capacities), min(1.0, max(uses)), preempted, running, waiting)


def _samples(lines: Iterable[str]) -> Iterable[tuple[str, dict[str, str], float]]:
    for line in lines:
        if match := _LINE.match(line.strip()):
            name, labels, number = match.groups()
            try:
                value = float(number)
            except ValueError:
                continue
            if math.isfinite(value):
                yield name, dict(_LABEL.findall(labels or "")), value

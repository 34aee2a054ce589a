"""What a plan holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from butwait.planning.devices import DEVICES
from butwait.planning.memory import Parts
from butwait.planning.work import Work


@dataclass(frozen=True, slots=True)
class Fit:
    """How a stage fits on a device.

    Attributes:
        verdict: ``fits``, ``tight`` (with fewer paths at a time) or ``no``.
        hours: on it; None: it does not run there, or its time is not known.
    """

    verdict: str
    hours: float | None


@dataclass(frozen=True, slots=True)
class StagePlan:
    """What a stage takes. Memory is that of one device; None is "not known".

    Attributes:
        kind: of stage.
        work: its tokens.
        kv_bytes: of a token of the policy's cache.
        parts: bytes by what takes them in one process, beside what the runtime takes.
        runtime: bytes of the runtime on a GPU.
        cpu: bytes of all processes that share a machine where they run on CPUs, runtimes included.
        cpu_least: the same with one path at a time.
        packed: bytes of second copies of weights, where this machine's CPU makes them. The CPU
            among the named devices does not.
        most: bytes where all paths are at their limits.
        least: bytes with one path at a time.
        flops: operations.
        disk: bytes.
        fits: device's name -> how it fits.
        devices: that work side by side.
        cpus: the same, where they are CPUs: machines.
        refused: why it cannot run as it is written.
    """

    kind: str
    work: Work
    kv_bytes: float | None = None
    parts: Parts = field(default_factory=dict)
    runtime: float = 0.0
    cpu: float = 0.0
    cpu_least: float = 0.0
    packed: float = 0.0
    most: float = 0.0
    least: float = 0.0
    flops: float | None = 0.0
    disk: float = 0.0
    fits: Mapping[str, Fit] = field(default_factory=dict)
    devices: int = 1
    cpus: int = 1
    refused: str | None = None

    def bytes_on(self, cpu: bool) -> float:
        """What it needs of a device."""
        return self.cpu if cpu else sum(self.parts.values()) + self.runtime if self.parts else 0.0

    def least_on(self, cpu: bool) -> float:
        """The same with one path at a time."""
        return self.cpu_least if cpu else self.least + self.runtime

    @property
    def best(self) -> str | None:
        """The smallest device that it fits on; None: on none."""
        return self._smallest("fits")

    @property
    def tight(self) -> str | None:
        """The smallest device that holds it with fewer paths at a time."""
        return self._smallest("tight")

    def _smallest(self, verdict: str) -> str | None:
        good = [name for name, fit in self.fits.items() if fit.verdict == verdict]
        return min(good, key=_memory, default=None)


@dataclass(frozen=True, slots=True)
class Plan:
    """Attributes:
    name: of the recipe.
    stages: by name, in the order in which they run.
    assumed: sentences.
    missing: sentences about models that are not known.
    at_servers: what runs at servers, whose memory and hours are in no figure.
    """

    name: str
    stages: dict[str, StagePlan]
    assumed: tuple[str, ...]
    missing: tuple[str, ...]
    at_servers: tuple[str, ...] = ()


def _memory(name: str) -> float:
    return next(d.memory for d in DEVICES if d.name == name)

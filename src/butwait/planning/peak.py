"""The most memory that this process had, of this machine and of its card."""

import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak() -> None:
    """Begins anew, where the system can."""
    with suppress(OSError):
        _CLEAR.write_text("5")
    if (cuda := _cuda()) is not None:
        cuda.reset_peak_memory_stats()


def peak_bytes() -> dict[str, float | None]:
    """``cpu``: the largest resident size since ``reset_peak`` (since the start, where the system
    cannot begin anew). ``gpu``: the most that torch held of its card; None where none was used.
    Memory of vLLM's own process is not in it."""
    cpu = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    cpu *= 1 if sys.platform == "darwin" else 1024
    with suppress(OSError, StopIteration, ValueError):
        lines = _STATUS.read_text().splitlines()
        cpu = 1024.0 * int(next(w for w in lines if w.startswith("VmHWM")).split()[1])
    cuda = _cuda()
    return {"cpu": cpu, "gpu": None if cuda is None else float(cuda.max_memory_reserved())}


def device_name() -> str:
    """Of the card that torch uses here; "CPU" where there is none; "" where there is one that this
    process did not use (vLLM's own does)."""
    if (cuda := _cuda()) is not None:
        return str(cuda.get_device_name())
    torch = sys.modules.get("torch")
    return "" if torch is not None and torch.cuda.is_available() else "CPU"


def _cuda() -> Any:
    """torch's card, where torch is loaded and has used one."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return cuda if cuda is not None and cuda.is_available() and cuda.is_initialized() else None

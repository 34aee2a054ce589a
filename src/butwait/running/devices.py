"""Devices: their names, whether this machine has them, and what a stage leaves on one. torch is
imported where it must be asked."""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

_GROUP = "/sys/fs/cgroup/memory"
_WITHOUT_NUMBER = ("auto", "mps")
_NUMBERED = ("cpu", "cuda", "xpu", "hpu", "tpu")


def _named(device: str) -> str:
    kind, colon, number = device.partition(":")
    numbered = kind in _NUMBERED and (not colon or (number.isascii() and number.isdigit()))
    if not numbered and device not in _WITHOUT_NUMBER:
        raise ValueError(f"{device!r} is no device: write auto, cpu, cuda or cuda:1")
    return device


DeviceName = Annotated[str, AfterValidator(_named)]
"""``auto``, a kind of device, or a kind with a number."""


def missing_device(device: str) -> str | None:
    """What is wrong with a device on this machine, as a sentence; None where it is there."""
    kind, _, number = device.partition(":")
    if kind in ("auto", "cpu"):
        return None
    import torch

    has = torch.accelerator.current_accelerator(check_available=True)
    count = torch.accelerator.device_count() if has is not None and has.type == kind else 0
    if not count:
        built = kind == "cuda" and torch.version.cuda is None and torch.version.hip is None
        why = " (this torch was built without it)" if built else ""
        return f"there is no {device!r} on this machine{why}: set auto or cpu"
    if int(number or 0) >= count:
        return f"there is no {device!r} on this machine: the last one is {kind}:{count - 1}"
    return None


def missing_gpus(wanted: int) -> str | None:
    """What is wrong where each of ``wanted`` processes needs a GPU of its own; None: nothing."""
    import torch

    count = torch.accelerator.device_count()
    if wanted <= count:
        return None
    return f"{wanted} processes need a GPU each, and this machine has {count or 'none'}"


def missing_memory(gib: float) -> str | None:
    """What is wrong where a process is to take so many GiB of this machine's memory; None: it has
    that many in all."""
    import psutil

    has = psutil.virtual_memory().total / 2**30
    return None if gib <= has else f"this machine has {has:.1f} GiB in all; set less"


SHARE = {"cuda": 0.5, "cpu": 0.25}
"""Of a device's free memory that a cache may take; what it grows by is there twice for a moment,
and a machine's memory is not ours alone."""


def free_memory(device: Any) -> int:
    """Bytes that a torch device has left; on a CPU those of the machine, or of the control group
    that this process is bounded by."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        most, used = (int(Path(f"{_GROUP}.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):  # none, or "max"
        return free
    return max(0, min(free, most - used))


def give_memory_back(trained: bool = False) -> None:
    """Gives the device what nothing here uses any more: the next stage, or a server beside this
    process, may need it. The collector, which takes a second in a large process, is asked where a
    device was used or models were ``trained`` here."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    on_card = torch.cuda.is_initialized()
    if on_card or trained:
        gc.collect()  # a model's parts may hold each other
    if on_card:
        torch.cuda.empty_cache()
    # glibc keeps what was freed.
    if trim := _of_glibc("malloc_trim"):
        trim(0)


@contextmanager
def memory_kept() -> Iterator[None]:
    """While it is open, memory that is freed stays with this process (glibc; elsewhere nothing is
    changed). The steps of a training ask for the same again and again, and what came anew from the
    system each time would first be cleared, page by page (docs/log.md)."""
    tell = _of_glibc("mallopt")
    if tell is None:
        yield
        return
    tell(_MMAP_MAX, 0)
    tell(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        tell(_MMAP_MAX, 65536)
        tell(_TRIM_THRESHOLD, 2**26)


_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""glibc's ``malloc.h``. Large pieces are otherwise mapped one by one (at most 65,536 of them), and
64 MiB is where its own threshold for giving memory back ends up."""


def _of_glibc(name: str) -> Any:
    """A function of the C library; None where it has none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None

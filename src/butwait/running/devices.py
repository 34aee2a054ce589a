"""Devices: their names, whether this machine has them, and what a stage leaves on one. torch is
imported where it must be asked."""

import gc
import sys
from typing import Annotated

from pydantic import AfterValidator

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


def give_memory_back() -> None:
    """Gives the device what nothing here uses any more: the next stage, or a server beside this
    process, may need it. Where no device was used there is nothing to give: the collector, which
    takes a second in a large process, is not asked."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()  # a model's parts may hold each other
        torch.cuda.empty_cache()

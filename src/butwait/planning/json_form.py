"""A plan as JSON: for ``butwait plan --json`` and for the run's folder."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from butwait.planning.devices import DEVICES, Device
from butwait.planning.memory import GB
from butwait.planning.stage_plan import Plan, StagePlan

UNITS = {
    "kv_bytes_per_token": "bytes",
    "gpu_gb": "10^9 bytes of one device",
    "gpu_gb_at_limits": "10^9 bytes of one device, every path at its limit",
    "gpu_gb_one_path": "10^9 bytes of one device, with one path at a time",
    "cpu_gb": "10^9 bytes of main memory of one machine, where the stage runs on CPUs",
    "tokens": "tokens that any model runs; `tokens_by` says which",
    "flops": "operations",
    "disk_gb": "10^9 bytes",
    "hours": "hours by the clock on `device`, the smallest that holds it; `hours_on` has all",
}


def as_json(plan: Plan) -> dict[str, Any]:
    """The whole plan; a figure that is not known is null."""
    return {
        "recipe": plan.name,
        "verdict": verdict(plan),
        "stages": {name: stage_json(stage) for name, stage in plan.stages.items()},
        "assumed": list(plan.assumed),
        "missing": list(plan.missing),
        "devices": [asdict(device) for device in DEVICES],
        "units": UNITS,
    }


def stage_json(stage: StagePlan) -> dict[str, Any]:
    """One stage of it."""
    work, held = stage.work, bool(stage.parts)
    named = stage.best or stage.tight
    nothing = None if work.drawn or work.trained else 0.0
    by = {
        "policy": work.drawn,
        "prefilled": work.read,
        "reward_model": work.scored,
        "training": work.trained,
        "reference": work.referred,
    }
    return {
        "kind": stage.kind,
        "kv_bytes_per_token": stage.kv_bytes,
        "gpu_gb": stage.bytes_on(False) / GB if held else nothing,
        "gpu_gb_at_limits": (stage.most + stage.runtime) / GB if held else nothing,
        "gpu_gb_one_path": stage.least_on(False) / GB if held else nothing,
        "cpu_gb": (stage.bytes_on(True) + stage.packed) / GB if held else nothing,
        "parts_gb": {name: value / GB for name, value in stage.parts.items()},
        "tokens": sum(by.values()),
        "tokens_by": by,
        "flops": stage.flops,
        "disk_gb": stage.disk / GB,
        "device": named,
        "hours": None if named is None else stage.fits[named].hours,
        "hours_on": {name: fit.hours for name, fit in stage.fits.items()},
        "fits": {name: fit.verdict for name, fit in stage.fits.items()},
        "devices": stage.devices,
        "refused": stage.refused,
    }


def hours(plan: Plan, device: str) -> float | None:
    """Of the whole recipe on a device; None where a stage does not run there or is not known."""
    each = [stage.fits[device].hours for stage in plan.stages.values()]
    known = [h for h in each if h is not None]
    return sum(known) if len(known) == len(each) else None


def verdict(plan: Plan) -> str:
    """One sentence: where the recipe runs, and how long it takes there."""
    for name, stage in plan.stages.items():
        if stage.refused:
            return f"{plan.name} cannot run as it is written: stage {name!r}: {stage.refused}"
    if plan.missing:
        return f"{plan.name} cannot be planned whole: {plan.missing[0]}"
    apart = ", the ".join(plan.at_servers)
    return _fitting(plan) + (f"; not counted is what servers run: the {apart}" if apart else "")


def _fitting(plan: Plan) -> str:
    found = [(d, {s.fits[d.name].verdict for s in plan.stages.values()}) for d in DEVICES]
    whole = [device for device, verdicts in found if verdicts <= {"fits"}]
    able = [device for device, verdicts in found if "no" not in verdicts]
    if whole:
        smallest, *faster = _named(plan, whole)
        return f"{plan.name} fits on {smallest}" + "".join(f", and on {one}" for one in faster)
    if able:
        told = " or ".join(_named(plan, able))
        return f"{plan.name} runs on {told}, with fewer paths at a time than it asks for"
    name, stage = max(plan.stages.items(), key=lambda item: item[1].least_on(False))
    needs = stage.least_on(False) / GB
    return f"{plan.name} fits on no single device of the table: {name} needs {needs:.0f} GB"


def _named(plan: Plan, devices: Sequence[Device]) -> list[str]:
    """Of devices the smallest, and the fastest if it is another: where nobody knows the hours, none
    is."""
    smallest = min(devices, key=lambda d: d.memory)
    chosen = [smallest]
    if hours(plan, smallest.name) is not None:
        chosen.append(min((smallest, *devices), key=lambda d: hours(plan, d.name) or 0.0))
    named = []
    for device in dict.fromkeys(chosen):
        counts = [s.cpus if device.is_cpu else s.devices for s in plan.stages.values()]
        most = max(counts, default=1)
        count = "one" if most == 1 else str(most)
        named.append(f"{count} {device.name}{_about(hours(plan, device.name))}")
    return named


def _about(spent: float | None) -> str:
    if spent is None:
        return ""
    return f" (about {duration(spent)})"


def duration(spent: float) -> str:
    """Hours in words: "40 s", "12 min", "3.5 h", "6 days"."""
    if spent < 1 / 60:
        return f"{spent * 3600:.0f} s"
    if spent < 1:
        return f"{spent * 60:.0f} min"
    return f"{spent:.1f} h" if spent < 48 else f"{spent / 24:.0f} days"

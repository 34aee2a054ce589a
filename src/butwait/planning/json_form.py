"""A plan as JSON: for ``butwait plan --json`` and for the run's folder."""

from dataclasses import asdict
from typing import Any

from butwait.planning.devices import DEVICES
from butwait.planning.memory import GB
from butwait.planning.stage_plan import Plan, StagePlan

UNITS = {
    "kv_bytes_per_token": "bytes",
    "gpu_gb": "10^9 bytes of one device",
    "gpu_gb_at_limits": "10^9 bytes of one device, every path at its limit",
    "gpu_gb_one_path": "10^9 bytes of one device, with one path at a time",
    "cpu_gb": "10^9 bytes of main memory, where the stage runs on a CPU",
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
        "gpu_gb_at_limits": (stage.most + stage.runtime[0]) / GB if held else nothing,
        "gpu_gb_one_path": (stage.least + stage.runtime[0]) / GB if held else nothing,
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
    most = max((stage.devices for stage in plan.stages.values()), default=1)
    one = "one" if most == 1 else str(most)
    if plan.missing:
        return f"{plan.name} cannot be planned whole: {plan.missing[0]}"
    whole = [
        device
        for device in DEVICES
        if all(stage.fits[device.name].verdict == "fits" for stage in plan.stages.values())
    ]
    if whole:
        smallest = min(whole, key=lambda d: d.memory)
        fastest = min(whole, key=lambda d: hours(plan, d.name) or 0.0)
        sentence = f"{plan.name} fits on {one} {smallest.name}{_about(hours(plan, smallest.name))}"
        if fastest is not smallest:
            sentence += f", and on {one} {fastest.name}{_about(hours(plan, fastest.name))}"
        return sentence
    able = [
        device
        for device in DEVICES
        if all(stage.fits[device.name].verdict != "no" for stage in plan.stages.values())
    ]
    if able:
        smallest = min(able, key=lambda d: d.memory)
        fastest = min(able, key=lambda d: hours(plan, d.name) or 0.0)
        sentence = f"{plan.name} runs on {one} {smallest.name}{_about(hours(plan, smallest.name))}"
        if fastest is not smallest:
            sentence += f" or {fastest.name}{_about(hours(plan, fastest.name))}"
        return f"{sentence}, with fewer paths at a time than it asks for"
    name, stage = max(plan.stages.items(), key=lambda item: item[1].least + item[1].runtime[0])
    needs = (stage.least + stage.runtime[0]) / GB
    return f"{plan.name} fits on no single device of the table: {name} needs {needs:.0f} GB"


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

"""``RUN/plan.json``: what a run was planned to take, stored when it begins, and the memory that its
stages then took. It must never stop a run: what goes wrong here is noted and passed over."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from butwait.planning.devices import device_named
from butwait.planning.json_form import as_json
from butwait.planning.memory import GB
from butwait.planning.peak import device_name, peak_bytes, reset_peak
from butwait.planning.plan import plan_recipe
from butwait.running.files import write_json
from butwait.running.log import note

FILE = "plan.json"


def store_plan(recipe: Any, run: Path) -> None:
    """Writes the plan of a run that begins or goes on; what was measured of it stays."""
    with _harmless():
        plan = as_json(plan_recipe(recipe))
        del plan["devices"]
        write_json(run / FILE, plan | {"measured": _read(run).get("measured", {})})


@contextmanager
def peak_noted(run: Path, stage: str) -> Iterator[None]:
    """Adds the memory that a stage takes in the block to the run's plan."""
    with _harmless():
        reset_peak()
    yield
    with _harmless():
        if plan := _read(run):
            peak = {f"{k}_gb": v and v / GB for k, v in peak_bytes().items()}
            named = device_name()
            own = {"device": named}
            if named:
                own["planned_as"] = device_named(named).name
            plan["measured"][stage] = peak | own
            write_json(run / FILE, plan)


def _read(run: Path) -> dict[str, Any]:
    file = run / FILE
    if not file.is_file():
        return {}
    held = json.loads(file.read_text(encoding="utf-8"))
    return held if isinstance(held, dict) and isinstance(held.get("measured"), dict) else {}


@contextmanager
def _harmless() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a plan is a comfort: the run goes on without it
        note(f"no plan: {type(error).__name__}: {error}", logging.DEBUG)

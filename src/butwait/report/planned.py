"""What the run was planned to take beside what it took: ``plan.json`` and the stages' records."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from butwait.report.formats import finite
from butwait.report.kinds import Record

FILE = "plan.json"


def planned(run: Path, stages: Sequence[Record]) -> list[dict[str, Any]] | None:
    """Rows of {name, device, tokens, training, seconds, memory}, each figure a pair (planned,
    actual); None where no plan was stored, or it cannot be read."""
    try:
        plan = json.loads((run / FILE).read_text(encoding="utf-8"))
        return [
            _row(s, plan)
            for s in stages
            if plan["stages"][s["name"]]["tokens_by"]["policy"]
            or plan["stages"][s["name"]]["tokens_by"]["training"]
        ] or None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _row(stage: Record, plan: dict[str, Any]) -> dict[str, Any]:
    name, cost = stage["name"], stage.get("cost") or {}
    own, seen = plan["stages"][name], plan["measured"].get(name, {})
    device = seen.get("planned_as")
    hours = finite(own["hours_on"].get(device))
    on_card = finite(seen.get("gpu_gb")) is not None
    key = "gpu_gb" if on_card else "cpu_gb"
    return {
        "name": name,
        "device": seen.get("device", ""),
        "tokens": (own["tokens_by"]["policy"], cost.get("policy_tokens")),
        "training": (own["tokens_by"]["training"], cost.get("trained_tokens")),
        "seconds": (None if hours is None else 3600 * hours, stage.get("seconds")),
        "memory": (own[key], seen.get(key)) if device else (None, None),
    }

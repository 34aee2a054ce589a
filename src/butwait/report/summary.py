"""``summary.json``: the run's numbers for scripts. ``docs/report.md`` describes every key."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from butwait.report.collect import Evaluation, Record
from butwait.report.ranking import Ranking

SCHEMA_VERSION = 1
_STAGE_KEYS = ("kind", "status", "seconds", "metrics", "from", "cost")


def summarise(
    recipe_name: str,
    verdict: str,
    stages: Sequence[Record],
    rows: Sequence[Evaluation],
    comparisons: Sequence[dict[str, Any]],
    ranked: Sequence[Ranking],
    supervision: Mapping[str, str],
    published: Mapping[str, dict[str, Any]],
    reinforcement: Mapping[str, dict[str, Any]],
) -> dict[str, Any]:
    """The content of ``summary.json``. ``supervision`` and ``published`` are by the
    evaluation's key, ``reinforcement`` by the stage.

    Rates are fractions. Stages stand in recipe order, evaluations in the order of their stages.
    A number that is not finite becomes null. Seconds stand only under ``stages``, so that two
    runs with the same seed can be compared by the rest.
    """
    return plain(
        {
            "schema_version": SCHEMA_VERSION,
            "butwait_version": butwait_version(),
            "recipe": recipe_name,
            "verdict": verdict,
            "stages": {
                stage["name"]: {key: stage.get(key) for key in _STAGE_KEYS} for stage in stages
            },
            "evaluations": {
                row.key: {
                    **row.metrics,
                    "supervision": supervision[row.key],
                    **({"published": published[row.key]} if row.key in published else {}),
                }
                for row in rows
            },
            "comparisons": list(comparisons),
            "rankings": [asdict(ranking) for ranking in ranked],
            "reinforcement": reinforcement,
        }
    )


def butwait_version() -> str:
    """The installed version, "unknown" where butwait runs from a folder never installed."""
    try:
        return version("butwait")
    except PackageNotFoundError:
        return "unknown"


def plain(value: Any) -> Any:
    """``value`` as JSON knows it: string keys, lists, Python numbers; not finite -> None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value

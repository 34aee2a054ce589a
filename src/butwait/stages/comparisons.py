"""Which evaluations of a run are compared: single ones, and arms of several seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

from butwait.evaluation.arms import arm_figures, compare_arms
from butwait.evaluation.compare import compare, with_holm
from butwait.evaluation.storage import read_attempts
from butwait.records import Attempt
from butwait.running.stages import Stage
from butwait.stages.context import StageRun


@dataclass(frozen=True)
class Row:
    """One method on one set by one evaluate stage, or by all seeds of an arm."""

    name: str
    stages: tuple[Stage, ...]
    set: str
    method: str

    @property
    def key(self) -> str:
        return f"{self.name}/{self.set}/{self.method}"

    @property
    def folders(self) -> list[Path]:
        return [stage.path / "attempts" / self.set / self.method for stage in self.stages]

    @property
    def set_aside(self) -> dict[str, list[str]]:
        """For metrics: the questions that some stage is complete without, if any."""
        each = [s.record["metrics"].get(f"{self.set}/{self.method}") or {} for s in self.stages]
        names = list(dict.fromkeys(name for one in each for name in one.get("set_aside", ())))
        return {"set_aside": names} if names else {}


def compared(run: StageRun) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The evaluations that a report stage takes from.

    Returns:
        key -> what the seeds of an arm add up to, for every arm of several seeds;
        the comparisons of any two rows on the same set that share the method or the model: two
        models by one method, two methods of one model, or one model by one method in two stages,
        as with two reward models. The earlier one is the baseline. The seeds of an arm are not
        compared with one another.
    """
    attempts = lru_cache(maxsize=128)(lambda folder: read_attempts(folder, texts=False))
    rows = _rows(run)
    pooled = {
        row.key: arm_figures([attempts(folder) for folder in row.folders]) | row.set_aside
        for row in rows
        if len(row.stages) > 1
    }
    pairs = (
        _compare(run, a, b, attempts) for a, b in combinations(rows, 2) if _comparable(run, a, b)
    )
    return pooled, with_holm(list(pairs))


def _rows(run: StageRun) -> list[Row]:
    """In the order of the recipe; an arm stands where its first seed does."""
    arms: dict[str, list[Stage]] = {}
    for stage in run.inputs("evaluation"):
        name = stage.path.name
        arms.setdefault(run.recipe.stages[name].arm or name, []).append(stage)
    return [
        Row(arm, tuple(stages), *key.split("/", 1))
        for arm, stages in arms.items()
        for key in stages[0].record["metrics"]
    ]


def _comparable(run: StageRun, a: Row, b: Row) -> bool:
    return a.set == b.set and (a.method == b.method or _model(run, a) == _model(run, b))


def _model(run: StageRun, row: Row) -> Any:
    return run.model_of(row.stages[0].path.name)


def _compare(run: StageRun, a: Row, b: Row, attempts: Any) -> dict[str, Any]:
    sides: list[Sequence[list[Attempt]]] = [[attempts(f) for f in row.folders] for row in (a, b)]
    if len(a.stages) == len(b.stages) == 1:
        return compare(a.key, sides[0][0], b.key, sides[1][0])
    trained = [x.key for x in (a, b) if run.recipe.inputs(x.stages[0].path.name, "model")]
    return compare_arms(a.key, sides[0], b.key, sides[1], trained)

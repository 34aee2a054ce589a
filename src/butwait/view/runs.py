"""Runs for the page: which there are and how far they are, and what one holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from butwait.report.collect import Evaluation
from butwait.report.formats import finite
from butwait.running.log import NAME
from butwait.running.run_state import RunState, StageState, read_run, stamp
from butwait.view.examples import has_examples
from butwait.view.folders import Folder
from butwait.view.script import flat
from butwait.view.training import has_training
from butwait.view.trees import has_trees

LINES, _TAIL = 40, 1 << 16
"""Of the log: lines that are shown, and bytes that are read for them."""


def run_list(folders: Mapping[int, Folder]) -> list[dict[str, Any]]:
    """How far every run is, by its number."""
    return [{"id": number, **_state(folder)} for number, folder in folders.items()]


def run_page(number: int, folder: Folder) -> dict[str, Any]:
    """One run: its stages with what they found and what there is to look at, the evaluations, and
    the paired comparisons of its report."""
    state = read_run(folder.path)
    records = {stage.name: folder.record(stage.name) for stage in state.stages}
    summary = folder.json(folder.path / "summary.json")
    comparisons = summary.get("comparisons")
    return {
        "id": number,
        "name": folder.path.name,
        "folder": str(folder.path),
        "verdict": summary.get("verdict"),
        "stages": [
            {
                "name": stage.name,
                "kind": stage.kind,
                "state": stage.state,
                "from": _list(records[stage.name].get("from")),
                "seconds": stage.seconds,
                "metrics": flat(_mapping(records[stage.name].get("metrics"))),
                "cost": _mapping(records[stage.name].get("cost")),
                "has": _has(folder, stage.name),
            }
            for stage in _stages(folder, state)
        ],
        "evaluations": [row for name, of in records.items() for row in _evaluations(name, of)],
        "comparisons": [
            {**row, "at": [_stage_of(str(row.get(side)), records) for side in ("a", "b")]}
            for row in _list(comparisons)
            if isinstance(row, dict)
        ],
        "log": _log(folder),
    }


def _state(folder: Folder) -> dict[str, Any]:
    about = {"name": folder.path.resolve().name, "folder": str(folder.path)}
    if not folder.path.is_dir():
        gone = f"{folder.path} is not there any more"
        return about | {"state": "gone", "told": "gone", "error": gone, "stages": []}
    run = read_run(folder.path)
    return about | {
        "recipe": run.recipe,
        "state": run.state,
        "told": run.told,
        "started": run.started,
        "updated": stamp(run.updated),
        "error": run.error,
        "host": run.host,
        "pid": run.pid,
        "stage": run.stage,
        "task": run.task,
        "rate": run.rate,
        "left_s": run.left_s,
        "figures": run.figures,
        "workers": run.workers,
        "stages": [
            {
                "name": stage.name,
                "kind": stage.kind,
                "state": stage.state,
                "done": stage.done,
                "total": stage.total,
                "seconds": stage.seconds,
            }
            for stage in _stages(folder, run)
        ],
    }


def _stages(folder: Folder, run: RunState) -> list[StageState]:
    """The stages of a run; of one whose folder lies elsewhere, nothing but its name."""
    return [
        stage
        if folder.within(folder.path / stage.name)
        else StageState(stage.name, stage.kind, "waits")
        for stage in run.stages
    ]


def _has(folder: Folder, stage: str) -> list[str]:
    """What of a stage there is to look at now."""
    path = folder.path / stage
    shown = {
        "attempts": any(
            folder.parts(method) for method in path.glob("attempts/*/*") if method.is_dir()
        ),
        "trees": has_trees(folder, stage),
        "examples": has_examples(folder, stage),
        "training": has_training(folder, stage),
    }
    if not folder.is_file(path / "stage.json"):
        return []
    return [name for name, there in shown.items() if there]


def _stage_of(key: str, records: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The stage whose attempts "name/set/method" is of; of an arm the first seed's. None where
    there is none."""
    name = key.partition("/")[0]
    arms = (s for s, of in records.items() if _mapping(of.get("settings")).get("arm") == name)
    return name if name in records else next(arms, None)


def _evaluations(stage: str, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for name, metrics in _mapping(record.get("metrics")).items():
        if not ("/" in name and isinstance(metrics, dict) and "pass_at_1" in metrics):
            continue
        problem_set, _, method = name.partition("/")
        row = Evaluation(stage, problem_set, method, metrics)
        bounds = [finite(bound) for bound in _list(metrics.get("interval"))]
        found.append(
            {
                "stage": stage,
                "set": row.set,
                "method": row.method,
                **{name: row.figure(name) for name in ("n", "k", "pass_at_1")},
                "interval": bounds if len(bounds) == 2 and None not in bounds else None,
                "status": _mapping(metrics.get("status")),
            }
        )
    return found


def _log(folder: Folder) -> list[str]:
    path = folder.path / NAME
    if not folder.is_file(path):
        return []
    with Path(path).open("rb") as file:
        size = path.stat().st_size
        file.seek(max(0, size - _TAIL))
        return file.read(_TAIL).decode(errors="replace").splitlines()[-LINES:]


def _list(value: Any) -> list:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}

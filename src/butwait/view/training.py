"""Trainings for the page: curves, looks, what the plateau rule says of them, texts over time."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from butwait.report.formats import finite
from butwait.report.reinforcement.runs import Training
from butwait.running.json_lines import read_log
from butwait.statistics.plateau import PlateauRule, Verdict
from butwait.training.grpo.settings import StopSettings
from butwait.view.folders import Folder
from butwait.view.questions import Questions, set_of
from butwait.view.script import numbers

LOGS = ("log", "looks", "samples")
MOST_SAMPLES = 200
MOST_POINTS = 2000
"""Of a curve: of a longer one, every so many."""


def has_training(folder: Folder, stage: str) -> bool:
    """Whether a stage wrote down how its training went."""
    files = (folder.path / stage / f"{name}.jsonl" for name in LOGS)
    return any(folder.is_file(file) for file in files)


def training(folder: Folder, stage: str) -> dict[str, Any]:
    """One stage's, as far as it is on disk."""
    path, record = folder.stage(stage), folder.record(stage)
    log, looks = (folder.rows(path / f"{name}.jsonl") for name in ("log", "looks"))
    known = Training({"name": stage, **record}, log, looks, ())
    kept = known.kept
    return {
        "stage": stage,
        "kind": record.get("kind"),
        "series": _series(known),
        "looks": [
            {
                "step": look.step,
                "accuracy": look.accuracy,
                "interval": look.interval,
                "n": look.n,
                "kept": look is kept,
            }
            for look in known.looks
        ],
        "plateau": _plateau(known),
        "samples": _samples(folder, stage, known),
    }


def _series(known: Training) -> list[dict[str, Any]]:
    names = dict.fromkeys(
        name for row in known.log for name, value in row.items() if finite(value) is not None
    )
    found = []
    for name in names:
        if name == "step":
            continue
        curve = known.curve(name)
        curve = curve[:: max(1, -(-len(curve) // MOST_POINTS))]
        if len(curve):
            steps, values = numbers(curve[:, 0]), numbers(curve[:, 1])
            found.append({"name": name, "steps": steps, "values": values})
    return found


def _plateau(known: Training) -> dict[str, Any] | None:
    """What the stage's own rule says of its curve, look by look; None where it has none."""
    asked = known.settings.get("plateau")
    if not isinstance(asked, dict):
        return None
    try:
        settings = StopSettings(**asked)
    except ValidationError:  # of another version
        return None
    points = dict(
        [(float(look.step), look.accuracy) for look in known.looks]
        if settings.signal == "accuracy"
        else known.curve("reward").tolist()
    )
    steps = sorted(points)
    looks = settings.rule().replay(steps, [points[step] for step in steps])
    stop = looks[-1] if looks and looks[-1].stop else None
    return {
        "column": settings.signal,
        "horizon": settings.horizon,
        "delta": settings.delta,
        "confidence": settings.confidence,
        "start": settings.start,
        "stop_step": stop.step if stop else None,
        "verdict": _sentence(settings.rule(), looks),
        "looks": [asdict(look) for look in looks],
    }


def _sentence(rule: PlateauRule, looks: list[Verdict]) -> str:
    if not looks:
        return f"Not looked at yet: the first look takes {rule.shortest:g} steps."
    if looks[-1].stop:
        return f"Stopped at step {looks[-1].step:g}: {looks[-1].reason}."
    nearest = min(looks, key=lambda look: look.upper)
    return (
        f"Never stopped. Of {len(looks)} looks that at step {nearest.step:g} comes nearest: "
        f"{nearest.reason}, and {rule.delta:g} would be worth going on for."
    )


def _samples(folder: Folder, stage: str, known: Training) -> list[dict[str, Any]]:
    """Texts over time: those of the looks, and completions of the training."""
    chosen_by = known.settings.get("selection")
    looked_at = chosen_by.get("problems") if isinstance(chosen_by, dict) else None
    rows: list[Mapping[str, Any]] = [
        {"set": looked_at, "step": look.step, **text} for look in known.looks for text in look.texts
    ]

    path = folder.path / stage / "samples.jsonl"
    there = folder.is_file(path)

    def few(path: Path) -> list[Mapping[str, Any]]:
        # Completions may be many megabytes: those that are shown are kept.
        both = [*rows, *(read_log(path) if there else ())]
        return both[:: -(-len(both) // MOST_SAMPLES) or 1]

    shown = folder.digest(path, ("samples", len(rows)), few) if there else few(path)
    questions, trained_on = Questions(folder, stage), set_of(folder, stage)
    found = []
    for row in sorted(shown, key=lambda row: finite(row.get("step")) or 0.0):
        wrote = str(row.get("question") or "")
        asked = questions.of(str(row.get("problem_id")), row.get("set", trained_on), wrote)
        found.append(
            {
                "step": finite(row.get("step")),
                "problem": row.get("problem_id"),
                "question": wrote or asked.question,
                "gold": asked.gold,
                "text": row.get("text"),
                "status": row.get("status"),
                "answer": row.get("answer"),
                "reward": finite(row.get("reward")),
            }
        )
    return found

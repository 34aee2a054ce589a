"""``butwait status``: how far a run is, from any terminal."""

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from butwait.running.log import NAME, RESULT, say
from butwait.running.run_state import RunState, StageState, ago, read_run, stamp, the_run, time_told
from butwait.running.terminal import visible


def status(run: Path | None, as_json: bool) -> None:
    """Tells how far a run is; without one, the newest under ``runs/``. Raises UserError where there
    is none."""
    found = read_run(the_run(run))
    if as_json:
        print(json.dumps(as_content(found), indent=2))
        return
    for line in told(found):
        say(visible(line), RESULT)


def as_content(run: RunState) -> dict[str, Any]:
    """For programs. ``done``, ``total``, ``rate`` (a second) and ``left_s`` are those of ``stage``,
    the one at work."""
    now = _now(run)
    content = {"run": str(run.path), "log": str(run.path / NAME)} | asdict(run)
    del content["path"]
    content["updated"] = stamp(run.updated)
    content |= {"done": now.done if now else None, "total": now.total if now else None}
    return content | {"stages_done": run.finished, "alive": run.state == "running"}


def told(run: RunState) -> list[str]:
    """For people."""
    title = f"{run.recipe or run.path.name} in {run.path}: {run.told}"
    if run.state == "running" and run.started:
        title += f", begun {ago(datetime.fromisoformat(run.started).timestamp())}"
    elif run.state != "unknown":
        title += f", {ago(run.updated)}"
    lines = [title]
    widths = [max((len(value) for value in column), default=0) for column in _columns(run)]
    for number, stage in enumerate(run.stages, 1):
        names = f"{stage.name:{widths[0]}}  {stage.kind:{widths[1]}}"
        lines.append(f"  [{number}/{len(run.stages)}] {names}  {_how_far(stage, run)}")
        if len(stage.servers) > 1:
            lines += [f"      {url}: {_counts(of)}" for url, of in stage.servers.items()]
    if run.figures and run.state == "running":
        figures = "  ".join(f"{name} {value}" for name, value in run.figures.items())
        lines.append(f"  {run.task}: {figures}")
    for worker in run.workers or ():
        lines.append(f"  worker {_worker(worker)}")
    if run.error:
        lines += [f"  last error: {line}" for line in run.error.splitlines()]
    if run.state in ("killed", "failed", "stopped"):
        lines.append(f"  the same command goes on where it was; {run.path / NAME} has the details")
    return lines


def _columns(run: RunState) -> tuple[list[str], list[str]]:
    return [stage.name for stage in run.stages], [stage.kind for stage in run.stages]


def _now(run: RunState) -> StageState | None:
    return next((stage for stage in run.stages if stage.name == run.stage), None)


def _how_far(stage: StageState, run: RunState) -> str:
    if stage.state == "finished":
        return f"finished, {time_told(stage.seconds)}"
    if stage.done is None:
        return stage.state
    far = f"{stage.state}, {stage.done:,}"
    far += "" if stage.total is None else f" of {stage.total:,}"
    if stage.name == run.stage and run.rate:
        far += f", {_rate(run.rate)}"
        far += "" if run.left_s is None else f", {time_told(run.left_s)} left"
    return far


def _rate(rate: float) -> str:
    """Units a second, or in the time that makes it a number above one."""
    for unit, seconds in (("second", 1), ("minute", 60)):
        if rate * seconds >= 1:
            return f"{rate * seconds:.1f} a {unit}"
    return f"{rate * 3600:.1f} an hour"


def _counts(of: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in of.items())


def _worker(worker: dict[str, Any]) -> str:
    about = ", ".join(f"{name} {value}" for name, value in worker.items() if name != "index")
    return f"{worker.get('index', '?')}: {about}"

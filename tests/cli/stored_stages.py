"""Evaluations as a run stores them, and logs of inspect, made by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from butwait.evaluation.metrics import attempt_figures
from butwait.evaluation.storage import write_shard
from butwait.records import Attempt, Problem
from butwait.stages.problem_sets import LoadedSet, keep_problem_set


def stage(path: Path, counts: list[int], k: int, rename: str = "q", **changed: str) -> Path:
    """A finished evaluation of AIME-like questions, c of k right at each."""
    problems = [
        Problem(f"{rename}{i}", changed.get(f"q{i}", f"What is {i} + {i}?"), str(2 * i), "integer")
        for i in range(len(counts))
    ]
    keep_problem_set(path.parent / "problems" / "aime.jsonl", problems)
    figures = _attempted(path, "plain", problems, counts, k)
    record = {
        "name": path.name,
        "kind": "evaluate",
        "fingerprint": "1",
        "status": "complete",
        "seconds": 1.0,
        "settings": {},
        "problem_sets": {"aime": LoadedSet.of(problems).describe()},
        "metrics": {"aime/plain": figures},
        "cost": {},
    }
    (path / "stage.json").write_text(json.dumps(record))
    return path


def with_row(path: Path, method: str, counts: list[int], k: int) -> Path:
    """The evaluation with another method's row beside its own."""
    problems = [Problem(f"q{i}", "", None) for i in range(len(counts))]
    record = json.loads((path / "stage.json").read_text())
    record["metrics"][f"aime/{method}"] = _attempted(path, method, problems, counts, k)
    (path / "stage.json").write_text(json.dumps(record))
    return path


def _attempted(
    path: Path, method: str, problems: Sequence[Problem], counts: Sequence[int], k: int
) -> dict:
    """Writes the attempts of a method, c of k right at each question; their figures."""
    attempts = [
        Attempt(p.id, s, "", "eos", "1", "correct" if s < c else "wrong", 5, 0, 5, int(s >= c))
        for p, c in zip(problems, counts, strict=True)
        for s in range(k)
    ]
    shard = path / "attempts" / "aime" / method / "shard-00000.parquet"
    shard.parent.mkdir(parents=True)
    write_shard(shard, [attempts[i : i + k] for i in range(0, len(attempts), k)])
    return attempt_figures(attempts)


def changed(path: Path, **settings: str) -> None:
    """The record of an evaluation, changed."""
    record = json.loads((path / "stage.json").read_text())
    status = settings.pop("status", record["status"])
    record |= {"settings": record["settings"] | settings, "status": status}
    (path / "stage.json").write_text(json.dumps(record))


def inspect_log(path: Path, *samples: dict[str, Any]) -> Path:
    """A log of inspect with one epoch; each sample has ``id``, ``text`` (None: it failed), and what
    else is not as usual: ``input``, ``target``, ``scores`` by scorer."""
    whole = [
        {
            "id": sample["id"],
            "epoch": 1,
            "input": sample.get("input", f"What is {sample['id']}?"),
            "target": sample.get("target", "7"),
            "output": {"completion": sample["text"] or ""},
            "scores": {name: {"value": v} for name, v in sample.get("scores", {}).items()},
            "error": None if sample["text"] is not None else {"message": "it failed"},
        }
        for sample in samples
    ]
    about = {"task": "sums", "model": f"mockllm/{path.stem}"}
    log = {"version": 2, "status": "success", "eval": about, "samples": whole}
    path.write_text(json.dumps(log))
    return path

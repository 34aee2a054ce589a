"""A stored log as an evaluate stage: a folder that is read as any other of its kind."""

import time
from pathlib import Path
from typing import Any

from butwait.evaluation.logs.grading import BUTWAIT, GradedLog, disagreements
from butwait.evaluation.metrics import attempt_figures, outcomes
from butwait.evaluation.settings import MethodSettings
from butwait.evaluation.storage import write_shard
from butwait.records import UserError
from butwait.running.files import write_json
from butwait.running.identity import file_digest, fingerprint
from butwait.running.stages import Stage, locked, open_stage
from butwait.stages.kinds import STAGES
from butwait.stages.problem_sets import LoadedSet, keep_problem_set, stored_problem_set

METHOD = "log"
SCORES = "scores.json"
"""In the stage's folder: what the log's own scorers gave, beside butwait's verdicts."""


def import_log(graded: GradedLog, out: Path, name: str) -> tuple[Stage, bool]:
    """Writes the stage; its questions go to ``problems/NAME.jsonl`` of the run, the folder above.

    Args:
        graded: the log.
        out: RUN/STAGE.
        name: of the problem set.

    Returns:
        the stage, and whether it was there before, whole and of the same log.

    Raises:
        UserError: nothing of the log could be scored, another stage is there, or the run has other
            questions by that name. Then nothing is written.
    """
    out = out.absolute()
    run, log = out.parent, graded.log
    figures = _figures(graded)
    digest = file_digest(log.path)
    with locked(run, "wait for it"):
        problems = run / "problems" / f"{name}.jsonl"
        loaded = LoadedSet.of(graded.problems)
        if problems.exists() and stored_problem_set(problems).fingerprint != loaded.fingerprint:
            raise UserError(
                f"{problems} holds other questions; import this log under another name (--set "
                "NAME), or into another run"
            )
        header = _header(graded, out.name, name, digest, loaded)
        _check_free(out, header["fingerprint"])
        stage = open_stage(run, header)
        if stage.complete:
            return stage, True
        keep_problem_set(problems, graded.problems)
        shard = out / "attempts" / name / METHOD / "shard-00000.parquet"
        shard.parent.mkdir(parents=True, exist_ok=True)
        by_problem = {problem.id: [] for problem in graded.problems}  # type: dict[str, list]
        for attempt in graded.attempts:
            by_problem[attempt.problem_id].append(attempt)
        write_shard(shard, list(by_problem.values()))
        write_json(out / SCORES, scores_beside(graded))
        tokens = sum(attempt.tokens for attempt in graded.attempts)
        stage.finish({f"{name}/{METHOD}": figures}, {"policy_tokens": tokens, "reward_tokens": 0})
        return stage, False


def scores_beside(graded: GradedLog) -> dict[str, Any]:
    """butwait's verdicts beside the log's own scores, by question; and where they differ."""
    ours: dict[str, list[str]] = {}
    for attempt in graded.attempts:
        ours.setdefault(attempt.problem_id, []).append(attempt.status)
    log = graded.log
    return {
        "package": log.package,
        "task": log.task,
        "model": log.model,
        "ours": ours,
        "theirs": {
            scorer: {name: list(values) for name, values in found.items()}
            for scorer, found in log.scores.items()
        },
        "differences": {scorer: list(disagreements(graded, scorer)) for scorer in log.scores},
    }


def _figures(graded: GradedLog) -> dict[str, Any]:
    """The metrics of the log. Raises UserError where nothing of it could be scored."""
    if all(outcome.excluded for outcome in outcomes(graded.attempts).values()):
        why = f"{graded.by!r} gave no attempt in it a number"
        if graded.by == BUTWAIT:
            why = "it has no readable gold answer where it has a text"
            why += "; --theirs takes its own verdicts" if graded.log.scores else ""
        raise UserError(f"{graded.log.path}: no question of this log could be scored: {why}")
    figures = attempt_figures(graded.attempts)
    if not graded.lengths_known:
        figures |= {"tokens_per_problem": None, "tokens_per_attempt": None}
        figures["length"] = {"mean": None, "median": None}
    if graded.by != BUTWAIT:
        figures["maj_at_k"] = {}  # which of the wrong answers agree is not known
    return figures


def _check_free(out: Path, wanted: str) -> None:
    record = out / "stage.json"
    if not record.is_file():
        return
    from butwait.running.stages import read_stage

    there = read_stage(out)
    if there is not None and there.record["fingerprint"] != wanted:
        raise UserError(f"{out} is another stage already; choose another name for --out")


def _header(
    graded: GradedLog, stage: str, name: str, digest: str, loaded: LoadedSet
) -> dict[str, Any]:
    log = graded.log
    kind = next(known for known in STAGES if STAGES[known].gives == "evaluation")
    settings = STAGES[kind].settings.model_validate(
        {"kind": kind, "problems": [name], "methods": {METHOD: MethodSettings(k=log.k)}}
    )
    about = {
        "package": log.package,
        "task": log.task,
        "model": log.model,
        "file": log.path.name,
        "graded_by": graded.by,
    }
    return {
        "name": stage,
        "kind": kind,
        "from": [],
        "fingerprint": fingerprint([stage, name, digest, loaded.fingerprint, graded.by]),
        "settings": settings.model_dump(mode="json", by_alias=True),
        "inputs": {},
        "problem_sets": {name: loaded.describe()},
        "versions": {},
        "seed": 0,
        "imported": about | {"date": time.strftime("%Y-%m-%d", time.localtime(_date(log.path)))},
    }


def _date(path: Path) -> float:
    return path.stat().st_mtime

"""``butwait import``: a stored log becomes an evaluate stage."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from butwait.evaluation.logs.detect import read_log
from butwait.evaluation.logs.grading import GradedLog, answered, grade_log, score_log
from butwait.problems.grading import Grader
from butwait.records import UserError
from butwait.running.log import RESULT, say
from butwait.running.terminal import visible
from butwait.stages.imported import METHOD, import_log, scores_beside

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def import_stored(
    path: Path, out: Path, set_name: str | None, theirs: bool, scorer: str | None
) -> None:
    """Reads and grades a log, and writes it to RUN/STAGE.

    Raises UserError for a file that is no whole log, or a folder that is taken.
    """
    if not _NAME.fullmatch(out.absolute().name) or out.absolute().parent == out.absolute():
        raise UserError(f"--out {out}: give RUN/STAGE, a name of letters, digits, _, - and dots")
    if (
        out.exists()
        and not (out / "stage.json").is_file()
        and (out.is_file() or any(out.iterdir()))
    ):
        raise UserError(f"--out {out} is there already and is no stage; choose another name")
    if set_name is not None and not _NAME.fullmatch(set_name):
        raise UserError(f"--set {set_name!r}: a name of letters, digits, _, - and dots is meant")
    if scorer is not None and not theirs:
        raise UserError("--scorer names whose verdicts --theirs takes; give both")
    log = read_log(path)
    with Grader() as grader:
        graded = score_log(log, scorer) if theirs else grade_log(log, grader)
    name = set_name or re.sub(r"[^A-Za-z0-9_.-]+", "_", log.task).strip("_.-") or "questions"
    stage, before = import_log(graded, out, name)
    figures = stage.record["metrics"][f"{name}/{METHOD}"]
    low, high = figures["interval"]
    say(
        f"{out}: {log.package}, {visible(log.model)} on {visible(log.task)}, {figures['n']} "
        f"questions x {figures['k']}: {figures['pass_at_1']:.1%} [{100 * low:.1f}, "
        f"{100 * high:.1f}] correct{' (imported before)' if before else ''}",
        RESULT,
    )
    for line in _beside(graded, scores_beside(graded)):
        say(f"  {visible(line)}", RESULT)


def _beside(graded: GradedLog, beside: dict[str, Any]) -> Iterator[str]:
    """Of each scorer of the log, its rate, and where it and butwait's grading differ."""
    for scorer, found in beside["theirs"].items():
        known = [value for values in found.values() for value in values if value is not None]
        if not known:
            yield f"{scorer}: no numbers"
            continue
        rate = f"{scorer} in the log: {sum(known) / len(known):.1%}"
        if graded.log.attempt_scores(scorer) is None:
            yield f"{rate} (one number a question, so attempts are not compared)"
            continue
        others = beside["differences"][scorer]
        yield f"{rate}, differs at {len(others)} of {len(known)} attempts"
        for other in others[:5]:
            yield (
                f"  {other['id']}, attempt {other['sample']}: {answered(other)}: {other['ours']} "
                f"here, {other['theirs']:g} there"
            )
        if len(others) > 5:
            yield f"  and {len(others) - 5} more"

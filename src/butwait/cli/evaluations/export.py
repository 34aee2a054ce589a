"""``butwait export``: an evaluation as inspect and the hub take it."""

import time
from importlib.metadata import version
from pathlib import Path

import yaml

from butwait.api.comparing import read_row
from butwait.evaluation.logs.exports import eval_results, precomputed_scores
from butwait.evaluation.logs.grading import BUTWAIT
from butwait.records import UserError
from butwait.running.files import atomic_path, check_output
from butwait.running.json_lines import dump_rows
from butwait.running.log import RESULT, say


def export(
    stage: Path,
    row: str | None,
    inspect: Path | None,
    hub: Path | None,
    dataset: str | None,
    task: str,
) -> None:
    """Writes what is asked for. Raises UserError for no finished evaluation, or nothing asked."""
    if inspect is None and hub is None:
        raise UserError("nothing to write: give --inspect FILE.jsonl, --hub FILE.yaml or both")
    if hub is not None and not dataset:
        raise UserError("--hub needs --dataset, the id of the benchmark on the hub (owner/name)")
    if inspect is not None and inspect.suffix != ".jsonl":
        raise UserError(f"--inspect {inspect}: inspect reads a file that ends in .jsonl")
    for option, target in (("--inspect", inspect), ("--hub", hub)):
        if target is not None:
            check_output(target, option=option)
    side, figures, attempts = read_row(stage, row)
    if inspect is not None:
        rows = list(precomputed_scores(attempts))
        with atomic_path(inspect) as path:
            path.write_text(dump_rows(rows), encoding="utf-8")
        say(f"{inspect}: {len(rows)} scores", RESULT)
    if hub is not None:
        imported = side.record.get("imported") or {}
        day = time.localtime((side.path / "stage.json").stat().st_mtime)
        date = imported.get("date") or time.strftime("%Y-%m-%d", day)
        by = f"sampled by {imported['package']}, " if imported else ""
        judge = imported.get("graded_by", BUTWAIT)
        own = f"{BUTWAIT} {version(BUTWAIT)}"
        notes = f"{by}graded by {own if judge == BUTWAIT else judge}"
        entries = eval_results(figures, str(dataset), task, date, notes)
        with atomic_path(hub) as path:
            path.write_text(yaml.safe_dump(entries, sort_keys=False), encoding="utf-8")
        say(f"{hub}: {figures['pass_at_1']:.1%} of {dataset}", RESULT)

"""The main path: a recipe's stages, in order, each from the folders of those before it."""

import filecmp
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console

from butwait.pipeline.identity import other_versions, recorded_versions, stage_header
from butwait.pipeline.launch import run_on_devices
from butwait.pipeline.preflight import Where, all_that_is_wrong, due_stages, look_around, nowhere
from butwait.problems.grading import Grader
from butwait.recipe.recipe import Recipe
from butwait.recipe.stages import Outcome
from butwait.records import UserError
from butwait.running.files import atomic_path
from butwait.running.stages import Stage, locked, open_stage
from butwait.stages.context import StageRun
from butwait.stages.problem_sets import load_problem_sets

console = Console(highlight=False, soft_wrap=True)


def run_recipe(recipe: Recipe, run: Path, where: Where = nowhere) -> dict[str, dict[str, Any]]:
    """Runs every stage that is not finished yet, in order.

    Args:
        recipe: what to run.
        run: the run's folder; a stopped run goes on where it was, a finished one does nothing.
        where: places of the recipe in its file, for mistakes.

    Returns:
        stage name -> its record (the content of its stage.json).

    Raises:
        UserError: a mistake in the recipe, its data or its models, or a full disk. What was
            finished is kept.
    """
    console.print(f"[bold]{recipe.name}[/bold] in {run}")
    if recipe.threads is not None:
        import torch

        torch.set_num_threads(recipe.threads)
    with locked(run), Grader() as grader:
        try:
            problems = load_problem_sets(recipe, run / "problems", say=console.print)
        except UserError as error:
            raise UserError(all_that_is_wrong(recipe, error, where)) from error
        if any(p.answer_kind == "math" for loaded in problems.values() for p in loaded.problems):
            grader.start()  # ahead of the first answer, which would wait for it
        versions, reported = recorded_versions(), False
        due = due_stages(recipe, run, problems, versions)
        asked = {name: loaded.problems for name, loaded in problems.items()}
        found = look_around(recipe, due, asked, where)
        for warning in found.warnings:
            console.print(f"  {warning}", markup=False)
        if found.mistakes:
            raise UserError("\n".join(found.mistakes))
        done: dict[str, Stage] = {}
        names = recipe.order()
        for number, name in enumerate(names, start=1):
            title = f"[{number}/{len(names)}] {name} ({recipe.stages[name].kind})"
            stage = open_stage(run, stage_header(recipe, name, problems, done, versions))
            if stage.complete:
                seconds = stage.record["seconds"]
                console.print(f"{title}: finished before, in {seconds:.0f} s", markup=False)
            else:
                console.print(title, markup=False)
                stage.finish(*_outcome(StageRun(recipe, name, stage, done, problems, grader)))
            if others := other_versions(stage.record["versions"], versions):
                console.print(f"  made by {', '.join(others)}", markup=False)
            if recipe.kind(name).gives == "report":
                publish(stage.path, run)
                reported = True
            for line in recipe.kind(name).headline(stage.record["metrics"]):
                console.print(f"  {line}", markup=False)
            done[name] = stage
    if reported:
        console.print(f"The report: {run / 'report.html'}", markup=False)
    return {name: stage.record for name, stage in done.items()}


def publish(stage: Path, run: Path) -> None:
    """Copies a report stage's page and figures to the run's top, unless they lie there."""
    for name in ("report.html", "summary.json"):
        file, top = stage / name, run / name
        if not file.exists():
            raise UserError(f"{file} is gone; remove the folder {stage} and run the command again")
        if not (top.exists() and filecmp.cmp(file, top, shallow=False)):
            with atomic_path(top) as path:
                shutil.copyfile(file, path)


def _outcome(run: StageRun) -> Outcome:
    """(metrics, cost) of a stage, done in this process or by several."""
    launch = getattr(run.settings, "launch", None)
    if launch is not None:
        return run_on_devices(run, launch)
    return run.recipe.kind(run.name).run(run)

"""The main path: a recipe's stages, in order, each from the folders of those before it."""

import filecmp
import json
import shutil
from pathlib import Path
from typing import Any

from butwait.pipeline.identity import other_versions, recorded_versions, stage_header
from butwait.pipeline.launch import run_on_devices
from butwait.pipeline.preflight import Where, all_that_is_wrong, due_stages, look_around, nowhere
from butwait.problems.grading import Grader
from butwait.recipe.recipe import Recipe
from butwait.recipe.stages import Outcome
from butwait.records import UserError
from butwait.running.devices import give_memory_back
from butwait.running.files import atomic_path
from butwait.running.plugins import calling, wrong
from butwait.running.refusals import refusals_told
from butwait.running.stages import Stage, locked, open_stage
from butwait.running.terminal import console, plain, visible
from butwait.stages.context import StageRun
from butwait.stages.problem_sets import load_problem_sets

_console = console(highlight=False, soft_wrap=True)


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
    _console.print(f"[bold]{plain(recipe.name)}[/bold] in {plain(run)}")
    if recipe.threads is not None:
        import torch

        torch.set_num_threads(recipe.threads)
    with locked(run), refusals_told(f"{run} could not be read or written"), Grader() as grader:
        try:
            problems = load_problem_sets(recipe, run / "problems", say=_say)
        except UserError as error:
            raise UserError(all_that_is_wrong(recipe, error, where)) from error
        if any(p.answer_kind == "math" for loaded in problems.values() for p in loaded.problems):
            grader.start()  # ahead of the first answer, which would wait for it
        versions, reported = recorded_versions(), False
        due = due_stages(recipe, run, problems, versions)
        asked = {name: loaded.problems for name, loaded in problems.items()}
        found = look_around(recipe, due, asked, where)
        for warning in found.warnings:
            _say(f"  {warning}")
        if found.mistakes:
            raise UserError("\n".join(found.mistakes))
        done: dict[str, Stage] = {}
        names = recipe.order()
        for number, name in enumerate(names, start=1):
            title = f"[{number}/{len(names)}] {name} ({recipe.stages[name].kind})"
            stage = open_stage(run, stage_header(recipe, name, problems, done, versions))
            if stage.complete:
                seconds = stage.record["seconds"]
                _say(f"{title}: finished before, in {seconds:.0f} s")
            else:
                _say(title)
                stage.finish(*_outcome(StageRun(recipe, name, stage, done, problems, grader)))
            if others := other_versions(stage.record["versions"], versions):
                _say(f"  made by {', '.join(others)}")
            if recipe.kind(name).gives == "report":
                publish(stage.path, run)
                reported = True
            for line in _headline(recipe, name, stage):
                _say(f"  {line}")
            for why, answers in grader.unjudged():
                _say(f"  {answers} answers are ungradable: {why}")
            done[name] = stage
    if reported:
        _say(f"The report: {run / 'report.html'}")
    return {name: stage.record for name, stage in done.items()}


def _say(line: str) -> None:
    _console.print(visible(line), markup=False)


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
    kind, stage = run.settings.kind, run.recipe.kind(run.name)
    try:
        outcome = stage.run(run)
    finally:
        give_memory_back(trained=stage.gives in ("model", "reward model"))
    if ":" in kind:
        _check(kind, outcome)
    return outcome


def _check(kind: str, outcome: Any) -> None:
    """What a user's own kind of stage gives must be two mappings that stage.json can hold."""
    call, meant = "its run", "(metrics, cost), two mappings that JSON can hold"
    pair = isinstance(outcome, tuple | list) and len(outcome) == 2
    if not pair or not all(isinstance(part, dict) for part in outcome):
        raise wrong(kind, call, outcome, meant)
    try:
        json.dumps(outcome, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise wrong(kind, call, outcome, f"{meant} ({error})") from error


def _headline(recipe: Recipe, name: str, stage: Stage) -> list[str]:
    kind, metrics = recipe.kind(name), stage.record["metrics"]
    if ":" not in recipe.stages[name].kind:
        return list(kind.headline(metrics))
    with calling(recipe.stages[name].kind, "its headline"):
        return list(kind.headline(metrics))

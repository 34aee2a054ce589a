"""The main path: a recipe's stages, in order, each from the folders of those before it."""

import filecmp
import json
import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from butwait.pipeline.changes import told_anew
from butwait.pipeline.identity import other_versions, recorded_versions, stage_header
from butwait.pipeline.launch import JOB, run_on_devices
from butwait.pipeline.preflight import (
    Where,
    all_that_is_wrong,
    finished_stages,
    look_around,
    lost_models,
    nowhere,
)
from butwait.planning.stored import peak_noted, store_plan
from butwait.problems.grading import Grader
from butwait.recipe.recipe import Recipe
from butwait.recipe.stages import Outcome
from butwait.records import UserError
from butwait.running import stops
from butwait.running.devices import give_memory_back
from butwait.running.files import atomic_path
from butwait.running.log import RESULT, logged, note, say
from butwait.running.plugins import calling, wrong
from butwait.running.progress import begin_stage, reported, show_due
from butwait.running.refusals import refusals_told
from butwait.running.stages import Stage, locked, open_stage
from butwait.running.terminal import console, heard, plain
from butwait.stages.context import StageRun
from butwait.stages.problem_sets import LoadedSet, load_problem_sets

_console = console(highlight=False, soft_wrap=True)


def run_recipe(
    recipe: Recipe, run: Path, where: Where = nowhere, finished: Collection[str] = ()
) -> dict[str, dict[str, Any]]:
    """Runs every stage that is not finished yet, in order.

    Args:
        recipe: what to run.
        run: the run's folder; a stopped run goes on where it was, a finished one does nothing.
        where: places of the recipe in its file, for mistakes.
        finished: stages that the caller holds results of; none is computed anew.

    Returns:
        stage name -> its record (the content of its stage.json).

    Raises:
        UserError: a mistake in the recipe, its data or its models, or a full disk. What was
            finished is kept.
    """
    if heard(logging.INFO):
        _console.print(f"[bold]{plain(recipe.name)}[/bold] in {plain(run)}")
    if recipe.threads is not None:
        import torch

        torch.set_num_threads(recipe.threads)
    versions = recorded_versions()
    told = ", ".join(f"{package} {version}" for package, version in versions.items())
    kinds = {name: recipe.stages[name].kind for name in recipe.order()}
    with (
        locked(run),
        logged(run, told),
        reported(run, recipe.name, kinds),
        refusals_told(f"{run} could not be read or written"),
    ):
        stops.keep()
        note(f"{recipe.name} in {run}", logging.INFO)
        with Grader() as grader:
            return _run_stages(recipe, run, where, grader, versions, finished)


def _run_stages(
    recipe: Recipe,
    run: Path,
    where: Where,
    grader: Grader,
    versions: dict[str, str],
    finished: Collection[str],
) -> dict[str, dict[str, Any]]:
    """``run_recipe`` in a folder that is this process's own."""
    try:
        problems = load_problem_sets(recipe, run / "problems", say=say)
    except UserError as error:
        raise UserError(all_that_is_wrong(recipe, error, where)) from error
    for loaded in problems.values():
        grader.expect(loaded.problems)
    if any(p.answer_kind == "math" for loaded in problems.values() for p in loaded.problems):
        grader.start()  # ahead of the first answer, which would wait for it
    before = finished_stages(recipe, run, problems, versions)
    due = [name for name in recipe.order() if name not in before]
    if lost := [name for name in due if name in finished]:
        raise UserError(_lost(lost, run, problems))
    asked = {name: loaded.problems for name, loaded in problems.items()}
    found = look_around(recipe, due, asked, where)
    for warning in found.warnings:
        say(f"  {warning}", logging.WARNING)
    if mistakes := [*lost_models(recipe, before), *found.mistakes]:
        raise UserError("\n".join(mistakes))
    store_plan(recipe, run)
    done: dict[str, Stage] = {}
    names, published = recipe.order(), False
    for name in names:
        (run / name / JOB).unlink(missing_ok=True)  # of a run that was killed
    show_due(due)
    for number, name in enumerate(names, start=1):
        title = f"[{number}/{len(names)}] {name} ({recipe.stages[name].kind})"
        stage = open_stage(run, stage_header(recipe, name, problems, done, versions))
        if stage.complete:
            seconds = stage.record["seconds"]
            say(f"{title}: finished before, in {seconds:.0f} s")
        else:
            say(title)
            if anew := told_anew(recipe, stage):
                say(f"  {anew}")
            if stage.gone:
                say(
                    f"  finished before, but {stage.gone} of its files of results "
                    f"{'is' if stage.gone == 1 else 'are'} gone: only their problems are computed"
                )
            begin_stage(name)
            settings = recipe.stages[name]
            here = getattr(settings, "launch", None) is None and (
                recipe.workers.kind == "local" or not recipe.kind(name).asks(settings)
            )
            # What other processes hold is not ours to tell.
            with peak_noted(run, name) if here else nullcontext():
                outcome = _outcome(StageRun(recipe, name, stage, done, problems, grader))
            stage.finish(*outcome)
            say(f"  {stage.record['seconds']:.1f} s, {stage.record['cost']}", logging.DEBUG)
        if name in due:  # also one whose input was removed and came out as before
            due.remove(name)
            show_due(due)
        if others := other_versions(stage.record["versions"], versions):
            say(f"  made by {', '.join(others)}")
        if recipe.kind(name).gives == "report":
            publish(stage.path, run)
            published = True
        for line in _headline(recipe, name, stage):
            say(f"  {line}", RESULT if number == len(names) else logging.INFO)
        for line in grader.untold():
            say(f"  {line}", logging.WARNING)
        done[name] = stage
    if published:
        say(f"The report: {run / 'report.html'}", RESULT)
    return {name: stage.record for name, stage in done.items()}


def _lost(stages: Sequence[str], run: Path, problems: Mapping[str, LoadedSet]) -> str:
    """What to say of finished stages that would be others now."""
    dropped = [name for name, loaded in problems.items() if loaded.dropped]
    told = f"{', '.join(stages)} of {run} would be computed anew: "
    if dropped:
        return (
            f"{told}questions of {', '.join(dropped)} stand in another set of the run too, or "
            "share long stretches of words with it, and sets are kept apart; take other questions, "
            "or begin with the set that shall keep them"
        )
    return (
        f"{told}questions, files or settings have changed since, or files of results are gone; ask "
        "for it again first"
    )


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
        run.recipe.kind(run.name).before_launch(run)
        give_memory_back(trained=True)
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

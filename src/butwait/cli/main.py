"""The command line. Heavy imports stand inside the commands, so that ``--help`` is instant."""

import logging
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from butwait.cli.commands import (
    AsJson,
    Overrides,
    Quiet,
    RewardModelOption,
    ServerOption,
    Verbose,
    app,
    loud,
)
from butwait.cli.commands import command as _command
from butwait.cli.completion import methods, models, shipped
from butwait.cli.completion import runs as known_runs
from butwait.cli.ending import run_to_end
from butwait.cli.evaluations import commands as _evaluations  # noqa: F401  registers its own


def _version(asked: bool) -> None:
    if asked:
        from butwait import __version__

        typer.echo(f"butwait {__version__}")
        raise typer.Exit()


Recipe = Annotated[
    str,
    typer.Argument(help="A recipe file, or the name of a shipped recipe.", autocompletion=shipped),
]


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and end.")
    ] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Teach a small language model to reason from its own search."""
    context.with_resource(loud(verbose, quiet))


@_command()
def run(
    recipe: Recipe,
    run_dir: Annotated[
        Path | None, typer.Option(help="Where the run lives; runs/<recipe> by default.")
    ] = None,
    set_: Overrides = None,
) -> None:
    """Run a recipe's stages, or go on where a stopped run was."""
    from butwait.recipe.load import read_recipe
    from butwait.stages.kinds import STAGES

    loaded, where = read_recipe(recipe, STAGES, set_ or ())
    from butwait.pipeline.run import run_recipe  # heavy, and of no use where the text is wrong

    run_recipe(loaded, run_dir or Path("runs") / loaded.name, where)


@_command()
def solve(
    question: Annotated[
        str, typer.Argument(help="The question; a file that holds it; or - for standard input.")
    ],
    model: Annotated[
        str,
        typer.Option(help="tiny, smollm2, a Hugging Face id, or a folder.", autocompletion=models),
    ] = "tiny",
    method: Annotated[
        str | None,
        typer.Option(
            help="self_consistency, beam_search, ...; the particle filter if none.",
            autocompletion=methods,
        ),
    ] = None,
    particles: Annotated[
        int | None, typer.Option(min=1, help="Paths at a time; the method's default if none.")
    ] = None,
    reward_model: RewardModelOption = None,
    server: ServerOption = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="Of the policy; 1 if none.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of a path; the model's default if none.")
    ] = None,
    answer: Annotated[
        str | None, typer.Option(help="The right one, to be told whether it was found.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same search.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Answer, weight and usage as JSON, nothing else.")
    ] = False,
) -> None:
    """Search one question, and look on."""
    from butwait.cli.solve import solve_question

    solve_question(
        question,
        as_json,
        model=model,
        method=method,
        particles=particles,
        seed=seed,
        reward_model=reward_model,
        engine=server,
        sampling=None if temperature is None else {"temperature": temperature},
        step=None if max_tokens is None else {"max_tokens": max_tokens},
        gold=answer,
    )


@_command()
def check(
    recipe: Recipe,
    set_: Overrides = None,
) -> None:
    """Check a recipe and all that it names, and run nothing."""
    from butwait.recipe.load import read_recipe
    from butwait.stages.kinds import STAGES

    loaded, where = read_recipe(recipe, STAGES, set_ or ())
    from butwait.pipeline.preflight import check_sets, look_around

    sets, problems = check_sets(loaded, where)
    named = look_around(loaded, loaded.order(), problems, where)
    from butwait.records import UserError
    from butwait.running.log import RESULT, say

    for warning in (*sets.warnings, *named.warnings):
        say(f"warning: {warning}", logging.WARNING)
    if mistakes := [*sets.mistakes, *named.mistakes]:
        raise UserError("\n".join(mistakes))
    say(f"{loaded.name}: {len(loaded.stages)} stages, no mistakes", RESULT)


@_command()
def status(
    run: Annotated[
        Path | None,
        typer.Argument(
            help="A run's folder, or its name under runs/; the newest there if none.",
            autocompletion=known_runs,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell how far a run is, from any terminal."""
    from butwait.cli.status import status as tell

    tell(run, as_json)


@_command()
def runs(
    folder: Annotated[Path, typer.Argument(help="A folder that holds runs.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List runs, the newest first."""
    from butwait.cli.runs import runs as list_runs

    list_runs(folder, as_json)


@_command()
def view(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Runs' folders, or their names under runs/; all of those there if none.",
            autocompletion=known_runs,
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Of this machine; one that is free if none."),
    ] = None,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Tell the address, and open nothing.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--export", help="Write the page into this folder instead of serving it."),
    ] = None,
) -> None:
    """Show runs in the browser: attempts, search trees, data, trainings."""
    from butwait.cli.view import view as show

    show(runs or (), port, not no_browser, out)


# Their place in the help is here.
from butwait.cli import serve as _serve  # noqa: E402, F401


@_command()
def clean(
    run: Annotated[
        Path,
        typer.Argument(help="A run's folder, or its name under runs/.", autocompletion=known_runs),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
) -> None:
    """Remove what a run does not need any more: superseded stages, and what kills left."""
    from butwait.cli.runs import clean as clean_run

    clean_run(run, yes)


@_command()
def plan(
    recipe: Recipe,
    pilot: Annotated[
        int | None,
        typer.Option(min=2, help="Run so many problems of each search and evaluation for it."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--json", help="The whole plan, as JSON.")] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Where the run will live; runs/<recipe> by default.")
    ] = None,
    set_: Overrides = None,
) -> None:
    """Plan a recipe: memory, disk, tokens, hours, and the devices that it fits on."""
    from butwait.recipe.load import read_recipe
    from butwait.stages.kinds import STAGES

    loaded, _ = read_recipe(recipe, STAGES, set_ or ())
    from butwait.cli.plan import plan as plan_it

    plan_it(loaded, pilot, out, run_dir)


@_command()
def grade(
    jsonl: Annotated[Path, typer.Option(help="Lines or rows of {id, gold, pred}.")],
    out: Annotated[Path, typer.Option(help="Lines of {id, match, status} are written here.")],
) -> None:
    """Grade answers: is `pred` the same as `gold`?"""
    from butwait.cli.grade import grade as grade_file

    grade_file(jsonl, out)


# Their place in the help is here.
from butwait.cli.stored_stages import commands as _stored  # noqa: E402, F401


@_command("audit-prm")
def audit_prm(
    model: Annotated[
        Path | None,
        typer.Option(
            help="A trained reward model (RUN/STAGE), a YAML or JSON file of reward-model "
            "settings, or a recipe. Without it, the rewards that --trees recorded are audited."
        ),
    ] = None,
    processbench: Annotated[
        str | None,
        typer.Option(help="Solutions with labelled errors: JSONL, Parquet, or Qwen/ProcessBench."),
    ] = None,
    trees: Annotated[Path | None, typer.Option(help="RUN/STAGE of a search stage.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="A random subset of this many solutions and trees.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="A step with a lower probability is called wrong.")
    ] = 0.5,
    step_end: Annotated[
        str, typer.Option(help="Text between the steps of labelled solutions; \\n is a line break.")
    ] = "\\n\\n",
    out: Annotated[Path | None, typer.Option(help="All figures, as JSON.")] = None,
) -> None:
    """Measure how far a reward model can be trusted."""
    from butwait.cli.audit_prm import audit_prm as audit

    end = step_end.replace("\\n", "\n")
    audit(model, processbench, trees, limit, threshold, end, out)


@_command()
def profile(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="RUN/STAGE, a table (.jsonl, .csv, .parquet, ...), or owner/name; or NAME=one."
        ),
    ],
    column: Annotated[
        str | None, typer.Option(help="The column of a file's solutions; found if none.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Lengths are in its tokens: a folder or a model's name.")
    ] = None,
    patterns: Annotated[
        Path | None, typer.Option(help="Phrases to count, as YAML, in place of the shipped ones.")
    ] = None,
    step_end: Annotated[
        str, typer.Option(help="Text between steps; \\n is a line break.")
    ] = "\\n\\n",
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    out: Annotated[Path | None, typer.Option(help="All figures, as JSON.")] = None,
    html: Annotated[Path | None, typer.Option(help="A page with plots.")] = None,
) -> None:
    """Show what sets of solutions look like; the first is the baseline of the others."""
    from butwait.cli.profile import ProfileOptions
    from butwait.cli.profile import profile as show_profile

    end = step_end.replace("\\n", "\n")
    show_profile(ProfileOptions(sources, column, tokenizer, patterns, end, seed), out, html)


@_command()
def plateau(
    log: Annotated[
        Path,
        typer.Argument(
            help="trainer_state.json, .jsonl, .csv, TensorBoard events, or the folder of one."
        ),
    ],
    column: Annotated[str, typer.Option(help="The column whose trend is tested.")] = "reward",
    step_column: Annotated[
        str | None, typer.Option(help="The column of steps; found if none.")
    ] = None,
    horizon: Annotated[float, typer.Option(help="Steps ahead that count.")] = 100,
    delta: Annotated[
        float, typer.Option(help="The improvement over them that is worth going on for.")
    ] = 0.02,
    window: Annotated[
        float | None, typer.Option(help="Steps of the shortest window; the horizon if none.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of a whole run, over all looks.")] = 0.95,
    start: Annotated[float, typer.Option(help="Values up to this step are left out.")] = 0,
    lower_is_better: Annotated[
        bool, typer.Option("--lower-is-better", help="For a loss: the curve should fall.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--json", help="All figures, as JSON.")] = None,
) -> None:
    """Replay the plateau rule on a training's log: where would it have stopped the run?"""
    from butwait.cli.plateau import plateau as replay

    settings = {
        "horizon": horizon,
        "delta": delta,
        "window": window,
        "confidence": confidence,
        "start": start,
    }
    replay(log, column, step_column, lower_is_better, settings, out)


@_command()
def recipes() -> None:
    """List the shipped recipes."""
    from butwait.recipe.shipped import shipped_recipes

    for name, path in shipped_recipes().items():
        comment = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        typer.echo(f"{name:24}{comment}")


def main() -> None:
    """Entry point: a user's mistake is one sentence on stderr and exit code 2; several are a line
    each."""
    from butwait.running.terminal import forgive_streams

    forgive_streams()
    run_to_end(partial(app, prog_name="butwait"))  # by whatever name: completion is for this one

"""The command line. Heavy imports stand inside the commands, so that ``--help`` is instant."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from butwait.records.errors import UserError

app = typer.Typer(
    name="butwait",
    help="Teach a small language model to reason from its own search.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped recipe.")],
    run_dir: Annotated[
        Path | None, typer.Option(help="Where the run lives; runs/<recipe> by default.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Override a key of the recipe; repeatable."),
    ] = None,
) -> None:
    """Run a recipe's stages, or go on where a stopped run was."""
    from butwait.pipeline.run import run_recipe
    from butwait.recipe.load import load_recipe

    loaded = load_recipe(recipe, set_ or ())
    try:
        run_recipe(loaded, run_dir or Path("runs") / loaded.name)
    except KeyboardInterrupt:
        print("\nbutwait: stopped; the same command goes on where it was", file=sys.stderr)
        raise typer.Exit(130) from None


@app.command()
def grade(
    jsonl: Annotated[Path, typer.Option(help="Lines of {id, gold, pred}.")],
    out: Annotated[Path, typer.Option(help="Lines of {id, match, status} are written here.")],
) -> None:
    """Grade answers: is `pred` the same as `gold`?"""
    from butwait.cli.grade import grade as grade_file

    grade_file(jsonl, out)


@app.command()
def trees(
    path: Annotated[Path, typer.Argument(help="RUN/STAGE, the folder of a search stage.")],
    problem: Annotated[
        str | None,
        typer.Option(help="Id of the problem whose tree is shown; the first if none."),
    ] = None,
) -> None:
    """Summarise a search stage and show one of its trees."""
    from butwait.cli.trees import trees as show_trees

    show_trees(path, problem)


@app.command()
def recipes() -> None:
    """List the shipped recipes."""
    from butwait.recipe.load import shipped_recipes

    for name, path in shipped_recipes().items():
        comment = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        typer.echo(f"{name:24}{comment}")


def main() -> None:
    """Entry point: a user's mistake is one sentence on stderr and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"butwait: {error}", file=sys.stderr)
        sys.exit(2)

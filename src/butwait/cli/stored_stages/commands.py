"""``butwait trees``, ``attempts`` and ``examples``, as the command line has them."""

from pathlib import Path
from typing import Annotated

import typer

from butwait.cli.commands import AsJson, command


@command()
def trees(
    path: Annotated[
        Path | None,
        typer.Argument(help="RUN/STAGE of a search; without, or RUN: a list of those there are."),
    ] = None,
    problem: Annotated[
        str | None,
        typer.Option(help="Id of the problem whose tree is shown; the first if none."),
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(help="Trees with such a final particle: correct, wrong, ...; or extinct."),
    ] = None,
    wrong: Annotated[
        bool, typer.Option("--wrong", help="Trees without a right final particle.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="All trees, one below another.")
    ] = False,
    as_json: AsJson = False,
    parquet: Annotated[
        Path | None, typer.Option(help="A Parquet file for a flat table, a row a node.")
    ] = None,
) -> None:
    """Summarise a search stage and show its trees."""
    from butwait.cli.trees import Choice
    from butwait.cli.trees import trees as show_trees

    show_trees(path, Choice(problem, status, wrong, everything), as_json, parquet)


@command()
def attempts(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="RUN/STAGE of an evaluation; without, or RUN: a list of those there are."
        ),
    ] = None,
    problem: Annotated[str | None, typer.Option(help="Id of the problem.")] = None,
    status: Annotated[
        str | None,
        typer.Option(help="correct, wrong, no_answer, truncated or ungradable."),
    ] = None,
    wrong: Annotated[bool, typer.Option("--wrong", help="All that count as not solved.")] = False,
    set_: Annotated[str | None, typer.Option("--problems", help="One problem set only.")] = None,
    method: Annotated[str | None, typer.Option(help="One method only.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All texts.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what an evaluation's model wrote; a list of its questions if nothing is chosen."""
    from butwait.cli.stored_stages.attempts import Choice
    from butwait.cli.stored_stages.attempts import attempts as show_attempts

    show_attempts(path, Choice(problem, status, wrong, set_, method, everything), as_json)


@command()
def examples(
    path: Annotated[
        Path | None,
        typer.Argument(help="RUN/STAGE of training data; without, or RUN: a list of those."),
    ] = None,
    problem: Annotated[str | None, typer.Option(help="Id of the problem.")] = None,
    role: Annotated[
        str | None, typer.Option(help="Those with such a span: mistake, doubt, recovery, ...")
    ] = None,
    wrong: Annotated[bool, typer.Option("--wrong", help="Those with a mistake in them.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="All texts.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show training examples, their spans and what carries loss; a list if nothing is chosen."""
    from butwait.cli.stored_stages.examples import examples as show_examples

    show_examples(path, problem, role, wrong, everything, as_json)

"""``compare``, ``import``, ``export`` and ``plan-eval``, as ``butwait --help`` tells them."""

from pathlib import Path
from typing import Annotated

import typer

from butwait.cli.commands import command


@command()
def compare(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="A B ...",
            help="Runs, RUN/STAGE, seeds (RUN/ARM, or STAGE,STAGE), or stored logs of lm-eval, "
            "lighteval or inspect; the first is the baseline.",
        ),
    ],
    row: Annotated[
        str | None, typer.Option(help="SET/METHOD, where a side evaluated several.")
    ] = None,
    common: Annotated[
        bool, typer.Option("--common", help="Compare the questions that all sides have.")
    ] = False,
    margin: Annotated[
        float | None,
        typer.Option(help="Points of a loss that do not matter: is there none beyond?"),
    ] = None,
    theirs: Annotated[
        bool, typer.Option("--theirs", help="Take the verdicts of logs; they are graded if not.")
    ] = False,
    scorer: Annotated[
        str | None, typer.Option(help="Whose verdicts --theirs takes, of several.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--json", help="All figures, as JSON.")] = None,
    html: Annotated[Path | None, typer.Option(help="All of it as a page.")] = None,
) -> None:
    """Compare evaluations question by question: is it a difference?"""
    from butwait.cli.evaluations.compare import CompareOptions
    from butwait.cli.evaluations.compare import compare as compare_them

    options = CompareOptions(sources, row, common, theirs, scorer, margin)
    compare_them(options, out, html)


@command("import")
def import_stage(
    log: Annotated[
        Path, typer.Argument(help="A log of lm-eval, lighteval or inspect, or the folder of one.")
    ],
    out: Annotated[Path, typer.Option(help="RUN/STAGE that is made of it.")],
    set_name: Annotated[
        str | None, typer.Option("--set", help="What the questions are called; the task if none.")
    ] = None,
    theirs: Annotated[
        bool, typer.Option("--theirs", help="Keep the log's verdicts; it is graded if not.")
    ] = False,
    scorer: Annotated[
        str | None, typer.Option(help="Whose verdicts --theirs keeps, of several.")
    ] = None,
) -> None:
    """Make an evaluate stage of a stored log, graded as butwait grades."""
    from butwait.cli.evaluations.import_log import import_stored

    import_stored(log, out, set_name, theirs, scorer)


@command()
def export(
    stage: Annotated[Path, typer.Argument(help="RUN/STAGE, a finished evaluation.")],
    row: Annotated[
        str | None, typer.Option(help="SET/METHOD, where the stage has several.")
    ] = None,
    inspect: Annotated[
        Path | None, typer.Option(help="Verdicts for inspect's precomputed_scores: .jsonl.")
    ] = None,
    hub: Annotated[
        Path | None, typer.Option(help="The rate for a model's .eval_results on the hub: .yaml.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="The data set's id on the hub, which --hub needs.")
    ] = None,
    task: Annotated[str, typer.Option(help="The task's id in that data set.")] = "default",
) -> None:
    """Write an evaluation as inspect and the hub take it."""
    from butwait.cli.evaluations.export import export as export_it

    export_it(stage, row, inspect, hub, dataset, task)


@command("plan-eval")
def plan_eval(
    problems: Annotated[
        str, typer.Option(help="A set (aime24, ...), a file of problems, or a number of them.")
    ],
    detect: Annotated[float, typer.Option(help="Points of a true gain that should be found.")],
    pilot: Annotated[
        list[str] | None,
        typer.Option(help="RUN/STAGE or a log that shows the noise; two show how gains vary."),
    ] = None,
    row: Annotated[
        str | None, typer.Option(help="SET/METHOD of the pilots, where they have several.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Percent solved, where there is no pilot.")] = 30,
    spread: Annotated[
        float | None,
        typer.Option(help="Points by which true gains vary over questions; 10 if none."),
    ] = None,
    power: Annotated[float, typer.Option(help="Percent of runs that should find it.")] = 80,
    checkpoints: Annotated[
        int, typer.Option(min=1, help="So many are tried, and the best is compared.")
    ] = 1,
    margin: Annotated[
        float | None, typer.Option(help="Points: plan a claim that no more than these is lost.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--json", help="All figures, as JSON.")] = None,
) -> None:
    """Plan an evaluation: how many questions and samples find a gain."""
    from butwait.cli.evaluations.plan_eval import PlanOptions
    from butwait.cli.evaluations.plan_eval import plan_eval as plan_it

    options = PlanOptions(
        problems, detect, pilot or (), rate, spread, power, checkpoints, margin, row
    )
    plan_it(options, out)

"""What all commands share: the application, and how loud one is."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from inspect import Parameter, signature
from typing import Annotated, Any

import typer

from butwait.cli.completion import overrides

app = typer.Typer(
    name="butwait",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Verbose = Annotated[
    bool,
    typer.Option("-v", "--verbose", help="Also what libraries say, choices of engines, timings."),
]
Quiet = Annotated[
    bool, typer.Option("-q", "--quiet", help="Only warnings, mistakes and what comes out.")
]


RewardModelOption = Annotated[
    str | None,
    typer.Option(help="Its settings as YAML: '{kind: qwen_math_prm, name: ...}', or a kind."),
]
ServerOption = Annotated[
    str | None,
    typer.Option(help="The model runs there: an OpenAI-compatible address, with /v1."),
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, nothing else.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="A.B=C",
        help="Override a key of the recipe; repeatable.",
        autocompletion=overrides,
    ),
]


def loud(verbose: bool, quiet: bool) -> AbstractContextManager[None]:
    """As loud as asked for; as it was where nothing is."""
    from butwait.records import UserError
    from butwait.running.terminal import loud_from

    if verbose and quiet:
        raise UserError("--verbose and --quiet are opposites; give one of them")
    if not verbose and not quiet:
        return nullcontext()
    return loud_from(logging.DEBUG if verbose else logging.WARNING)


def command(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command that takes ``-v`` and ``-q`` too."""

    def named(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def louder(*, verbose: bool, quiet: bool, **given: Any) -> None:
            with loud(verbose, quiet):
                function(**given)

        added = {"verbose": Verbose, "quiet": Quiet}
        parameters = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=False, annotation=kind)
            for name, kind in added.items()
        ]
        own = signature(function)
        louder.__signature__ = own.replace(  # type: ignore[attr-defined]
            parameters=[*own.parameters.values(), *parameters]
        )
        louder.__annotations__ = function.__annotations__ | added
        app.command(*names)(louder)
        return function

    return named

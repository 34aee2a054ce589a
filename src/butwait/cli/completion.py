"""What a shell completes. It waits for it at every press of a key, so nothing heavy is imported."""

import typer

from butwait.recipe.shipped import shipped_recipes


def shipped(incomplete: str) -> list[str]:
    """Names of shipped recipes. Where none begins so, the shell offers files."""
    return [name for name in shipped_recipes() if name.startswith(incomplete)]


def models(incomplete: str) -> list[str]:
    """Models that come with butwait, or from the package index."""
    return [name for name in ("tiny", "smollm2") if name.startswith(incomplete)]


def methods(incomplete: str) -> list[str]:
    """Names of samplers."""
    from butwait.search.settings import SAMPLERS

    return [name for name in SAMPLERS if name.startswith(incomplete)]


def runs(incomplete: str) -> list[str]:
    """Runs under ``runs/``, by their names. Where none begins so, the shell offers files."""
    from butwait.running.run_state import RUNS, runs_in

    return [run.name for run in runs_in(RUNS) if run.name.startswith(incomplete)]


def overrides(context: typer.Context, incomplete: str) -> list[str]:
    """What ``--set`` takes of the command's recipe: its keys, and the words that a key takes."""
    from butwait.recipe.load import settable
    from butwait.stages.kinds import STAGES

    # An option without its value is where the parser stops: words before it are left over.
    recipe = context.params.get("recipe") or next(iter(context.args), "")
    return settable(str(recipe), incomplete, STAGES)

"""Whole runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from butwait.pipeline.run import run_recipe
from butwait.recipe.load import checked_recipe, read_recipe
from butwait.stages.kinds import STAGES


def run(
    recipe: str | Path | Mapping[str, Any],
    run_dir: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """``butwait run``: runs the stages of a recipe that are not finished yet.

    Args:
        recipe: a file, the name of a shipped recipe, or the content of one.
        run_dir: where the run lives; ``runs/<name>`` by default.
        overrides: ``a.b=c`` words, as of ``--set``; not for a recipe that is given as its content.

    Returns:
        stage name -> its record: what its ``stage.json`` holds, ``metrics`` and ``cost`` in it.

    Raises:
        UserError: a mistake in the recipe, its data or its models, or a full disk. What was
            finished is kept.
    """
    if isinstance(recipe, Mapping):
        checked = checked_recipe({"name": "run", **recipe}, STAGES, "the recipe")
        return run_recipe(checked, Path(run_dir or Path("runs") / checked.name))
    checked, where = read_recipe(str(recipe), STAGES, overrides)
    return run_recipe(checked, Path(run_dir or Path("runs") / checked.name), where)

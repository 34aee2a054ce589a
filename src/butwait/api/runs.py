"""Whole runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from butwait.api.loops import one_run
from butwait.api.objects import plain
from butwait.pipeline.preflight import Where, nowhere
from butwait.pipeline.run import run_recipe
from butwait.recipe.load import checked_recipe, read_recipe
from butwait.records import UserError
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
    where: Where = nowhere
    if isinstance(recipe, Mapping):
        if overrides:
            raise UserError("run: overrides are for a recipe's file; change the mapping itself")
        content = plain({"name": "run", **recipe}, "", stored=True)
        checked = checked_recipe(content, STAGES, "the recipe")
    else:
        checked, where = read_recipe(str(recipe), STAGES, overrides)
    folder = Path(run_dir or Path("runs") / checked.name)
    return one_run(lambda: run_recipe(checked, folder, where))

"""Trees in memory, and how they become a stage on disk: in the place where the stage would have
written them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from butwait.api.finished import Finished, Searched
from butwait.api.growing import Call, made, run_of
from butwait.api.question import QUESTIONS, STAGE
from butwait.pipeline.identity import recorded_versions, stage_header
from butwait.recipe.recipe import Recipe
from butwait.records import Problem, SearchTree, UserError
from butwait.running.shards import ShardFormat, store_early
from butwait.running.stages import locked, open_stage
from butwait.search.storage import TIMINGS, read_shard, write_shard
from butwait.stages.problem_sets import load_problem_sets


class Grown(list[SearchTree]):
    """The trees of ``butwait.search``, which remember what grew them.

    Attributes:
        content: the recipe.
        problems: the questions, where no source has them.
        objects: what of it was an object, which no recipe can name.
    """

    def __init__(
        self,
        trees: Iterable[SearchTree],
        content: Mapping[str, Any],
        problems: Sequence[Problem] | None,
        objects: Sequence[str],
    ) -> None:
        super().__init__(trees)
        self.content, self.problems, self.objects = content, problems, objects


def stored(trees: Grown, run_dir: str | Path | Finished | None) -> Searched:
    """The search that grew these trees, as a stage of a run, which finds them there.

    Raises UserError where an object took part in it, trees were added or removed, or the run has
    another search of this name: the name is a part of the seed.
    """
    if trees.objects:
        raise UserError(
            f"build: {' and '.join(trees.objects)} of this search cannot be written into a recipe, "
            "which a stage on disk needs; give what a recipe can name"
        )
    asked = dict(trees.content["problems"][QUESTIONS])
    problems: Any = asked if trees.problems is None else list(trees.problems)
    kept = {"kind", "problems"}
    settings = {k: v for k, v in trees.content["stages"][STAGE].items() if k not in kept}
    shared = {k: v for k, v in trees.content.items() if k in ("model", "seed", "prompt", "engine")}
    by_id = {tree.problem_id: tree for tree in trees}

    def fill(recipe: Recipe, run: Path, name: str) -> None:
        if name != STAGE:
            raise UserError(f"build: {run} has another search already; give another run_dir")
        with locked(run):
            sets = load_problem_sets(recipe, run / "problems", say=lambda line: None)
            stage = open_stage(run, stage_header(recipe, name, sets, {}, recorded_versions()))
            whole = sets[recipe.stages[name].problem_sets[0]].problems
            if [problem.id for problem in whole] != list(by_id):
                raise UserError("build: these are not the trees of the whole search, in its order")
            if not stage.complete:
                format = ShardFormat(write_shard, read_shard, aside=TIMINGS)
                store_early(list(by_id.values()), format, stage.path / "trees")

    call = Call(
        function="build",
        kind=STAGE,
        settings=settings,
        problems=problems,
        shared=shared,
        begun=shared,
        run_dir=run_of(run_dir, []) if run_dir is None else run_dir,
    )
    return cast(Searched, made(replace(call, prepare=fill)))

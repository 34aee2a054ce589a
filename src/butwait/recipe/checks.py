"""What must hold between the stages of a recipe; each fault is one sentence."""

from typing import TYPE_CHECKING

from butwait.recipe.stages import (
    NEEDS,
    PROVIDES,
    TAKES,
    AnyStage,
    EvaluateStage,
    ProfileStage,
    ReinforcementStage,
    ReportStage,
    SearchStage,
    SftStage,
)
from butwait.synthesis.settings import DataSettings, SecondThoughtsSettings, SubsetSettings

if TYPE_CHECKING:
    from butwait.recipe.recipe import Recipe


def check(recipe: "Recipe") -> None:
    """Whether all names are known and every stage takes what it can and needs.

    Raises:
        ValueError: the first fault.
    """
    for name, stage in recipe.stages.items():
        if not name.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"stage name {name!r} may hold letters, digits, - and _ only")
        _check_inputs(recipe, name, stage)
        _check_particulars(recipe, name, stage)
        for used in stage.problem_sets:
            if used not in recipe.problems:
                raise ValueError(
                    f"stage {name!r} uses the problem set {used!r}, which `problems` lacks "
                    f"(it has: {', '.join(recipe.problems)})"
                )
    recipe.order()
    _check_splits(recipe)


def _check_splits(recipe: "Recipe") -> None:
    tests, choosing = set(recipe.sets_of("evaluate")), set(recipe.selection_sets())
    training = set(recipe.training_sets())
    for these, those, what in (
        (tests, training, "evaluation and for training or search"),
        (tests, choosing, "evaluation and for selection"),
        (choosing, training, "selection and for training or search"),
    ):
        if both := sorted(these & those):
            raise ValueError(
                f"the problem set {both[0]!r} is used for {what}; give each a set of its own"
            )


def _check_inputs(recipe: "Recipe", name: str, stage: AnyStage) -> None:
    for source in stage.from_:
        if source not in recipe.stages:
            raise ValueError(
                f"stage {name!r} takes from {source!r}, which is no stage "
                f"(there are: {', '.join(recipe.stages)})"
            )
        given = PROVIDES[recipe.stages[source].kind]
        if given not in TAKES[stage.kind]:
            raise ValueError(
                f"stage {name!r} ({stage.kind}) cannot take from {source!r}, which gives "
                f"{given}; it takes {', '.join(sorted(TAKES[stage.kind]))}"
            )
    gives = [PROVIDES[recipe.stages[source].kind] for source in stage.from_]
    needed = NEEDS.get(stage.kind)
    if needed and needed not in gives:
        raise ValueError(
            f"stage {name!r} ({stage.kind}) needs a stage that gives {needed} in `from`"
        )
    for single in ("model", "reward model"):
        if gives.count(single) > 1 and stage.kind != "report":
            raise ValueError(f"stage {name!r} takes from more than one {single} stage")


def _check_particulars(recipe: "Recipe", name: str, stage: AnyStage) -> None:
    if isinstance(stage, DataSettings):
        _check_data(recipe, name, stage)
    if isinstance(stage, ReinforcementStage):
        _check_subset(recipe, name, stage.subset)
    if isinstance(stage, ProfileStage):
        _check_profile(recipe, name, stage)
    if isinstance(stage, EvaluateStage) and stage.checkpoint is not None:
        _check_checkpoint(recipe, name, stage.checkpoint)
    if isinstance(stage, ReportStage):
        _check_published(recipe, name, stage)


def _check_checkpoint(recipe: "Recipe", name: str, epoch: int) -> None:
    trained = [recipe.stages[source] for source in recipe.inputs(name, "model")]
    if not any(isinstance(sft, SftStage) and sft.keeps(epoch) for sft in trained):
        raise ValueError(
            f"stage {name!r}: checkpoint: {epoch} needs an sft stage in `from` with "
            f"keep_epochs: true and at least {epoch} epochs (max_steps unset)"
        )


def _check_published(recipe: "Recipe", name: str, stage: ReportStage) -> None:
    reported = {
        f"{other.arm or source}/{problem_set}/{method}"
        for source in recipe.sources(name)
        if isinstance(other := recipe.stages[source], EvaluateStage)
        for problem_set in other.problems
        for method in other.methods
    }
    for key in stage.published:
        if key not in reported:
            raise ValueError(
                f"stage {name!r}: published names {key!r}, which it does not report "
                f"(it reports: {', '.join(sorted(reported)) or 'no evaluation'})"
            )


def _check_profile(recipe: "Recipe", name: str, stage: ProfileStage) -> None:
    if len(set(stage.sources)) < len(stage.sources):
        raise ValueError(f"stage {name!r}: sources names one twice; name each once")
    unused = [source for source in stage.from_ if source not in stage.sources]
    if unused:
        raise ValueError(
            f"stage {name!r} takes from {unused[0]!r}, which its `sources` lack; add it there "
            "or leave it out of `from`"
        )
    for used in stage.problem_sets:
        if used in recipe.stages and used not in recipe.problems:
            raise ValueError(
                f"stage {name!r}: the source {used!r} is a stage; add it to `from` too"
            )


def _check_subset(recipe: "Recipe", name: str, subset: SubsetSettings) -> None:
    trees, data = recipe.inputs(name, "trees"), recipe.inputs(name, "data")
    for rule, wanted, there in (
        ("solved_by", subset.solved_by, trees),
        ("same_questions_as", subset.same_questions_as, data),
    ):
        if wanted is not None and wanted not in there:
            what = "search" if there is trees else "data"
            raise ValueError(
                f"stage {name!r}: subset.{rule} names {wanted!r}, which is no {what} stage in "
                "its `from`"
            )
    if subset.solve_rate is not None and not trees:
        raise ValueError(f"stage {name!r}: subset.solve_rate needs a search stage in `from`")


def _check_data(recipe: "Recipe", name: str, stage: DataSettings) -> None:
    _check_subset(recipe, name, stage.subset)
    trees = recipe.inputs(name, "trees")
    for search in trees if isinstance(stage, SecondThoughtsSettings) else ():
        searched = recipe.stages[search]
        if isinstance(searched, SearchStage) and searched.sampler.kind != "but_wait":
            raise ValueError(
                f"stage {name!r} (but_wait) takes from {search!r}, whose sampler is "
                f"{searched.sampler.kind}; it needs a search with sampler.kind: but_wait"
            )

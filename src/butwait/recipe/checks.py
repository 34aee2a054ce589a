"""What must hold between the parts of a recipe, beside what each part's settings say."""

import re
from collections.abc import Iterator
from typing import Any

from butwait.recipe.misfits import LackingError, MisfitError
from butwait.recipe.stages import StageSettings
from butwait.reward_models.load import aggregates
from butwait.running.world import settings_in
from butwait.search.settings import CommonSettings

_NAME = re.compile(r"(?!\.)[^/\\\x00-\x1f]{1,200}")


def misfits(recipe: Any) -> Iterator[MisfitError]:
    """All that does not fit in a ``Recipe`` whose parts are valid by themselves."""
    yield from _names(recipe)
    for name, stage in recipe.stages.items():
        lacking = list(_unknown_inputs(recipe, name, stage))
        yield from lacking or _inputs(recipe, name, stage)
        own = [] if lacking else list(_own(recipe, name))
        yield from own
        yield from _doubled(recipe, name, stage)
        for used in stage.problem_sets:
            if used not in recipe.problems and not (own and used in recipe.stages):
                yield LackingError(
                    f"stage {name!r} uses the problem set {used!r}, which `problems` lacks",
                    ("stages", name, *_key_of(stage, used)),
                    used,
                    "problems",
                    recipe.problems,
                )
    yield from _circle(recipe)
    yield from _splits(recipe)


def _own(recipe: Any, name: str) -> Iterator[MisfitError]:
    """What the stage's kind finds."""
    try:
        for keys, told in recipe.kind(name).check(recipe, name) or ():
            yield MisfitError(told, ("stages", name, *keys))
    except ValueError as error:
        yield MisfitError(str(error), ("stages", name))
    except Exception as error:
        if ":" not in recipe.stages[name].kind:
            raise
        told = f"stage {name!r}: the check of its kind ends in {type(error).__name__} ({error})"
        yield MisfitError(f"{told}; mend {recipe.stages[name].kind}", ("stages", name, "kind"))


def _doubled(recipe: Any, name: str, stage: StageSettings) -> Iterator[MisfitError]:
    """Products of scores that are of whole paths already: n steps of 1/2 would count as 2 to the
    power of -n(n+1)/2."""
    judge = getattr(stage, "reward_model", None)
    if judge is None or not aggregates(judge) or _trained(recipe, stage):
        return
    for place, held in settings_in(stage, ("stages", name), lambda place: False):
        if isinstance(held, CommonSettings) and getattr(held, "aggregation", None) == "prod":
            told = f"stage {name!r}: {held.kind} would multiply scores of whole paths, since the "
            told += f"reward model ({judge.kind}) puts the steps together already: set the "
            told += "sampler's aggregation to last, or the reward model's, where it has one"
            yield MisfitError(told, (*place, "aggregation"))


def _trained(recipe: Any, stage: StageSettings) -> bool:
    """Whether a stage takes its reward model from another one."""
    known = (source for source in stage.from_ if source in recipe.stages)
    return any(recipe.kind(source).gives == "reward model" for source in known)


def _names(recipe: Any) -> Iterator[MisfitError]:
    """Names become folders and files of the run, and parts of the keys in ``summary.json``."""
    stages = [n for n in recipe.stages if n.replace("_", "").replace("-", "").isalnum()]
    for name in recipe.stages:
        if name not in stages:
            told = f"stage name {name!r} may hold letters, digits, - and _ only"
            yield MisfitError(told, ("stages", name))
        if name.casefold() == "problems":
            told = f"a stage cannot be called {name!r}: the run has its questions there"
            yield MisfitError(told, ("stages", name))
    places: list[tuple[str, str, tuple[str, ...]]] = [("recipe", recipe.name, ("name",))]
    places += [("problem set", name, ("problems", name)) for name in recipe.problems]
    places += [("stage", name, ("stages", name)) for name in stages]
    for what, name, place in places:
        if not _NAME.fullmatch(name) or len(name.encode()) > 200:
            yield MisfitError(
                f"{what} name {name!r} cannot name a file: it needs 1 to 200 characters, no "
                "slash or control character, and no dot at its beginning",
                place,
            )


def _splits(recipe: Any) -> Iterator[MisfitError]:
    tests, choosing, training = (
        set(recipe.sets_for(use)) for use in ("test", "selection", "training")
    )
    for these, those, what in (
        (tests, training, "evaluation and for training or search"),
        (tests, choosing, "evaluation and for selection"),
        (choosing, training, "selection and for training or search"),
    ):
        for both in sorted(these & those):
            yield MisfitError(
                f"the problem set {both!r} is used for {what}; give each a set of its own",
                ("problems", both),
            )


def _unknown_inputs(recipe: Any, name: str, stage: StageSettings) -> Iterator[MisfitError]:
    for i, source in enumerate(stage.from_):
        if source not in recipe.stages:
            yield LackingError(
                f"stage {name!r} takes from {source!r}, which is no stage",
                ("stages", name, "from", i),
                source,
                "stages",
                recipe.stages,
            )


def _inputs(recipe: Any, name: str, stage: StageSettings) -> Iterator[MisfitError]:
    kind = recipe.kind(name)
    unfit = False
    for i, source in enumerate(stage.from_):
        given = recipe.kind(source).gives
        if given not in kind.takes and not (kind.takes_all and given != kind.gives):
            unfit = True
            yield MisfitError(
                f"stage {name!r} ({stage.kind}) cannot take from {source!r}, which gives "
                f"{given}; it takes {', '.join(sorted(kind.takes)) or 'nothing'}",
                ("stages", name, "from", i),
            )
    gives = [recipe.kind(source).gives for source in stage.from_]
    if kind.needs and kind.needs not in gives and not unfit:
        yield MisfitError(
            f"stage {name!r} ({stage.kind}) needs a stage that gives {kind.needs} in `from`",
            ("stages", name, "from"),
        )
    for single in ("model", "reward model"):
        if gives.count(single) > 1 and not kind.takes_all:
            told = f"stage {name!r} takes from more than one {single} stage"
            yield MisfitError(told, ("stages", name, "from"))


def _circle(recipe: Any) -> Iterator[MisfitError]:
    """Stages that take from each other."""
    waiting = {name: set(recipe.sources(name)) & set(recipe.stages) for name in recipe.stages}
    while ready := [name for name, sources in waiting.items() if not sources & set(waiting)]:
        for name in ready:
            del waiting[name]
    # What only waits for a circle is no part of it.
    while ends := [name for name in waiting if not any(name in s for s in waiting.values())]:
        for name in ends:
            del waiting[name]
    if waiting:
        told = f"these stages take from each other: {', '.join(waiting)}"
        yield MisfitError(told, ("stages", next(iter(waiting)), "from"))


def _key_of(stage: StageSettings, used: str) -> tuple[str | int, ...]:
    """The key of a stage that holds the name of a problem set."""
    for field in ("problems", "sources"):
        value = getattr(stage, field, None)
        if value == used:
            return (field,)
        if isinstance(value, tuple) and used in value:
            return (field, value.index(used))
    selection = getattr(stage, "selection", None)
    return ("selection", "problems") if selection is not None else ()

"""Stages with ``seeds``: one that is written once and runs several times.

``sft: {kind: sft, seeds: 5}`` stands for the stages ``sft-1`` to ``sft-5``. A stage's seed follows
from its name, so they differ in that alone. Whatever takes from them is repeated with them, number
by number, and may say so with the same ``seeds``; a report and a profile take from all of them.
"""

from collections.abc import Mapping
from typing import Any

from butwait.recipe.misfits import MisfitError
from butwait.recipe.stages import StageKind
from butwait.records import UserError
from butwait.running.kinds import Kinds


def with_copies(content: Any, kinds: Kinds[StageKind]) -> Any:
    """A recipe's content with every stage that has ``seeds`` written out as its copies.

    The copies stand where the stage stood, without ``seeds`` and with ``arm``, the stage's name.
    ``seeds: 1`` changes nothing. What is no mapping of stages, or no whole number, is left for the
    recipe's own checks.

    Raises MisfitError where copies cannot be paired, or a copy's name is taken.
    """
    stages = content.get("stages") if isinstance(content, dict) else None
    if not isinstance(stages, dict) or not all(isinstance(s, dict) for s in stages.values()):
        return content
    gathering = {name for name, stage in stages.items() if _gathers(stage, kinds)}
    number = {name: n for name in stages if (n := _copies(stages, name, (), gathering)) > 1}
    if not number:
        return content
    written: dict[str, Any] = {}
    for name, stage in stages.items():
        for new, copy in _written_out(name, stage, number, name in gathering):
            if new in written or (new != name and new in stages):
                told = f"`seeds` of {name!r} makes a stage {new!r}, which there is"
                raise MisfitError(told, ("stages", new))
            written[new] = copy
    return content | {"stages": written}


def _gathers(stage: dict[str, Any], kinds: Kinds[StageKind]) -> bool:
    """Whether a stage looks at all copies together, and so has none itself."""
    kind = stage.get("kind", "")
    try:
        return kind in kinds and kinds[kind].gathers
    except UserError:  # told at its place
        return False


def _copies(
    stages: Mapping[str, Any], name: str, children: tuple[str, ...], gathering: set[str]
) -> int:
    """How many copies a stage has: its own ``seeds``, or those of what it takes from."""
    stage = stages[name]
    own, gathers = stage.get("seeds", 1), name in gathering
    # Mistakes that the recipe's checks name.
    if not isinstance(own, int) or own > 1000 or name in children:
        return 1
    if gathers and own > 1:
        told = f"stage {name!r} ({stage['kind']}) looks at all seeds; it has none itself"
        raise MisfitError(told, ("stages", name, "seeds"))
    above = {
        source: _copies(stages, source, (*children, name), gathering)
        for source in _listed(stage.get("from"))
        if source in stages and not gathers
    }
    several = {source: n for source, n in above.items() if n > 1}
    if own > 1:
        several[name] = own
    if len(set(several.values())) > 1:
        told = ", ".join(f"{source!r} has {n}" for source, n in several.items())
        told = f"stage {name!r} cannot pair the seeds it takes from: {told}"
        raise MisfitError(told, ("stages", name, "from"))
    return next(iter(several.values()), 1)


def _written_out(
    name: str, stage: dict[str, Any], number: Mapping[str, int], gathers: bool
) -> list[Any]:
    """(name, content) of each stage that this one stands for."""
    if gathers:
        lists = {key: stage[key] for key in ("from", "sources") if isinstance(stage.get(key), list)}
        return [(name, stage | {key: _all(names, number) for key, names in lists.items()})]
    if name not in number:
        return [(name, stage)]
    kept = {key: value for key, value in stage.items() if key != "seeds"}
    return [
        (_copy(name, i), kept | _numbered(stage, i, number) | {"arm": name})
        for i in range(1, number[name] + 1)
    ]


def _numbered(stage: dict[str, Any], i: int, number: Mapping[str, int]) -> dict[str, Any]:
    """What copy ``i`` takes from: the copies ``i``, in ``from`` and in ``subset``."""

    def own(name: Any) -> Any:
        return _copy(name, i) if isinstance(name, str) and name in number else name

    found: dict[str, Any] = {}
    if isinstance(stage.get("from"), list):
        found["from"] = [own(source) for source in stage["from"]]
    if isinstance(stage.get("subset"), dict):
        found["subset"] = {key: own(value) for key, value in stage["subset"].items()}
    return found


def _all(names: list[Any], number: Mapping[str, int]) -> list[Any]:
    """The names, and in place of one that has copies all of them."""
    found: list[Any] = []
    for name in names:
        copies = number.get(name, 0) if isinstance(name, str) else 0
        found += [_copy(name, i) for i in range(1, copies + 1)] or [name]
    return found


def _copy(name: str, i: int) -> str:
    return f"{name}-{i}"


def _listed(value: Any) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []

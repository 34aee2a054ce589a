"""What a stage that is computed anew has other than the one before it, for a line."""

from collections.abc import Iterator, Mapping
from typing import Any

from butwait.recipe.recipe import Recipe
from butwait.records.settings import Mark, Settings
from butwait.running.identity import marks
from butwait.running.stages import Stage

MOST = 5
"""Changes that are named."""
_SHARED = "recipe"
"""Key of the settings in ``stage.json`` under which those that all stages share stand."""


def told_anew(recipe: Recipe, stage: Stage) -> str:
    """A line about a stage that was opened in the place of another one; "" for any other."""
    if stage.earlier is None:
        return ""
    found = list(_changes(recipe, stage.record, stage.earlier.record))
    more = f" and {len(found) - MOST} more" if len(found) > MOST else ""
    what = f"{', '.join(found[:MOST])}{more} changed" if found else _UNKNOWN
    kept = f"{stage.earlier.path.parent.name}/{stage.earlier.path.name}"
    return f"{stage.path.name} is computed anew: {what}; the earlier one is kept in {kept}"


_UNKNOWN = "a file or function that it uses, or what came out of its inputs, changed"
"""Where all that a record names is as before."""


def _changes(recipe: Recipe, now: Mapping[str, Any], then: Mapping[str, Any]) -> Iterator[str]:
    """Settings, questions and inputs that are other ones."""
    name = str(now["name"])
    new, old = (dict(record.get("settings") or {}) for record in (now, then))
    shared, before = (dict(held.pop(_SHARED, None) or {}) for held in (new, old))
    yield from _differences(recipe.stages[name], new, old)
    yield from _differences({key: getattr(recipe, key) for key in shared}, shared, before)
    sets, known = (record.get("problem_sets") or {} for record in (now, then))
    for used in sets:
        if used in known and sets[used].get("fingerprint") != known[used].get("fingerprint"):
            yield f"the questions of {used}"
    inputs, earlier = (record.get("inputs") or {} for record in (now, then))
    yield from (f"its input {s}" for s in inputs if s in earlier and inputs[s] != earlier[s])


def _differences(settings: Any, new: Any, old: Any, above: str = "") -> Iterator[str]:
    """Dotted keys at which two mappings differ, without those that are no part of a result.

    ``settings``: those that the new mapping was made from.
    """
    for key in dict.fromkeys([*new, *old]):
        if new.get(key) == old.get(key):
            continue
        if isinstance(settings, Settings):
            own = marks(type(settings))
            if own.get(key) in (Mark.RESOURCE, Mark.SHAPE):
                continue
            below = getattr(settings, key, None)
        else:
            below = settings.get(key) if isinstance(settings, Mapping) else None
        place = f"{above}{key}"
        if isinstance(new.get(key), dict) and isinstance(old.get(key), dict):
            yield from _differences(below, new[key], old[key], f"{place}.")
        else:
            yield place

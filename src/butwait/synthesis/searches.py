"""What a search cannot give to data, as far as the settings of its sampler tell: it is said before
the search, and not after hours of it. Imports nothing heavy."""

from collections.abc import Callable, Iterator
from typing import Any

from butwait.records.settings import Unfit
from butwait.search.settings import SAMPLERS, CommonSettings
from butwait.synthesis.settings import DataSettings

Lacks = Callable[[CommonSettings], str | None]
"""Of a sampler's settings, why its trees hold nothing of a kind and what to do, to stand after
"whose"; None where they may hold some."""


def unfit(
    recipe: Any, name: str, settings: DataSettings, lacks: Lacks, key: str = "from"
) -> Iterator[Unfit]:
    """The searches that a data stage takes from for nothing.

    Args:
        recipe, name, settings: as of ``Builder.check``.
        lacks: what it needs.
        key: the setting that asks for it.
    """
    for search in recipe.inputs(name, "trees"):
        sampler = getattr(recipe.stages[search], "sampler", None)
        if sampler is not None and (why := lacks(sampler)) is not None:
            yield (key,), f"stage {name!r} ({settings.kind}) takes from {search!r}, whose {why}"


def no_rewards(sampler: CommonSettings) -> str | None:
    """Rewards, by which solutions are chosen (``Lacks``)."""
    if SAMPLERS.of(sampler).needs_reward_model:
        return None
    told = f"sampler {sampler.kind} asks for no rewards, which choose: reward goes by; choose "
    return told + "random, shortest, median, longest or diverse"


def no_other_path(sampler: CommonSettings) -> str | None:
    """Paths beside a correct one (``Lacks``)."""
    kind = SAMPLERS.of(sampler)
    paths = kind.paths(sampler) or getattr(sampler, "samples", None)
    if paths != 1 or kind.second_thoughts:  # each of several thoughts is a path
        return None
    return f"sampler {sampler.kind} draws one path of a question; it needs wrong ones beside it"


def no_branches(sampler: CommonSettings) -> str | None:
    """Branches that leave a correct path and go on for a while (``Lacks``)."""
    step = sampler.step
    parted = step.delimiters or step.sentences or step.think_end or step.max_step_tokens
    if parted or SAMPLERS.of(sampler).second_thoughts:
        return no_other_path(sampler)
    return "paths are one step, which no branch can leave; give its sampler step.delimiters"


def no_second_thoughts(sampler: CommonSettings) -> str | None:
    """Paths that were made to think again (``Lacks``)."""
    if not SAMPLERS.of(sampler).second_thoughts:
        told = f"sampler is {sampler.kind}; it needs a search with sampler.kind"
        return f"{told}: {forcing()}"
    if getattr(sampler, "rounds", None) == 1:
        return "paths end with their first thought; set its sampler.rounds to 2 or more"
    return None


def forcing() -> str:
    """The samplers that make paths think again, for a sentence."""
    return " | ".join(kind for kind in SAMPLERS if SAMPLERS[kind].second_thoughts)

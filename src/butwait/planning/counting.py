"""The work of a whole recipe, and what the counts rest on."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from butwait.evaluation.settings import EvaluateSettings
from butwait.planning.drawing import evaluate, search
from butwait.planning.learning import data, grpo, prm, sft
from butwait.planning.work import PATH_SHARE, SEARCHED, SHARED, Counting, Work
from butwait.stages.kinds.search import SearchStage
from butwait.training.grpo.settings import GrpoDirectSettings, GrpoSettings
from butwait.training.settings import PrmSettings, SftSettings

_OF: tuple[tuple[type, Callable[[Counting, str, Any], Work]], ...] = (
    (SearchStage, search),
    (EvaluateSettings, evaluate),
    (PrmSettings, prm),
    (SftSettings, sft),
    (GrpoSettings, grpo),
)
"""Settings of stages, of butwait's kinds or of one's own that are made of them, and what counts
their work."""


def count_stages(
    recipe: Any, context: int | None = None, path_shares: Mapping[str, float] | None = None
) -> dict[str, Work]:
    """Stage name -> its work, in the order in which stages run.

    Args:
        recipe: a ``Recipe``.
        context: positions of the policy; None: not known.
        path_shares: by the stage: of a path's limit, what its paths were measured to take.
    """
    c = Counting(recipe, context, path_shares or {})
    for name in recipe.order():
        stage = recipe.stages[name]
        count = next((own for settings, own in _OF if isinstance(stage, settings)), None)
        if count is None:
            count = data if recipe.kind(name).gives == "data" else _nothing
        c.done[name] = count(c, name, stage)
    return c.done


def assumptions(
    recipe: Any, works: Mapping[str, Work], measured: Mapping[str, float]
) -> Iterator[str]:
    """What the counts rest on, as sentences."""
    if not measured:
        yield f"an average path takes {PATH_SHARE:.0%} of its limit"
    else:
        yield "paths are as long as the pilot's"
    if any(work.drawing and work.drawing.shared for work in works.values()):
        yield f"paths of a search share {SHARED:.0%} of what they hold"
    if any(isinstance(stage, GrpoDirectSettings) for stage in recipe.stages.values()):
        yield f"GRPO-Direct searches {SEARCHED:.0%} of its questions while it searches"
    yield from dict.fromkeys(told for work in works.values() for told in work.assumed)


def _nothing(c: Counting, name: str, stage: Any) -> Work:
    return Work()

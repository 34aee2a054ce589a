"""A reward model of a user's own, which may fail in ways that butwait cannot know."""

import math
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

from butwait.records import Problem
from butwait.reward_models.reward_model import MAX_LOGIT, Path, RewardModel, Score
from butwait.reward_models.scripted import ScriptedRewardModel
from butwait.running.plugins import calling, own_class, wrong


def load_plugin_model(name: str, load: Callable[..., Any], *args: Any) -> RewardModel:
    """The reward model that a user's own function loads. UserError where it fails or gives none."""
    with calling(name, "its start"):
        model = load(*args)
    if not callable(getattr(model, "score", None)):
        raise wrong(name, "its start", model, "a reward model, which has score")
    return PluginRewardModel(name, model)


def watched(model: RewardModel) -> RewardModel:
    """A reward model as it is, or one of a program's own with what it says looked at."""
    name = own_class(model, ScriptedRewardModel)
    return model if name is None else PluginRewardModel(name, model)


class PluginRewardModel:
    """What a user's own reward model raises, and what is no score, is a UserError. Logits are
    clipped as those of all others. One that has nothing to free needs no ``release`` and no
    ``close``.

    Args:
        name: of the plugin, as in the recipe, or of its class.
        model: what it loaded.
    """

    def __init__(self, name: str, model: Any) -> None:
        self._name, self._model = name, model
        self._clips = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    @property
    def clipped(self) -> int:
        """See ``RewardModel``."""
        with calling(self._name, "clipped"):
            return self._clips + int(self._model.clipped)

    async def score(self, problem: Problem, paths: Sequence[Path]) -> list[Score]:
        """See ``RewardModel``."""
        with calling(self._name, "score", awaited=True):
            scores = await self._model.score(problem, paths)
        if not isinstance(scores, Sequence) or len(scores) != len(paths):
            meant = f"a list of {len(paths)} Scores, one a path"
            raise wrong(self._name, "score", scores, meant)
        for score in scores:
            if not all(hasattr(score, part) for part in ("logit", "handle", "tokens")):
                raise wrong(self._name, "score", score, "a Score")
            if not _is_logit(score.logit) or not isinstance(score.tokens, Integral):
                raise wrong(self._name, "score", score, "a Score of a number and its tokens")
        # One's own class of scores may not know the last field.
        return [
            Score(
                self._bounded(float(s.logit)),
                s.handle,
                int(s.tokens),
                bool(getattr(s, "too_long", False)),
            )
            for s in scores
        ]

    def _bounded(self, logit: float) -> float:
        """Clipped, which is counted; an impossible path stays impossible."""
        if logit == -math.inf:
            return logit
        clipped = min(max(logit, -MAX_LOGIT), MAX_LOGIT)
        self._clips += clipped != logit
        return clipped

    def release(self, handles: Sequence[Any]) -> None:
        """See ``RewardModel``."""
        if hasattr(self._model, "release"):
            with calling(self._name, "release"):
                self._model.release(handles)

    async def close(self) -> None:
        """See ``RewardModel``."""
        if hasattr(self._model, "close"):
            with calling(self._name, "close", awaited=True):
                await self._model.close()


def _is_logit(value: Any) -> bool:
    """A number, and no infinite reward. Minus infinity makes a path impossible."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return False
    return not math.isnan(number) and number != math.inf and not isinstance(value, str)

"""A reward model of your own, from a function."""

from typing import Any, Literal

from butwait.records.settings import Content, Settings
from butwait.reward_models.load import Policy, RewardModelKind
from butwait.reward_models.reward_model import RewardModel
from butwait.running.plugins import load_plugin


class CustomSettings(Settings):
    """A reward model of your own."""

    kind: Literal["custom"]
    factory: Content[str]
    """``module:function`` of a function without arguments that returns a ``RewardModel``."""

    def look(self, world: Any) -> None:
        world.plugin(self.factory, "factory")


class _NothingToFree:
    """A reward model that has no ``close``."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    async def close(self) -> None:
        """See ``RewardModel.close``."""


def _load(settings: CustomSettings, policy_tokenizer: Any, policy: Policy | None) -> RewardModel:
    model = load_plugin(settings.factory, "reward_model.factory")()
    return model if hasattr(model, "close") else _NothingToFree(model)


CUSTOM = RewardModelKind(CustomSettings, _load)

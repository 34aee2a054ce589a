"""A reward model of your own, from a function."""

from typing import Any, Literal

from butwait.records.settings import Content, Settings
from butwait.reward_models.load import Policy, RewardModelKind
from butwait.reward_models.plugin import load_plugin_model
from butwait.reward_models.reward_model import RewardModel
from butwait.running.plugins import load_plugin


class CustomSettings(Settings):
    """A reward model of your own."""

    kind: Literal["custom"]
    factory: Content[str]
    """``module:function`` of a function without arguments that returns a ``RewardModel``."""

    def look(self, world: Any) -> None:
        world.plugin(self.factory, "factory")


def _load(settings: CustomSettings, policy_tokenizer: Any, policy: Policy | None) -> RewardModel:
    factory = load_plugin(settings.factory, "reward_model.factory")
    return load_plugin_model(settings.factory, factory)


CUSTOM = RewardModelKind(CustomSettings, _load)

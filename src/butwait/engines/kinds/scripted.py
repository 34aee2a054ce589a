"""A policy of its own, written down."""

from typing import Any, Literal

from butwait.engines.engine import Engine
from butwait.engines.load import EngineKind, start_plugin
from butwait.engines.settings import BaseEngineSettings, ModelSettings
from butwait.problems.settings import PromptSettings
from butwait.records.settings import Content
from butwait.running.plugins import load_plugin


class ScriptedSettings(BaseEngineSettings):
    """A policy that is written down: to try a recipe or a sampler without a model."""

    kind: Literal["scripted"]
    script: Content[str]
    """``module:function`` of a function without arguments that returns a ``ScriptedEngine``."""

    def look(self, world: Any) -> None:
        world.plugin(self.script, "script")


def _start(
    model: ModelSettings, tokenizer: Any, settings: ScriptedSettings, prompt: PromptSettings
) -> Engine:
    return start_plugin(settings.script, load_plugin(settings.script, "engine.script"))


SCRIPTED = EngineKind(ScriptedSettings, _start)

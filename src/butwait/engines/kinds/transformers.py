"""The in-process engine, on a ``transformers`` model."""

from typing import Any, Literal

from butwait.engines.engine import Engine
from butwait.engines.load import EngineKind
from butwait.engines.settings import ModelSettings, SlotSettings
from butwait.problems.settings import PromptSettings


class TransformersSettings(SlotSettings):
    """The in-process engine."""

    kind: Literal["transformers"] = "transformers"


def _start(
    model: ModelSettings, tokenizer: Any, settings: TransformersSettings, prompt: PromptSettings
) -> Engine:
    from butwait.engines.models import load_causal_lm
    from butwait.engines.transformers import TransformersEngine

    return TransformersEngine(load_causal_lm(model), tokenizer, settings, prompt)


TRANSFORMERS = EngineKind(TransformersSettings, _start)

"""The in-process engine, on a ``transformers`` model."""

from typing import Any, Literal

from butwait.engines.engine import Engine
from butwait.engines.load import EngineKind
from butwait.engines.settings import ModelSettings, SlotSettings
from butwait.problems.settings import PromptSettings
from butwait.running.devices import missing_device


class TransformersSettings(SlotSettings):
    """The in-process engine."""

    kind: Literal["transformers"] = "transformers"


def _start(
    model: ModelSettings, tokenizer: Any, settings: TransformersSettings, prompt: PromptSettings
) -> Engine:
    from butwait.engines.cache import layer_windows
    from butwait.engines.checkpoints.configs import is_stateful, text_config
    from butwait.engines.models import load_causal_lm, read_config
    from butwait.engines.transformers import TransformersEngine

    config = read_config(model)
    # Its layers are refused before gigabytes of weights are read.
    layer_windows(text_config(config), is_stateful(config))
    return TransformersEngine(load_causal_lm(model), tokenizer, settings, prompt)


TRANSFORMERS = EngineKind(
    TransformersSettings, _start, wrong_device=lambda settings, device: missing_device(device)
)

"""What reward models share of their settings. Imports nothing heavy."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from butwait.engines.settings import ModelSettings
from butwait.records.settings import Device, Result, Settings, Shape
from butwait.reward_models.load import REWARD_MODELS
from butwait.running.devices import DeviceName

SLOTS = 64
"""Where nothing says how many paths are in flight."""

Aggregation = Literal["prod", "min", "last", "model"]

RewardModelSettings = Annotated[SerializeAsAny[Settings], BeforeValidator(REWARD_MODELS.parse)]
"""Of any kind: its record tells which."""


class LocalModelSettings(Settings):
    """A reward model that runs in this process."""

    dtype: Result[Literal["float32", "bfloat16"]] = "float32"
    """Of its weights and arithmetic; scores are float32 in any case."""
    device: Device[DeviceName] = "auto"
    """``auto`` takes CUDA where there is one; else ``cpu``, ``cuda``, ``cuda:1``."""
    slots: Shape[Literal["auto"] | Annotated[int, Field(gt=0)]] = "auto"
    """Rows of the KV cache: the most paths whose scored part is kept at a time. A path that loses
    its row is run again from the start when it is scored next. ``auto``: one for every path that
    the stage has in flight; they share what they have in common, and those unused longest go where
    all together would take more than half of the device's free memory (of a CPU's a quarter). 64
    where the number of paths is not known, and in deterministic mode."""
    capacity: Result[Annotated[int, Field(gt=0)] | None] = None
    """Tokens per row, prompt included; None: grows with the longest path."""
    prefill_chunk: Shape[Annotated[int, Field(gt=0)]] = 32
    """Tokens of a path that are run at a time; in deterministic mode best a little more than a
    step has."""
    deterministic: Result[bool] = False
    """Fixed shapes (all slots, ``capacity``, ``prefill_chunk``), so that a score does not depend on
    what shares the batch."""

    @model_validator(mode="before")
    @classmethod
    def _fixed(cls, given: Any) -> Any:
        """Deterministic mode must not depend on the memory of a machine."""
        if isinstance(given, dict) and given.get("deterministic") is True:
            return {
                **given,
                "slots": SLOTS if given.get("slots") in (None, "auto") else given["slots"],
            }
        return given

    def look(self, world: Any) -> None:
        world.device(self.device, "device")

    def checkpoint(self, name: str, revision: str | None = None) -> ModelSettings:
        """A model of the hub or a folder, run as these settings say."""
        return ModelSettings(name=name, revision=revision, dtype=self.dtype, device=self.device)

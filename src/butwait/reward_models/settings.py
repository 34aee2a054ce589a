"""What a reward model takes. Imports nothing heavy."""

from typing import Annotated, Literal

from pydantic import Field

from butwait.records.settings import Settings

Aggregation = Literal["prod", "min", "last", "model"]


class _LocalModel(Settings):
    """A reward model that runs in this process."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of its weights and arithmetic; scores are float32 in any case."""
    device: str = "auto"
    """``auto`` takes CUDA where there is one; else ``cpu``, ``cuda``, ``cuda:1``."""
    slots: Annotated[int, Field(gt=0)] = 64
    """Rows of the KV cache: the most paths whose scored part is kept at a time. A path that loses
    its row is run again from the start when it is scored next."""
    capacity: Annotated[int, Field(gt=0)] | None = None
    """Tokens per row, prompt included; None: grows with the longest path."""
    prefill_chunk: Annotated[int, Field(gt=0)] = 32
    """Tokens of a path that are run at a time; in deterministic mode best a little more than a
    step has."""
    deterministic: bool = False
    """Fixed shapes (all slots, ``capacity``, ``prefill_chunk``), so that a score does not depend on
    what shares the batch."""


class TrainedSettings(_LocalModel):
    """A reward model made by a stage of kind ``prm``."""

    kind: Literal["trained"] = "trained"
    model: str
    """Folder of the checkpoint (``RUN/STAGE/model``)."""


class QwenMathPrmSettings(_LocalModel):
    """Qwen2.5-Math-PRM (Zhang et al. 2025, arXiv:2501.07301) and others of its architecture."""

    kind: Literal["qwen_math_prm"] = "qwen_math_prm"
    name: str = "Qwen/Qwen2.5-Math-PRM-7B"
    """A Hugging Face id (``Qwen/Qwen2.5-Math-PRM-72B``) or a folder."""
    revision: str | None = None
    """Commit of a Hugging Face id; pin it for a run to be repeatable."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of its weights and arithmetic; the published weights are bfloat16."""
    aggregation: Aggregation = "model"
    """One score from many steps: their product, their minimum, the last one; or ``model``: the
    whole path is shown as a single step (best in arXiv:2502.01618)."""


class CustomSettings(Settings):
    """A reward model of your own."""

    kind: Literal["custom"]
    factory: str
    """``module:function`` of a function without arguments that returns a ``RewardModel``."""


RewardModelSettings = Annotated[
    TrainedSettings | QwenMathPrmSettings | CustomSettings, Field(discriminator="kind")
]

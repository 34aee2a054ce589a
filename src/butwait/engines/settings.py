"""What an engine takes. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from butwait.records.settings import Settings


class Sampling(Settings):
    """How tokens are drawn from the policy."""

    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Divides the logits; 0 is greedy decoding."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus: the smallest set of tokens whose probability reaches this."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Keep the k likeliest tokens; 0 keeps all."""


class StepRule(Settings):
    """Where a step of reasoning ends, and where a path must."""

    delimiters: tuple[str, ...] = ("\n\n",)
    """A step ends with the token that completes one of these; none: the path is one step."""
    max_step_tokens: Annotated[int, Field(gt=0)] | None = None
    """Tokens after which a step is cut (finish ``step_limit``); None: no limit of its own."""
    max_tokens: Annotated[int, Field(gt=0)] = 2048
    """Tokens of a whole completion; a path that reaches it ends truncated (finish ``length``)."""
    stop_at_box: bool = True
    r"""End the path when a ``\boxed{...}`` outside ``<think>`` closes (finish ``box``). It holds
    for every method, base evaluation included."""


class ModelSettings(Settings):
    """A language model and how it is run."""

    name: str
    """``tiny`` (ships with the package), ``smollm2``, a Hugging Face id, or a folder."""
    revision: str | None = None
    """Commit of a Hugging Face id; pin it for a run to be repeatable."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = "auto"
    """``auto`` takes CUDA where there is one; else ``cpu``, ``cuda``, ``cuda:1``."""


class TransformersSettings(Settings):
    """The in-process engine."""

    kind: Literal["transformers"] = "transformers"
    slots: Annotated[int, Field(gt=0)] = 64
    """Rows of the KV cache: the most paths that are in flight or parked at once."""
    capacity: Annotated[int, Field(gt=0)] | None = None
    """Tokens per row, prompt included; None: what the prompt and the path's limit need."""
    prefill_chunk: Annotated[int, Field(gt=0)] = 64
    """Tokens of a prompt that are run at a time."""
    deterministic: bool = False
    """Fixed shapes (rows, capacity, chunk), so that a row's numbers do not depend on what shares
    the batch. Slower; its cost is measured in ``benchmarks/``."""


class ScriptedSettings(Settings):
    """A policy that is written down: to try a recipe or a sampler without a model."""

    kind: Literal["scripted"]
    script: str
    """``module:function`` of a function without arguments that returns a ``ScriptedEngine``."""


EngineSettings = Annotated[TransformersSettings | ScriptedSettings, Field(discriminator="kind")]

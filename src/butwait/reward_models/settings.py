"""What a reward model takes. Imports nothing heavy."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from butwait.engines.settings import ServerSettings
from butwait.problems.settings import PromptSettings
from butwait.records.settings import Settings

Aggregation = Literal["prod", "min", "last", "model"]


class LocalModelSettings(Settings):
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


class TrainedSettings(LocalModelSettings):
    """A reward model made by a stage of kind ``prm``."""

    kind: Literal["trained"] = "trained"
    model: str
    """Folder of the checkpoint (``RUN/STAGE/model``)."""


class QwenMathPrmSettings(LocalModelSettings):
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


class ClassifierSettings(LocalModelSettings):
    """Any public process reward model that is a decoder of transformers: a token or sequence
    classifier, or a language model that answers with a good or a bad token."""

    kind: Literal["classifier"]
    name: str
    """A Hugging Face id or a folder."""
    revision: str | None = None
    """Commit of a Hugging Face id; pin it for a run to be repeatable."""
    head: Literal["classes", "tokens"] = "classes"
    """``classes``: ``*ForTokenClassification`` or ``*ForSequenceClassification``; ``tokens``:
    ``*ForCausalLM``, whose next token is the judgement."""
    good: str | int | None = None
    """The class (name or index) or token (text) of a good step; None: the last class, where there
    are one or two."""
    bad: str | int | None = None
    """What it is weighed against; None: all other classes."""
    prompt: PromptSettings = PromptSettings(style="plain", template="{question}")
    """How the question is shown; by default it stands alone."""
    separator: str = "\n"
    """Text after each step; the score is read at its last token (at the step's own last token
    where it is empty)."""
    after: str = ""
    """Text after the score, before the next step."""
    aggregation: Literal["prod", "min", "last"] = "last"
    """One score from many steps: their product, their minimum, the last one."""


class ConfidenceSettings(LocalModelSettings):
    """The policy's own confidence in its path, without a reward model.

    The logit is ``scale`` x (measure - ``centre``).
    """

    kind: Literal["confidence"]
    measure: Literal["logprob", "self_certainty"] = "logprob"
    """``logprob``: log(p / (1 - p)) of the geometric mean p of the sampled tokens' probabilities;
    costs nothing. ``self_certainty``: mean over tokens of KL(uniform || policy), in nats (Kang et
    al. 2025, arXiv:2502.18581); runs the policy's weights in this process once more."""
    scale: Annotated[float, Field(gt=0)] = 1.0
    """Logits per unit of the measure."""
    centre: float | None = None
    """The measure's value that gives a logit of 0; None: 0. Self-certainty has no natural one, so
    it must be given there (see docs/reward_models.md)."""

    @model_validator(mode="after")
    def _centred(self) -> "ConfidenceSettings":
        if self.measure == "self_certainty" and self.centre is None:
            raise ValueError(
                "self_certainty is no probability: set `centre` to its typical value (in nats), "
                "which is to count as even odds"
            )
        return self


class EnsembleSettings(Settings):
    """Several reward models as one."""

    kind: Literal["ensemble"]
    members: Annotated[tuple["RewardModelSettings", ...], Field(min_length=2)]
    combine: Literal["product", "mean"] = "mean"
    """``product``: the logit of the product of the members' probabilities (all must agree);
    ``mean``: the mean of their logits (the geometric mean of their odds)."""


class PoolingSettings(ServerSettings):
    """Qwen2.5-Math-PRM behind a vLLM server (``vllm serve``), which has a machine of its own.
    ``base_url`` is taken with or without ``/v1``."""

    kind: Literal["pooling"]
    name: str = "Qwen/Qwen2.5-Math-PRM-7B"
    """A Hugging Face id or a folder: its tokenizer is needed here."""
    revision: str | None = None
    """Commit of a Hugging Face id; pin it for a run to be repeatable."""
    served_model: str | None = None
    """The model's name at the server; None: ``name``."""
    aggregation: Aggregation = "model"
    """As for ``qwen_math_prm``."""
    max_requests: Annotated[int, Field(gt=0)] = 64
    """Requests in flight at a time; one asks for all particles of a search."""


class CustomSettings(Settings):
    """A reward model of your own."""

    kind: Literal["custom"]
    factory: str
    """``module:function`` of a function without arguments that returns a ``RewardModel``."""


RewardModelSettings = Annotated[
    TrainedSettings
    | QwenMathPrmSettings
    | PoolingSettings
    | ClassifierSettings
    | ConfidenceSettings
    | EnsembleSettings
    | CustomSettings,
    Field(discriminator="kind"),
]

EnsembleSettings.model_rebuild()

"""What training takes. Imports nothing heavy."""

from typing import Annotated, Literal

from pydantic import Field

from butwait.records.settings import Settings

PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class LoraSettings(Settings):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) in place of full fine-tuning. They want
    about ten times its learning rate, and stay in float32 whatever the ``precision``."""

    rank: PositiveInt = 16
    """Rank of the update of each adapted matrix."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """The update is scaled by alpha / rank."""
    dropout: Fraction = 0.0
    """Dropout on the adapters' input."""
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Names of the layers to adapt; ``all-linear``: every linear layer but the output head."""
    four_bit: bool = False
    """Hold the frozen weights in 4 bits (QLoRA, Dettmers et al. 2023, arXiv:2305.14314): a quarter
    of bfloat16's memory. Needs ``bitsandbytes``. The adapter is merged into the unquantised
    weights."""


class LaunchSettings(Settings):
    """A training on several devices of this machine, by ``accelerate launch``."""

    processes: Annotated[int, Field(gt=1)]
    """Processes, one a device."""
    config: str = "ddp"
    """``ddp``: every device holds the whole model; ``fsdp2``, ``zero2``, ``zero3``: parts of it;
    ``cpu``: processes without a GPU; or the path of an accelerate configuration of your own."""


class OptimizerSettings(Settings):
    """AdamW, precision and checkpoints: what every training by gradient descent takes."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    """Peak learning rate of AdamW."""
    batch_size: PositiveInt = 16
    """Examples per forward pass and device."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """The learning rate after warm-up: down to 0, or constant."""
    warmup_ratio: Fraction = 0.05
    """Share of the steps over which the learning rate rises from 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's decoupled weight decay (not on biases and norms)."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """The gradient is scaled down to this norm."""
    precision: Literal["float32", "mixed", "bfloat16"] = "float32"
    """``float32``; ``mixed``: float32 weights, bfloat16 arithmetic; ``bfloat16``: bfloat16 weights
    too, which takes the least memory but loses small updates to rounding. It decides the dtype of
    the weights that are trained and saved; ``model.dtype`` does not."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about 20 % slower."""
    save_steps: PositiveInt | None = 500
    """Steps between checkpoints, from which a killed training goes on; None: no checkpoints. Each
    holds weights and optimizer state; the last two are kept until the training ends."""
    logging_steps: PositiveInt = 1
    """Steps between lines of ``log.jsonl``; a line is their mean."""


class OptimizationSettings(OptimizerSettings):
    """A training that passes over a set of examples."""

    epochs: Annotated[float, Field(gt=0)] = 3.0
    """Passes over the examples; ``max_steps`` overrides it."""
    max_steps: PositiveInt | None = None
    """Optimizer steps; None: as many as ``epochs`` gives."""
    accumulation_steps: PositiveInt = 1
    """Forward passes per optimizer step."""


class SftSettings(OptimizationSettings):
    """Supervised fine-tuning on examples."""

    lora: LoraSettings | None = None
    """Train adapters instead of all weights; they are merged into the saved model."""
    max_length: PositiveInt | None = None
    """Tokens of prompt and completion together; None: what the model's positions allow."""
    too_long: Literal["error", "drop"] = "error"
    """What to do with a longer example. It is never cut: that would lose the answer and EOS."""
    packing: bool = False
    """Put several examples in one row of ``max_length`` tokens (of the longest example, without
    ``max_length``); ``batch_size`` then counts rows. Packed examples do not see each other; a
    model that cannot keep them apart is refused."""
    keep_epochs: bool = False
    """Keep the model of every epoch in ``epochs/<N>/model``, for an evaluation that says
    ``checkpoint: N``. Each takes as much disk as the model itself."""

    def keeps(self, epoch: int) -> bool:
        """Whether the training leaves ``epochs/<epoch>`` behind."""
        return self.keep_epochs and self.max_steps is None and epoch <= self.epochs

"""What training takes. Imports nothing heavy."""

from typing import Annotated, Literal

from pydantic import Field

from butwait.engines.settings import Sampling, StepRule
from butwait.records.settings import Settings
from butwait.statistics.plateau import PlateauRule

PositiveInt = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class LoraSettings(Settings):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) in place of full fine-tuning. They want
    about ten times its learning rate, and stay in float32 whatever the ``precision``."""

    rank: PositiveInt = 16
    """Rank of the update of each adapted matrix."""
    alpha: Positive = 32.0
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

    learning_rate: Positive = 1e-5
    """Peak learning rate of AdamW."""
    batch_size: PositiveInt = 16
    """Examples per forward pass and device."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """The learning rate after warm-up: down to 0, or constant."""
    warmup_ratio: Fraction = 0.05
    """Share of the steps over which the learning rate rises from 0."""
    weight_decay: NonNegative = 0.0
    """AdamW's decoupled weight decay (not on biases and norms)."""
    max_grad_norm: Positive = 1.0
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

    epochs: Positive = 3.0
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


class RolloutSettings(Settings):
    """The Monte-Carlo rollouts that label prefixes."""

    solutions: PositiveInt = 8
    """Solutions sampled per question; the outcome of each labels all its own prefixes."""
    prefixes: Annotated[int, Field(ge=0)] = 1
    """Prefixes of each solution, drawn uniformly among its unfinished step ends, from which
    further completions are sampled; 0: the solutions' own outcomes are the only labels."""
    completions: PositiveInt = 4
    """Completions (K) sampled from each such prefix."""
    sampling: Sampling = Sampling(temperature=1.0)
    """How tokens are drawn; best as in the search that the model will guide."""
    steps: StepRule = StepRule()
    """Where steps end; must be as in the search that the model will guide."""
    concurrency: PositiveInt = 32
    """Questions that are in flight at a time."""
    shard_size: PositiveInt = 64
    """Questions per file."""


class PrmSettings(OptimizationSettings):
    """Training a process reward model from the policy's own rollouts."""

    rollouts: RolloutSettings = RolloutSettings()
    """Where the labels come from."""
    heldout: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the questions that is kept from training, for the audit."""
    epochs: Positive = 1.0
    """Passes over the rollouts; ``max_steps`` overrides it."""
    batch_size: PositiveInt = 32
    """Rollouts per forward pass and device."""
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    """The learning rate after warm-up: down to 0, or constant."""
    max_length: PositiveInt | None = None
    """Tokens of prompt and rollout together; a longer rollout is dropped and counted, never cut.
    None: what the model's positions allow."""
    logging_steps: PositiveInt = 10
    """Steps between lines of ``log.jsonl``; a line is their mean."""


class PlateauSettings(Settings):
    """Stop when the next ``horizon`` steps would improve the curve by less than ``delta``, with a
    confidence that holds for the whole run (docs/plateau.md)."""

    horizon: Positive = 100
    """Steps ahead over which the improvement is counted."""
    delta: Positive = 0.02
    """The improvement that would be worth going on for, in units of the curve: 0.02 is 2 points of
    a reward or a success rate between 0 and 1."""
    window: Positive | None = None
    """Steps of the shortest stretch that a trend is fitted to; longer ones are tried as the run
    grows. None: the horizon."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the whole run: one that still rises by ``delta`` a horizon is stopped in at most
    1 - confidence of cases, however often it is looked at."""
    start: NonNegative = 0
    """Steps at the start that are left out: warm-up, or until the first rewards are found."""

    def rule(self) -> PlateauRule:
        """The rule with these settings."""
        return PlateauRule(self.horizon, self.delta, self.window, self.confidence, self.start)

"""What training takes. Imports nothing heavy."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from butwait.engines.scheduling.rows import Concurrency
from butwait.engines.settings import Sampling, StepRule
from butwait.problems.settings import PromptSettings
from butwait.records.settings import Resource, Result, Settings, refuse_all
from butwait.running.devices import missing_gpus
from butwait.running.files import expanded
from butwait.running.identity import device_kind
from butwait.statistics.plateau import PlateauRule

PositiveInt = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class LoraSettings(Settings):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) in place of full fine-tuning. They want
    about ten times its learning rate, and stay in float32 whatever the ``precision``."""

    rank: Result[PositiveInt] = 16
    """Rank of the update of each adapted matrix."""
    alpha: Result[Positive] = 32.0
    """The update is scaled by alpha / rank."""
    dropout: Result[Fraction] = 0.0
    """Dropout on the adapters' input."""
    target_modules: Result[Literal["all-linear"] | tuple[str, ...]] = "all-linear"
    """Names of the layers to adapt; ``all-linear``: every linear layer but the output head."""
    four_bit: Result[bool] = False
    """Hold the frozen weights in 4 bits (QLoRA, Dettmers et al. 2023, arXiv:2305.14314): a quarter
    of bfloat16's memory. Needs ``bitsandbytes``. The adapter is merged into the unquantised
    weights."""

    def look(self, world: Any) -> None:
        if self.four_bit:
            world.package("bitsandbytes", "four_bit", "'butwait[qlora]'")


SHIPPED = ("cpu", "ddp", "fsdp2", "zero2", "zero3")
"""What ``launch.config`` may say but a path."""
_IN_PARTS = ("fsdp2", "zero3")
"""Those with which every device holds a part of the weights only."""


class LaunchSettings(Settings):
    """A training on several devices, by ``accelerate launch``."""

    processes: Resource[Annotated[int, Field(gt=1)]]
    """Processes, one a device, on all machines together."""
    config: Resource[str] = "ddp"
    """``ddp``: every device holds the whole model; ``fsdp2``, ``zero2``, ``zero3``: parts of it;
    ``cpu``: processes without a GPU; or the path of an accelerate configuration of your own."""

    machines: Resource[PositiveInt] = 1
    """Machines, with as many processes each. The run is started on the first, whose address the
    others know as ``MASTER_ADDR``."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.processes % self.machines:
            raise ValueError(
                f"{self.processes} processes cannot be shared out by {self.machines} machines: "
                "each has as many"
            )
        return self

    def look(self, world: Any) -> None:
        if self.config in ("zero2", "zero3"):
            world.package("deepspeed", "config")
        elif self.config not in SHIPPED:
            world.accelerate(self.config, "config")
        if self.config in SHIPPED and self.config != "cpu":
            world.gpus(self.processes // self.machines, "processes")
        if self.config in SHIPPED and self.machines > 1:
            world.variable("MASTER_ADDR", "machines", "the address of the first machine")

    def missing(self) -> str | None:
        """What is not there of what the processes need: GPUs, or a configuration of one's own; None
        where nothing is known to be missing."""
        if self.config not in SHIPPED:
            return None if expanded(self.config).is_file() else "no such file"
        return None if self.config == "cpu" else missing_gpus(self.processes // self.machines)

    def wrong_device(self, device: str) -> str | None:
        """Why these processes do not fit ``model.device``; None where they do."""
        kind, _, number = device.partition(":")
        if kind not in ("auto", "cpu") and number:
            return f"{device!r} is one device: write {kind}, of which each process has its own"
        if self.config == "cpu" and device_kind(device) != "cpu":
            return "launch.config: cpu is for processes without a GPU: set cpu, or take ddp"
        if self.config in SHIPPED and self.config != "cpu" and kind == "cpu" and not self.missing():
            return f"launch.config: {self.config} is for GPUs: set auto, or take launch.config: cpu"
        return None

    @property
    def in_parts(self) -> bool:
        """Whether devices are known to hold parts of the weights only."""
        return self.config in _IN_PARTS

    def refused(self, training: "OptimizerSettings") -> Iterator[str]:
        """What of a training these devices cannot do, in sentences."""
        if training.optimizer != "adamw" and self.config in ("fsdp2", "zero2", "zero3"):
            why = "whose DeepSpeed keeps float32 weights of its own"
            if self.config == "fsdp2":
                why = "since torchao's moments of few bits are for whole weights"
            yield (
                f"optimizer: {training.optimizer} is not for launch.config: {self.config}, {why}; "
                "take optimizer: adamw, or launch.config: ddp"
            )
        if training.precision == "bfloat16" and self.config in ("zero2", "zero3"):
            # Its engine refuses other weights where no mixed arithmetic is asked for.
            yield (
                f"precision: bfloat16 is not for launch.config: {self.config}, whose DeepSpeed "
                "takes float32 weights; take precision: mixed, or launch.config: ddp or fsdp2"
            )
        lora, validation = (getattr(training, name, None) for name in ("lora", "validation"))
        if self.in_parts and lora is not None and lora.four_bit:
            yield (
                f"lora.four_bit is not for launch.config: {self.config}: weights in 4 bits are not "
                "spread over devices; take launch.config: ddp"
            )
        spread = self.config in ("fsdp2", "zero2", "zero3")
        if spread and validation is not None and validation.patience is not None:
            yield (
                f"validation.patience is not for launch.config: {self.config}: FSDP and DeepSpeed "
                "cannot take the weights of the lowest loss back; leave it out, or take "
                "launch.config: ddp"
            )


class LaunchedSettings(Settings):
    """A training by gradient descent that several devices may share."""

    launch: Resource[LaunchSettings | None] = None
    """Several devices; None: one. The batch of an optimiser step is then ``batch_size`` x
    ``accumulation_steps`` x ``launch.processes``."""

    @model_validator(mode="after")
    def _devices_can(self) -> Self:
        if self.launch is not None and isinstance(self, OptimizerSettings):
            refuse_all(self.launch.refused(self))
        return self


class OptimizerSettings(Settings):
    """AdamW, precision and checkpoints: what every training by gradient descent takes."""

    optimizer: Result[Literal["adamw", "adamw_8bit", "adamw_4bit"]] = "adamw"
    """AdamW, with moments as wide as the weights, or in 8 or 4 bits (torchao's, which must be
    installed). The latter two round the updates of bfloat16 weights at random, so that small ones
    are not lost."""
    learning_rate: Result[Positive] = 1e-5
    """Peak learning rate of AdamW."""
    batch_size: Result[PositiveInt] = 16
    """Examples per forward pass and device."""
    schedule: Result[Literal["linear", "cosine", "constant"]] = "linear"
    """The learning rate after warm-up: down to 0, or constant."""
    warmup_ratio: Result[Fraction] = 0.05
    """Share of the steps over which the learning rate rises from 0; a single step has no
    warm-up."""
    weight_decay: Result[NonNegative] = 0.0
    """AdamW's decoupled weight decay (not on biases and norms)."""
    max_grad_norm: Result[Positive] = 1.0
    """The gradient is scaled down to this norm."""
    precision: Result[Literal["float32", "mixed", "bfloat16"]] = "float32"
    """``float32``; ``mixed``: float32 weights, bfloat16 arithmetic; ``bfloat16``: bfloat16 weights
    too, which takes the least memory but loses small updates to rounding, except with an
    ``optimizer`` that rounds at random. It decides the dtype of the weights that are trained and
    saved; ``model.dtype`` does not."""
    gradient_checkpointing: Resource[bool] = False
    """Compute activations again in the backward pass: less memory, about 20 % slower."""
    save_steps: Resource[PositiveInt | None] = 500
    """Steps between checkpoints, from which a killed training goes on; None: no checkpoints. Each
    holds weights and optimiser state; the last two are kept until the training ends."""
    logging_steps: Result[PositiveInt] = 1
    """Steps between lines of ``log.jsonl``; a line is their mean."""

    def look(self, world: Any) -> None:
        if self.optimizer != "adamw":
            world.package("torchao", "optimizer", "'butwait[torchao]'")


class ValidationSettings(Settings):
    """The loss on questions that are not trained on, while the model trains."""

    share: Result[Annotated[float, Field(gt=0, lt=1)]] = 0.1
    """Share of the questions that is kept from training for it."""
    every: Result[PositiveInt] = 50
    """Optimiser steps between looks; one more is before the first step, one after the last."""
    patience: Result[PositiveInt | None] = None
    """Stop after so many looks in a row without a lower loss, and keep the weights of the lowest;
    None: train to the end, and keep the last."""


class OptimizationSettings(OptimizerSettings):
    """A training that passes over a set of examples."""

    validation: Result[ValidationSettings | None] = None
    """Look at the loss on held-out questions while it trains, and stop early where asked."""
    report_to: Resource[tuple[Literal["tensorboard", "trackio", "wandb"], ...]] = ()
    """Where figures go besides ``log.jsonl``; each needs its package. TensorBoard's events are in
    the stage's folder ``tensorboard``."""

    epochs: Result[Positive] = 3.0
    """Passes over the examples; ``max_steps`` overrides it."""
    max_steps: Result[PositiveInt | None] = None
    """Optimiser steps; None: as many as ``epochs`` gives."""
    accumulation_steps: Result[PositiveInt] = 1
    """Forward passes per optimiser step; its examples go through them in the order of their
    lengths, so that little is padded."""

    def look(self, world: Any) -> None:
        super().look(world)
        for tracker in self.report_to:
            world.package(tracker, "report_to")


class SftSettings(OptimizationSettings):
    """Supervised fine-tuning on examples."""

    lora: Result[LoraSettings | None] = None
    """Train adapters instead of all weights; they are merged into the saved model."""
    max_length: Result[PositiveInt | None] = None
    """Tokens of prompt and completion together; None: what the model's positions allow."""
    too_long: Result[Literal["error", "drop"]] = "error"
    """What to do with a longer example. It is never cut: that would lose the answer and EOS."""
    packing: Result[bool] = False
    """Put several examples in one row of ``max_length`` tokens (of the longest example, without
    ``max_length``); ``batch_size`` then counts rows. Packed examples do not see each other; a
    model that cannot keep them apart is refused."""
    keep_epochs: Result[bool] = False
    """Keep the model of every epoch in ``epochs/<N>/model``, for an evaluation that says
    ``checkpoint: N``, for which ``max_steps`` and ``validation.patience`` must be unset.
    Each takes as much disk as the model itself."""

    def keeps(self, epoch: int) -> bool:
        """Whether the training is sure to leave ``epochs/<epoch>`` behind: with
        ``validation.patience`` it may stop before."""
        early = self.validation is not None and self.validation.patience is not None
        return self.keep_epochs and self.max_steps is None and not early and epoch <= self.epochs


class RolloutSettings(Settings):
    """The Monte-Carlo rollouts that label prefixes."""

    solutions: Result[PositiveInt] = 8
    """Solutions sampled per question; the outcome of each labels all its own prefixes."""
    prefixes: Result[Annotated[int, Field(ge=0)]] = 1
    """Prefixes of each solution, drawn uniformly among its unfinished step ends, from which
    further completions are sampled; 0: the solutions' own outcomes are the only labels."""
    completions: Result[PositiveInt] = 4
    """Completions (K) sampled from each such prefix."""
    sampling: Result[Sampling] = Sampling(temperature=1.0)
    """How tokens are drawn; best as in the search that the model will guide."""
    steps: Result[StepRule] = StepRule()
    """Where steps end; must be as in the search that the model will guide."""
    concurrency: Resource[Concurrency] = 32
    """Questions that are in flight at a time; ``auto``: as many as keep the engine's rows full."""
    shard_size: Resource[PositiveInt] = 64
    """Questions per file."""


class PrmSettings(OptimizationSettings):
    """Training a process reward model from the policy's own rollouts."""

    later: ClassVar[frozenset[str]] = frozenset({"prompt"})

    rollouts: Result[RolloutSettings] = RolloutSettings()
    """Where the labels come from."""
    prompt: Result[PromptSettings | None] = None
    """How a question is put to the reward model; None: as to the policy. It judges, so it needs no
    worked examples, whose tokens are run with every rollout."""
    heldout: Result[Annotated[float, Field(gt=0, lt=1)]] = 0.2
    """Share of the questions that is kept from training, for the audit."""
    epochs: Result[Positive] = 1.0
    """Passes over the rollouts; ``max_steps`` overrides it."""
    batch_size: Result[PositiveInt] = 32
    """Rollouts per forward pass and device."""
    schedule: Result[Literal["linear", "cosine", "constant"]] = "cosine"
    """The learning rate after warm-up: down to 0, or constant."""
    max_length: Result[PositiveInt | None] = None
    """Tokens of prompt and rollout together; a longer rollout is dropped and counted, never cut.
    None: what the model's positions allow."""
    logging_steps: Result[PositiveInt] = 10
    """Steps between lines of ``log.jsonl``; a line is their mean."""


class PlateauSettings(Settings):
    """Stop when the next ``horizon`` steps would improve the curve by less than ``delta``, with a
    confidence that holds for the whole run (docs/plateau.md)."""

    horizon: Result[Positive] = 100
    """Steps ahead over which the improvement is counted."""
    delta: Result[Positive] = 0.02
    """The improvement that would be worth going on for, in units of the curve: 0.02 is 2 points of
    a reward or a success rate between 0 and 1."""
    window: Result[Positive | None] = None
    """Steps of the shortest stretch that a trend is fitted to; longer ones are tried as the run
    grows. None: the horizon."""
    confidence: Result[Annotated[float, Field(gt=0.5, lt=1)]] = 0.95
    """Of the whole run: one that still rises by ``delta`` a horizon is stopped in at most
    1 - confidence of cases, however often it is looked at."""
    start: Result[NonNegative] = 0
    """Steps at the start that are left out: warm-up, or until the first rewards are found."""

    def rule(self) -> PlateauRule:
        """The rule with these settings."""
        return PlateauRule(self.horizon, self.delta, self.window, self.confidence, self.start)

"""What the ``grpo`` and ``grpo_direct`` stages take. Imports nothing heavy."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from butwait.engines.scheduling.rows import Concurrency
from butwait.engines.settings import StepRule
from butwait.records.settings import Resource, Result, Settings, Shape, refuse_all
from butwait.search.samplers.particle_filter import ParticleFilterSettings
from butwait.search.settings import SamplerSettings
from butwait.synthesis.builders.backtrack import BacktrackSettings
from butwait.synthesis.settings import SubsetSettings
from butwait.training.grpo.reward_settings import RewardSettings
from butwait.training.settings import (
    Fraction,
    LaunchSettings,
    LoraSettings,
    OptimizerSettings,
    PlateauSettings,
    PositiveInt,
    PrmSettings,
)

Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]


class LossSettings(Settings):
    """The loss over a group. ``preset`` gives the values of a paper, and what stands here besides
    replaces one of them."""

    preset: Result[Literal["grpo", "dr_grpo", "dapo"]] = "dr_grpo"
    """``grpo``: Shao et al. 2024 (arXiv:2402.03300); ``dr_grpo``: Liu et al. 2025
    (arXiv:2503.20783), whose sums do not favour long wrong answers nor easy questions; ``dapo``: Yu
    et al. 2025 (arXiv:2503.14476). ``docs/grpo.md`` has the table."""
    epsilon_low: Result[NonNegative | None] = None
    """A ratio of probabilities is clipped at 1 minus this."""
    epsilon_high: Result[NonNegative | None] = None
    """And at 1 plus this."""
    beta: Result[NonNegative | None] = None
    """Weight of the KL divergence to the model that the training began with; above 0 it holds a
    copy of it."""
    scale_rewards: Result[Literal["group", "batch", "none"] | None] = None
    """By whose standard deviation advantages are divided."""
    mask_truncated: Result[bool | None] = None
    """Leave truncated completions out of the loss (they stay in the baseline, as wrong)."""


class GenerationSettings(Settings):
    """What draws the completions."""

    kind: Literal["engine", "generate", "vllm_colocate", "vllm_server"] = "engine"
    """``engine``: butwait's own, in this process on the weights being trained (one GPU, or several
    that each hold the whole model); ``generate``: transformers' ``generate()``; ``vllm_colocate``
    and ``vllm_server``: vLLM, as TRL runs it, in this process or behind ``server``."""
    slots: Shape[PositiveInt] = 64
    """``engine``: rows of the KV cache. The cache is freed while the weights are updated."""
    prefill_chunk: Shape[PositiveInt] = 64
    """``engine``: tokens of a prompt that are run at a time."""
    deterministic: Result[bool] = False
    """``engine``: see the transformers engine. A resume then gives the same weights, bit for bit;
    without it a CPU does so as long as the same completions are drawn together."""
    gpu_memory: Resource[Annotated[float, Field(gt=0, le=1)]] = 0.3
    """``vllm_colocate``: share of the GPU's memory for vLLM."""
    tensor_parallel: Resource[PositiveInt] = 1
    """``vllm_colocate``: GPUs that one copy of the model is spread over."""
    server: Resource[str] = "http://127.0.0.1:8000"
    """``vllm_server``: its address. vLLM must take weights (docs/grpo.md)."""

    def look(self, world: Any) -> None:
        if self.kind.startswith("vllm"):
            world.package("vllm", "kind", "'butwait[vllm]'")
        if self.kind == "vllm_server":
            world.server(self.server, "server")


class SelectionSettings(Settings):
    """Looks at held-out questions while the training runs: they choose the checkpoint that is kept,
    and draw the accuracy curve. They are plain samples of the policy, never a search."""

    problems: Result[str]
    """The problem set; no other stage may train on it or report it."""
    every: Result[PositiveInt] = 20
    """Optimiser steps between looks; there is one before the first step and one after the last."""
    samples: Result[PositiveInt] = 1
    """Samples of every question at a look."""
    temperature: Result[Annotated[float, Field(ge=0)]] = 1.0
    """Of the samples; 0 is greedy."""
    texts: Result[PositiveInt] = 3
    """Questions whose first sample is shown in the report, look by look."""


class StopSettings(PlateauSettings):
    """When the training is stopped because it no longer rises."""

    signal: Result[Literal["reward", "accuracy"]] = "reward"
    """``reward``: the mean reward of each step's fresh samples; ``accuracy``: that of the looks at
    held-out questions, which costs samples and cannot be gamed by what the reward adds."""


class GrpoSettings(OptimizerSettings):
    """Reinforcement learning by Group Relative Policy Optimization (Shao et al. 2024)."""

    steps: Result[PositiveInt] = 200
    """Optimiser steps at most."""
    token_budget: Result[PositiveInt | None] = None
    """Stop once so many tokens were sampled from the policy, those of searches included; None: no
    budget. For comparisons at equal generated tokens."""
    questions: Result[PositiveInt] = 32
    """Questions of one generation, over all devices."""
    group: Result[Annotated[int, Field(ge=2)]] = 8
    """Completions G of each question."""
    minibatches: Result[PositiveInt] = 1
    """Optimiser steps that the completions of one generation are divided among. Above 1, all but
    the first see completions of a slightly older policy, which the clipped ratio is for."""
    iterations: Result[PositiveInt] = 1
    """How often every completion is used."""
    batch_size: Result[PositiveInt] = 16
    """Completions per forward pass and device. ``questions`` x ``group`` must be a multiple of it,
    of ``minibatches`` and of the devices together."""
    temperature: Result[Annotated[float, Field(gt=0)]] = 1.0
    """Of the sampled policy, which is also the one whose gradient is taken; top-p and top-k are
    off, as they would bias it."""
    step: Result[StepRule] = StepRule(delimiters=())
    """Where a completion ends; ``max_tokens`` is its longest length. A closed box ends it, and the
    EOS token that is put after it carries no loss."""
    reward: Result[RewardSettings] = RewardSettings()
    """What a completion is worth."""
    loss: Result[LossSettings] = LossSettings()
    """The loss over a group."""
    schedule: Result[Literal["linear", "cosine", "constant"]] = "constant"
    """The learning rate after warm-up: down to 0, or constant."""
    warmup_ratio: Result[Fraction] = 0.0
    """Share of the steps over which the learning rate rises from 0."""
    generation: Result[GenerationSettings] = GenerationSettings()
    """What draws the completions."""
    lora: Result[LoraSettings | None] = None
    """Train adapters instead of all weights; they are merged into the saved model."""
    launch: Resource[LaunchSettings | None] = None
    """Several devices; None: one."""
    subset: Result[SubsetSettings] = SubsetSettings()
    """Which questions are trained on, by the searches in ``from``: ``solve_rate: [0.1, 0.6]``
    leaves out what is solved always or never."""
    selection: Result[SelectionSettings | None] = None
    """Looks at held-out questions; None: the last model is kept, and there is no accuracy curve."""
    plateau: Result[StopSettings | None] = None
    """Stop at a plateau; None: after ``steps`` steps, or when ``token_budget`` is spent."""
    report_to: Resource[tuple[Literal["tensorboard", "trackio", "wandb"], ...]] = ()
    """Where figures go besides ``log.jsonl``; each needs its package. TensorBoard's events are in
    the stage's folder ``tensorboard``."""
    samples_every: Result[PositiveInt] = 10
    """Optimiser steps between the completions that ``samples.jsonl`` keeps."""
    save_steps: Resource[PositiveInt | None] = 50
    """Steps between checkpoints, from which a killed training goes on; None: no checkpoints.
    Rounded up to whole generations."""

    def look(self, world: Any) -> None:
        super().look(world)
        for tracker in self.report_to:
            world.package(tracker, "report_to")
        if self.launch is not None and self.launch.missing() is None:
            for told in self.uneven(self.launch.processes):
                world.lack("launch", told)

    @property
    def completions(self) -> int:
        """Completions of one generation, over all devices."""
        return self.questions * self.group

    @property
    def steps_per_generation(self) -> int:
        """Optimiser steps from one generation to the next."""
        return self.minibatches * self.iterations

    @property
    def longest_path(self) -> int:
        """Tokens of the longest path that may be drawn."""
        return self.step.max_tokens

    @model_validator(mode="after")
    def _batches_fit(self) -> Self:
        refuse_all(self._unfit())
        return self

    def uneven(self, processes: int) -> Iterator[str]:
        """Why so many devices cannot share a generation: TRL compares the completions of a group
        with each other, and butwait draws them together."""
        if self.questions % processes:
            yield (
                f"questions ({self.questions}) must be a multiple of the {processes} devices, so "
                "that the completions of a question stay on one of them"
            )
        if self.completions % (self.batch_size * self.minibatches * processes):
            yield (
                f"questions x group ({self.completions}) must be a multiple of batch_size x "
                f"minibatches x devices ({self.batch_size} x {self.minibatches} x {processes})"
            )

    def in_parts(self) -> Iterator[str]:
        """What devices cannot do that hold parts of the weights only: they wait for each other in
        every forward pass, and this process would draw by itself."""
        if (kind := self.generation.kind) in ("engine", "generate"):
            told = f"generation.kind: {kind} needs the whole model on every device; with FSDP or "
            yield f"{told}ZeRO-3 take generation.kind: vllm_server or vllm_colocate"
        if self.selection is not None:
            told = "selection draws samples with the whole model on one device; with FSDP or ZeRO-3"
            yield f"{told} leave it out and evaluate checkpoints in a stage of their own"

    def _unfit(self) -> Iterator[str]:
        share = self.batch_size * self.minibatches
        if self.completions % share:
            yield (
                f"questions x group ({self.completions}) must be a multiple of batch_size x "
                f"minibatches ({share}); change one of them"
            )
        if self.subset.length is not None or self.subset.same_questions_as is not None:
            yield (
                "subset: questions are chosen by solved_by and solve_rate; length and "
                "same_questions_as are for data"
            )
        if self.launch is not None:
            yield from self.launch.refused(self)
            yield from self.in_parts() if self.launch.in_parts else ()
        if self.plateau and self.plateau.signal == "accuracy" and self.selection is None:
            yield ("plateau.signal: accuracy needs `selection`, whose looks it follows")
        zone = self.reward.overlong_tokens
        if zone is not None and zone > self.step.max_tokens:
            yield (
                f"reward.overlong_tokens ({zone}) must not exceed step.max_tokens "
                f"({self.step.max_tokens})"
            )
        if self.lora is not None and self.lora.dropout:
            yield (
                "lora.dropout: GRPO trains without dropout, with which ratios of probabilities "
                "would be noise; leave it out"
            )


class FlooredSettings(Settings):
    """Searches below these are counted and named in a warning: they tell little."""

    ess: Result[Share] = 0.1
    """Effective sample size of a search's final weights, as a share of its particles."""
    ancestors: Result[Share] = 0.1
    """Distinct first steps among the final particles, as a share of them."""


class LoopPrmSettings(PrmSettings):
    """The reward model is trained again from the loop's own trees, from its own weights on. There
    are no ``rollouts`` to set."""

    every: Result[PositiveInt] = 50
    """Optimiser steps between trainings."""
    window: Result[PositiveInt] = 200
    """Trees of the latest steps that it is trained on, at most this many steps old."""


class GrpoDirectSettings(GrpoSettings):
    """GRPO with data from its own searches, in the same loop (``docs/grpo_direct.md``)."""

    mode: Result[Literal["mixed", "expert_iteration", "replace", "pf_group"]] = "mixed"
    """``mixed``: fresh samples fill the groups, and verified solutions of searches add their
    negative log-likelihood. ``expert_iteration``: that alone. ``replace``: a verified solution
    takes the place of one sample of a group that is all wrong. ``pf_group``: the particles are the
    group; a biased control, not for use."""
    sampler: Result[SamplerSettings] = ParticleFilterSettings()
    """What searches. Its temperature must be the policy's, without top-p and top-k. ``independent``
    makes ``expert_iteration`` plain rejection sampling."""
    search_below: Result[Share] = 0.25
    """A question is searched when at most this share of its latest fresh samples is correct."""
    memory: Result[PositiveInt] = 4
    """Generations of a question over which that share is taken."""
    solutions: Result[PositiveInt | None] = None
    """Verified solutions of a question at most, drawn at random; None: ``group``, which is also the
    most."""
    mu: Result[NonNegative] = 0.5
    """Weight of the negative log-likelihood at the first step. Not used by ``expert_iteration``,
    where it is 1 throughout."""
    mu_until: Result[Annotated[float, Field(gt=0, le=1)]] = 0.5
    """Share of the training (its steps, or its token budget) after which the weight, falling
    linearly, has reached 0. Searching ends with it."""
    max_age: Result[Annotated[int, Field(ge=0)]] = 0
    """Optimiser steps for which a solved question is not searched again: its solutions are used
    once more. 0: always searched again."""
    backtrack: Result[BacktrackSettings | None] = None
    """Learn detours into dead branches of the same tree instead of the solutions themselves
    (synthesis inside the loop); a tree without such a branch gives its solutions."""
    floors: Result[FlooredSettings] = FlooredSettings()
    """Below which a search is called poor."""
    prm: Result[LoopPrmSettings | None] = None
    """Train the reward model again as the policy changes; None: it stays as it is, and so it does
    for a time whose trees cannot be trained on."""
    concurrency: Resource[Concurrency] = 64
    """Searches in flight at a time; ``auto``: as many as keep the engine's rows full."""

    @property
    def learns_solutions(self) -> bool:
        """Whether the loss has a likelihood term."""
        return self.mode in ("mixed", "expert_iteration")

    @property
    def draws_groups(self) -> bool:
        """Whether groups are fresh samples of the policy."""
        return self.mode in ("mixed", "replace")

    @property
    def longest_path(self) -> int:
        """Tokens of the longest path that may be drawn, those of searches included."""
        return max(self.step.max_tokens, self.sampler.step.max_tokens)

    @model_validator(mode="after")
    def _search_fits_the_policy(self) -> Self:
        refuse_all(self._unfit_search())
        return self

    def _unfit_search(self) -> Iterator[str]:
        how = self.sampler.sampling
        if (how.temperature, how.top_p, how.top_k) != (self.temperature, 1.0, 0):
            yield (
                f"sampler.sampling must be the trained policy: temperature {self.temperature:g}, "
                "top_p 1 and top_k 0"
            )
        if self.plateau and self.plateau.signal == "reward" and self.mode != "mixed":
            yield (
                f"plateau.signal: reward is not that of the policy alone in the mode {self.mode}; "
                "take signal: accuracy"
            )
        if self.solutions is not None and self.solutions > self.group:
            yield (f"solutions ({self.solutions}) must not exceed group ({self.group})")
        if self.generation.kind != "engine":
            yield (
                "grpo_direct searches with generation.kind: engine; vLLM and generate() are for "
                "the grpo stage"
            )
        if self.prm is not None and self.launch is not None:
            yield "prm: the reward model is trained in the loop on one device only"
        if self.prm is not None and "rollouts" in self.prm.model_fields_set:
            yield "prm.rollouts: the labels come from the loop's own searches; leave it out"
        if self.backtrack is not None and not self.learns_solutions:
            yield (f"backtrack: the mode {self.mode} learns no examples")
        if self.backtrack is not None and self.backtrack.confirm is not None:
            yield (
                "backtrack.confirm: branches are not completed in the loop; leave it out, or make "
                "the data in a stage of its own"
            )

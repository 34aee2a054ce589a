"""TRL's GRPOTrainer with butwait's completions, and the likelihood term of GRPO-Direct.

Everything that butwait needs of TRL's inside stands in this file, and ``tests/training/grpo`` fails
with a sentence where TRL changes it. Five methods are overridden, by ``super()`` only but where
prompts are run once (``shared_prompts.py``); the completions come through TRL's own
``rollout_func``. The stage's settings become TRL's arguments here, and are refused where they do
not fit the devices.

Shapes: B rows of a forward pass, P tokens of the longest prompt, C of the longest completion.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from trl import GRPOConfig, GRPOTrainer

from butwait.engines.settings import ModelSettings
from butwait.records import Problem, UserError
from butwait.training.arguments import trackers, training_arguments
from butwait.training.devices import is_sharded
from butwait.training.grpo.generation import Generation, LikelihoodRow
from butwait.training.grpo.settings import GrpoSettings, LossSettings
from butwait.training.on_cpu import compact_head
from butwait.training.shared_prompts import by_prompt, same_logprobs, shared_logprobs, shares
from butwait.training.weights import adapters_in_float32

Draw = Callable[["PolicyTrainer", list[Problem]], Generation]
"""The completions of these questions, each named once."""


class PolicyTrainer(GRPOTrainer):
    """The trainer of ``grpo`` and ``grpo_direct``.

    Args:
        problems: by id.
        draw: makes the completions of a generation.
        alone: whether the likelihood term is the whole loss.
        others: what ``GRPOTrainer`` takes; its data set has the columns ``prompt`` (the question)
            and ``problem_id``.
    """

    _buffered_inputs: list[dict[str, Any]] | None

    def __init__(
        self, *, problems: Mapping[str, Problem], draw: Draw, alone: bool, **others: Any
    ) -> None:
        super().__init__(reward_funcs=self.reward, rollout_func=self.rollout, **others)
        adapters_in_float32(self.model)
        compact_head(self.model, self.temperature)
        if self.ref_model is not None:
            compact_head(self.ref_model, self.temperature, entropy=False)
        self._problems = problems
        self._draw = draw
        self._alone = alone
        self._asked: list[str] = []
        self.generation: Generation | None = None
        self.counted = {"trained_tokens": 0}
        self._idle: torch.Tensor | None = None
        self._same: dict[int, bool] = {}

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        # TRL hands a rollout function the prompts only.
        self._asked = [row["problem_id"] for row in inputs]
        return super()._generate_and_score_completions(inputs)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        generation = self.generation
        assert generation is not None
        if self._alone:
            return self._likelihood(model, generation, inputs)
        # Rows without an advantage have no gradient, but for that of a KL term.
        self._idle = None if self.beta else inputs["advantages"] == 0
        try:
            loss: torch.Tensor = super()._compute_loss(model, inputs)
        finally:
            self._idle = None
        mask = inputs["completion_mask"] * inputs["tool_mask"]
        self._count(int(mask.sum()))
        if generation.learns:
            loss = loss + generation.mu * self._likelihood(model, generation, inputs)
        return loss

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        held = self._buffered_inputs
        inputs: dict[str, Any] = super()._prepare_inputs(generation_batch)
        passes, args = self._buffered_inputs, self.args
        # TRL deals rows to passes by chance. Where all passes are of one optimiser step, it is the
        # same step whichever rows each has.
        whole = args.steps_per_generation == args.gradient_accumulation_steps
        if passes is None or passes is held or not whole:
            return inputs
        if self._shares(self.model, inputs["prompt_ids"].size(1) + self.max_completion_length):
            self._buffered_inputs = passes = by_prompt(passes)
        return passes[self._step % len(passes)]

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **others: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        stock = super()._get_per_token_logps_and_entropies
        of_text = not any(value for name, value in others.items() if name != "compute_entropy")
        if of_text and len(input_ids) > 1 and self._shares(model, input_ids.size(1)):
            if id(model) not in self._same:
                order = attention_mask[:, -logits_to_keep:].sum(dim=1).argsort(stable=True)
                pair = order[[(len(order) - 1) // 2, -1]]  # the middle one and the longest
                ids, mask = input_ids[pair], attention_mask[pair]
                seen = mask[:, -logits_to_keep:].bool()
                with torch.no_grad(), self.accelerator.autocast():
                    ours, _ = shared_logprobs(model, ids, mask, logits_to_keep)
                    theirs = stock(model, ids, mask, logits_to_keep)[0]
                    if seen.any():  # else nothing was said
                        self._same[id(model)] = same_logprobs(model, ours[seen], theirs[seen])
            if self._same.get(id(model)):
                size = batch_size or len(input_ids)
                parts = zip(input_ids.split(size), attention_mask.split(size), strict=True)
                with self.accelerator.autocast():
                    found = [
                        shared_logprobs(model, ids, mask, logits_to_keep, self._idle)
                        for ids, mask in parts
                    ]
                logprobs = torch.cat([part for part, _ in found])
                entropies = [part for _, part in found if part is not None]
                return logprobs, torch.cat(entropies) if entropies else None, None
        result: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None] = stock(
            model, input_ids, attention_mask, logits_to_keep, batch_size, **others
        )
        return result

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Checkpoints are for resuming and go away: they need no card."""

    def reward(self, *, log_metric: Callable[[str, float], None], **_: Any) -> list[float | None]:
        """TRL's reward function: what the completions that were just drawn are worth."""
        assert self.generation is not None
        for name, value in self.generation.figures.items():
            log_metric(name, value)
        return self.generation.rewards

    def rollout(self, prompts: list[Any], trainer: "PolicyTrainer") -> dict[str, Any]:
        """TRL's ``rollout_func``: a row for every prompt, in order; those of a group together."""
        size = self.num_generations
        groups = [self._asked[i : i + size] for i in range(0, len(prompts), size)]
        if any(set(group) != {group[0]} or len(group) < size for group in groups):
            raise RuntimeError("TRL split a group between devices: butwait's check missed it")
        self.generation = self._draw(self, [self._problems[group[0]] for group in groups])
        rows = self.generation.completions
        return {
            "prompt_ids": [row.prompt_ids.tolist() for row in rows],
            "completion_ids": [row.token_ids.tolist() for row in rows],
            "logprobs": self.generation.logprobs,
            "env_mask": [row.sampled.astype(int).tolist() for row in rows],
        }

    def note(self, name: str, value: float) -> None:
        """Adds a figure to the log of the optimiser step that is ending."""
        self._metrics["train"][name].append(value)

    def sample(self, prompts: list[list[int]]) -> tuple[list[list[int]], list[list[float]] | None]:
        """TRL's own way of drawing: ``num_generations`` equal prompts follow each other."""
        drawn: tuple[list[list[int]], list[list[float]] | None] = self._generate_single_turn(
            prompts, None, {}, self.num_generations
        )
        return drawn

    def _shares(self, model: Any, longest: int) -> bool:
        """Whether prompts are run once: on one device that has the whole model."""
        alone = self.accelerator.num_processes == 1 and not is_sharded(self)
        return alone and shares(self.accelerator.unwrap_model(model), longest)

    def _count(self, tokens: int) -> None:
        """Counts tokens with loss, those of all devices; all of them call it equally often."""
        own = torch.tensor([tokens], device=self.accelerator.device)
        self.counted["trained_tokens"] += int(self.accelerator.gather(own).sum())

    def _likelihood(
        self, model: Any, generation: Generation, inputs: dict[str, Any]
    ) -> torch.Tensor:
        """This forward pass's share of the NLL (``direct.py``), scaled so that the mean over
        devices and the sum over the passes of an optimiser step give the whole.

        A device without a row of its own runs one without loss: under sharded weights all of them
        must run the model equally often.
        """
        passes = self.args.steps_per_generation
        mine = dealt(len(generation.rows), passes)[self._step % passes]
        rows = [generation.rows[i] for i in mine]
        weights = torch.tensor([generation.row_weights[i] for i in mine], dtype=torch.float32)
        if not rows:
            prompt = inputs["prompt_ids"][0][inputs["prompt_mask"][0].bool()].cpu().numpy()
            token = inputs["completion_ids"][0][:1].cpu().numpy()
            rows = [LikelihoodRow("", prompt, token, np.zeros(len(token), bool))]
            weights = torch.zeros(1)
        nll = self._summed_nll(model, rows)
        tokens = sum(int(row.mask.sum()) for row in rows)
        self._count(tokens)
        if tokens:
            self._metrics["train"]["search/nll"].append(nll.detach().sum().item() / tokens)
        per_optimizer_step = passes / self.args.gradient_accumulation_steps
        scale = self.accelerator.num_processes * per_optimizer_step / self.max_completion_length
        return scale * (weights.to(nll.device) * nll).sum()

    def _summed_nll(self, model: Any, rows: Sequence[LikelihoodRow]) -> torch.Tensor:
        """(B,): the summed -log pi of each row where its mask says, in nats, under the policy at
        the trainer's temperature."""
        prompts = _padded([row.prompt_ids for row in rows], self._tokenizer.pad_token_id, "left")
        kept = _padded([row.prompt_ids * 0 + 1 for row in rows], 0, "left")
        ids = _padded([row.token_ids for row in rows], self._tokenizer.pad_token_id, "right")
        real = _padded([row.token_ids * 0 + 1 for row in rows], 0, "right")
        mask = _padded([row.mask for row in rows], 0, "right").float()
        device = self.accelerator.device
        logprobs, _, _ = self._get_per_token_logps_and_entropies(
            model,
            torch.cat([prompts, ids], dim=1).to(device),
            torch.cat([kept, real], dim=1).to(device),
            ids.size(1),
        )
        return -(logprobs * mask.to(device)).sum(dim=1)


def _padded(rows: Sequence[np.ndarray], value: int, side: Literal["left", "right"]) -> torch.Tensor:
    """int64 (B, longest)."""
    tensors = [torch.from_numpy(np.asarray(row, np.int64)) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=value, padding_side=side)


def dealt(rows: int, hands: int) -> list[range]:
    """Which of ``rows`` rows go to each of ``hands`` forward passes: as equal as they come."""
    return [range(hand, rows, hands) for hand in range(hands)]


def grpo_arguments(
    settings: GrpoSettings, model: ModelSettings, work: Path, seed: int, passes: int
) -> GRPOConfig:
    """TRL's arguments.

    Args:
        settings: of the stage.
        model: whose device is used.
        work: folder of the checkpoints, in that of the stage; other trackers name the run by it.
        seed: which pass a completion goes to, new weights.
        passes: forward passes of a device in one optimiser step (``check_devices``).
    """
    every = settings.steps_per_generation
    return training_arguments(
        GRPOConfig,
        settings,
        model,
        work,
        seed,
        max_steps=settings.steps,
        gradient_accumulation_steps=passes,
        steps_per_generation=passes * settings.minibatches,
        num_iterations=settings.iterations,
        num_generations=settings.group,
        max_completion_length=settings.step.max_tokens,
        temperature=settings.temperature,
        top_p=1.0,
        top_k=0,
        # The rows come in the order in which they are asked (``generation.question_order``).
        shuffle_dataset=False,
        remove_unused_columns=False,
        # The loss is the documented one: nothing of a mixture of experts' router is added.
        router_aux_loss_coef=0.0,
        # TRL loads the reference of a KL term by the policy's name.
        model_init_kwargs={"revision": model.revision} if model.revision else None,
        # With dropout, ratios of probabilities would be noise.
        disable_dropout=True,
        **trackers(settings.report_to, work),
        # A resume begins with a generation.
        save_steps=-(-(settings.save_steps or 1) // every) * every,
        **loss_arguments(settings.loss),
        **_vllm_arguments(settings),
    )


def _vllm_arguments(settings: GrpoSettings) -> dict[str, Any]:
    generation = settings.generation
    if generation.kind not in ("vllm_colocate", "vllm_server"):
        return {}
    return {
        "use_vllm": True,
        "vllm_mode": generation.kind.removeprefix("vllm_"),
        "vllm_server_base_url": generation.server,
        "vllm_gpu_memory_utilization": generation.gpu_memory,
        "vllm_tensor_parallel_size": generation.tensor_parallel,
        # Corrections of single tokens: summed over a long trace, small differences between vLLM and
        # the trainer would drop it whole (TRL issue 4772). The cap is that of verl and
        # open-instruct.
        "vllm_importance_sampling_mode": "token_truncate",
        "vllm_importance_sampling_clip_max": 2.0,
    }


def loss_arguments(loss: LossSettings) -> dict[str, Any]:
    """Keywords of ``trl.GRPOConfig``: the preset's values, and what replaces them."""
    replaced = {
        "epsilon": loss.epsilon_low,
        "epsilon_high": loss.epsilon_high,
        "beta": loss.beta,
        "scale_rewards": loss.scale_rewards,
        "mask_truncated_completions": loss.mask_truncated,
    }
    given = {name: value for name, value in replaced.items() if value is not None}
    return {"loss_type": loss.preset} | _TRL | _PRESETS[loss.preset] | given


# Where a paper says nothing, the values are those of TRL.
_TRL: dict[str, Any] = {
    "scale_rewards": "group",
    "epsilon": 0.2,
    "epsilon_high": 0.2,
    "beta": 0.0,
    "mask_truncated_completions": False,
}
_PRESETS: dict[str, dict[str, Any]] = {
    # Section 4.1.3: beta 0.04; eps as in PPO. The loss is a mean over the tokens of each
    # completion.
    "grpo": {"beta": 0.04},
    # Section 3.2: neither 1/length nor 1/std; section 3.3 and table 1: beta 0.
    "dr_grpo": {"scale_rewards": "none"},
    # Sections 3.1 (clip higher: 0.2, 0.28), 3.3 (token mean), 3.4 (overlong filtering), 2.3 (no
    # KL). Its dynamic sampling is not in TRL; ``subset.solve_rate`` does a part of it beforehand.
    "dapo": {"epsilon_high": 0.28, "mask_truncated_completions": True},
}


def check_devices(settings: GrpoSettings, processes: int) -> int:
    """How many forward passes of a device an optimiser step has.

    Raises UserError where a group would straddle devices.
    """
    for told in settings.uneven(processes):
        raise UserError(told)
    if getattr(settings, "prm", None) is not None and processes > 1:
        raise UserError("prm: the reward model is trained in the loop on one device only")
    return settings.completions // (settings.batch_size * settings.minibatches * processes)


def check_whole_model(trainer: Any, settings: GrpoSettings) -> None:
    """Raises UserError where the weights are spread over devices and this process is to draw
    completions."""
    for told in settings.in_parts() if is_sharded(trainer) else ():
        raise UserError(told)

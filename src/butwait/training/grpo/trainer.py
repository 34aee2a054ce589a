"""TRL's GRPOTrainer with butwait's completions, and the likelihood term of GRPO-Direct.

Everything that butwait needs of TRL's inside stands in this file, and ``tests/training/grpo`` fails
with a sentence where TRL changes it. Three methods are overridden, by ``super()`` only; the
completions come through TRL's own ``rollout_func``.

Shapes: B rows of a forward pass, P tokens of the longest prompt, C of the longest completion.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from trl import GRPOTrainer

from butwait.records import Problem
from butwait.running.files import atomic_path
from butwait.training.grpo.generation import Generation
from butwait.training.grpo.likelihood import LikelihoodRow, dealt
from butwait.training.saving import gathered_weights, policy_of, save_weights

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

    def __init__(
        self, *, problems: Mapping[str, Problem], draw: Draw, alone: bool, **others: Any
    ) -> None:
        super().__init__(reward_funcs=self.reward, rollout_func=self.rollout, **others)
        self._problems = problems
        self._draw = draw
        self._alone = alone
        self._asked: list[str] = []
        self.generation: Generation | None = None
        self.counted = {"trained_tokens": 0}

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        # TRL hands a rollout function the prompts only.
        self._asked = [row["problem_id"] for row in inputs]
        return super()._generate_and_score_completions(inputs)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        generation = self.generation
        assert generation is not None
        if self._alone:
            return self._likelihood(model, generation, inputs)
        loss: torch.Tensor = super()._compute_loss(model, inputs)
        mask = inputs["completion_mask"] * inputs["tool_mask"]
        self._count(int(mask.sum()))
        if generation.learns:
            loss = loss + generation.mu * self._likelihood(model, generation, inputs)
        return loss

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
        """Adds a figure to the log of the optimizer step that is ending."""
        self._metrics["train"][name].append(value)

    def save_weights(self, folder: Path) -> None:
        """Writes the weights (of adapters, where there are any) into a folder, by the first device.
        All devices must call it."""
        gathered = gathered_weights(self)
        if self.accelerator.is_main_process:
            with atomic_path(folder) as temporary:
                save_weights(policy_of(self), temporary, gathered)

    def sample(self, prompts: list[list[int]]) -> tuple[list[list[int]], list[list[float]] | None]:
        """TRL's own way of drawing: ``num_generations`` equal prompts follow each other."""
        drawn: tuple[list[list[int]], list[list[float]] | None] = self._generate_single_turn(
            prompts, None, {}, self.num_generations
        )
        return drawn

    def _count(self, tokens: int) -> None:
        """Counts tokens with loss, those of all devices; all of them call it equally often."""
        own = torch.tensor([tokens], device=self.accelerator.device)
        self.counted["trained_tokens"] += int(self.accelerator.gather(own).sum())

    def _likelihood(
        self, model: Any, generation: Generation, inputs: dict[str, Any]
    ) -> torch.Tensor:
        """This forward pass's share of the NLL (``likelihood.py``), scaled so that the mean over
        devices and the sum over the passes of an optimizer step give the whole.

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

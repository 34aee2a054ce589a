"""Trainers on the tiny model whose completions are written down."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from trl import GRPOTrainer

from butwait.engines.models import load_causal_lm, load_tokenizer
from butwait.engines.settings import ModelSettings, StepRule
from butwait.records import Grade, Problem
from butwait.training.grpo.completions import Completion
from butwait.training.grpo.direct import row_weights
from butwait.training.grpo.generation import Generation, LikelihoodRow
from butwait.training.grpo.settings import GrpoSettings
from butwait.training.grpo.trainer import PolicyTrainer, check_devices, grpo_arguments

TINY = ModelSettings(name="tiny", device="cpu")
TOKENIZER = load_tokenizer(TINY)
EOS = TOKENIZER.eos_token_id
LIMIT = 16
QUESTIONS = ("Calculate 1 + 2.", "Calculate 3 + 4 + 5.", "Calculate 9 - 2.", "Calculate 8 + 1 - 3.")
PROBLEMS = [Problem(f"q{i}", question, "3", "integer") for i, question in enumerate(QUESTIONS)]


def settings(**changes: Any) -> GrpoSettings:
    """Four questions, four completions each, eight rows a pass."""
    values: dict[str, Any] = {
        "steps": 1,
        "questions": 4,
        "group": 4,
        "batch_size": 8,
        "step": StepRule(delimiters=(), max_tokens=LIMIT),
        "save_steps": None,
        "learning_rate": 1e-3,
    }
    return GrpoSettings.model_validate(values | changes)


def ids(text: str) -> np.ndarray:
    return np.array(TOKENIZER(text, add_special_tokens=False)["input_ids"], np.int32)


def written(problem: Problem, place: int) -> Completion:
    """The completion of a question at one place of its group: a box with EOS put behind it, text
    that ended at EOS by itself, one that was cut, and one that cannot be graded."""
    text = ("\\boxed{3}", "1 + 2", "9 + 9 = 18 and so on and on", "\\boxed{4}")[place]
    text += str(PROBLEMS.index(problem))
    finish = ("box", "eos", "length", "eos")[place]
    token_ids = ids(text)[:LIMIT]
    if finish != "length":
        token_ids = np.append(token_ids[: LIMIT - 1], np.int32(EOS))
    sampled = np.ones(len(token_ids), bool)
    sampled[-1] = finish != "box"
    status = ("correct", "wrong", "truncated", "ungradable")[place]
    if place == 3 and problem.id != "q1":
        status = "wrong"
    prompt_ids = ids(problem.question)
    return Completion(problem, prompt_ids, token_ids, sampled, text, finish, Grade(None, status))


def generation(problems: Sequence[Problem], group: int = 4, **changes: Any) -> Generation:
    """What was drawn for these questions; an ungradable completion has no reward."""
    rows = [written(problem, place) for problem in problems for place in range(group)]
    rewards = [
        None if row.grade.status == "ungradable" else float(row.grade.correct) for row in rows
    ]
    return Generation(rows, rewards, {"length": 1.0}, **changes)


def solutions(n: int) -> list[LikelihoodRow]:
    """Rows of several lengths with holes in their masks; the first question has two."""
    rows = []
    for i in range(n):
        problem = PROBLEMS[max(i - 1, 0)]
        token_ids = np.append(ids(f"{i} + 2 = {i + 2}" + " so" * i), np.int32(EOS))
        mask = np.ones(len(token_ids), bool)
        mask[-1] = False
        mask[1] = i % 2 == 0
        rows.append(LikelihoodRow(problem.id, ids(problem.question), token_ids, mask))
    return rows


def learned(problems: Sequence[Problem], n: int, mu: float = 0.5) -> Generation:
    """The same completions and ``n`` solutions; one more question was searched in vain."""
    rows = solutions(n)
    searched = len({row.problem_id for row in rows}) + 1
    return generation(
        problems, rows=rows, row_weights=row_weights(rows, searched), mu=mu, learns=True
    )


def policy_trainer(
    folder: Path,
    chosen: GrpoSettings,
    draw: Callable[[Sequence[Problem]], Generation] = generation,
    alone: bool = False,
    **others: Any,
) -> PolicyTrainer:
    """Ours."""
    with warnings.catch_warnings(action="ignore"):  # TRL calls rollout functions experimental
        return PolicyTrainer(
            problems={problem.id: problem for problem in PROBLEMS},
            draw=lambda trainer, problems: draw(problems),
            alone=alone,
            **(_shared(folder, chosen) | others),
        )


def stock_trainer(folder: Path, chosen: GrpoSettings) -> GRPOTrainer:
    """TRL's own, which is given the same completions and rewards."""
    by_question = {problem.question: problem for problem in PROBLEMS}

    def drawn(prompts: list[str]) -> Generation:
        return generation([by_question[prompt] for prompt in prompts[:: chosen.group]])

    def rollout(prompts: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
        rows = drawn(prompts).completions
        return {
            "prompt_ids": [row.prompt_ids.tolist() for row in rows],
            "completion_ids": [row.token_ids.tolist() for row in rows],
            "logprobs": None,
            "env_mask": [row.sampled.astype(int).tolist() for row in rows],
        }

    def reward(prompts: list[str], **_: Any) -> list[float | None]:
        return drawn(prompts).rewards

    with warnings.catch_warnings(action="ignore"):
        return GRPOTrainer(reward_funcs=reward, rollout_func=rollout, **_shared(folder, chosen))


def losses(trainer: GRPOTrainer) -> list[float]:
    """Trains, and gives what every forward pass sent backward."""
    seen: list[float] = []
    step = trainer.training_step

    def watched(*args: Any, **kwargs: Any) -> torch.Tensor:
        loss = step(*args, **kwargs)
        seen.append(loss.item())
        return loss

    trainer.training_step = watched
    trainer.train()
    return seen


def weights(trainer: GRPOTrainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def _shared(folder: Path, chosen: GrpoSettings) -> dict[str, Any]:
    rows = {"prompt": list(QUESTIONS), "problem_id": [problem.id for problem in PROBLEMS]}
    return {
        "model": load_causal_lm(TINY),
        "args": grpo_arguments(chosen, TINY, folder, 0, check_devices(chosen, 1)),
        "train_dataset": Dataset.from_dict(rows),
        "processing_class": TOKENIZER,
    }

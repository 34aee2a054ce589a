"""Labelled rollouts as the model sees them: training examples, their loss, and held-out scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import PreTrainedModel

from butwait.reward_models.audit.prefixes import ScoredPrefixes
from butwait.training.prm_data import Rollout

UNLABELLED = -100.0
"""No loss at this token. The Trainer counts all other tokens, over accumulated batches too."""


def to_examples(rollouts: Sequence[Rollout], limit: int | None) -> list[dict[str, np.ndarray]]:
    """{"input_ids": int32 (t,), "labels": float32 (t,)} of every rollout that fits and has a label
    of its own.

    A step that a completion shares with the solution it was continued from is trained there and
    not once more here, so that a step's weight is the number of sampled paths on which it is new.
    """
    examples = []
    for rollout in rollouts:
        own = np.arange(len(rollout.step_ends)) >= rollout.shared_steps
        own &= rollout.completions > 0
        if not own.any() or not fits(rollout, limit):
            continue
        ids = np.concatenate([rollout.prompt_ids, rollout.token_ids])
        labels = np.full(len(ids), UNLABELLED, np.float32)
        ends = len(rollout.prompt_ids) + rollout.step_ends[own] - 1
        labels[ends] = rollout.verified[own] / rollout.completions[own]
        examples.append({"input_ids": ids, "labels": labels})
    return examples


def fits(rollout: Rollout, limit: int | None) -> bool:
    """Whether prompt and rollout together have at most ``limit`` tokens."""
    return limit is None or len(rollout.prompt_ids) + len(rollout.token_ids) <= limit


def pad(examples: Sequence[dict[str, np.ndarray]], pad_id: int) -> dict[str, torch.Tensor]:
    """Rows padded on the right: input_ids and attention_mask int64 (b, t), labels float32
    (b, t)."""
    shape = (len(examples), max(len(example["input_ids"]) for example in examples))
    ids, mask = np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64)
    labels = np.full(shape, UNLABELLED, np.float32)
    for i, example in enumerate(examples):
        n = len(example["input_ids"])
        ids[i, :n], mask[i, :n], labels[i, :n] = example["input_ids"], 1, example["labels"]
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(mask),
        "labels": torch.from_numpy(labels),
    }


def step_loss(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Mean binary cross entropy in nats, with soft labels, over the labelled tokens.

    Args:
        outputs: with ``logits`` (b, t, 1).
        labels: (b, t), probabilities or UNLABELLED.
        num_items_in_batch: labelled tokens of the whole optimizer step; None: those of ``labels``.
    """
    labelled = labels != UNLABELLED
    total = binary_cross_entropy_with_logits(
        outputs.logits.squeeze(-1)[labelled].float(), labels[labelled], reduction="sum"
    )
    return total / (labelled.sum() if num_items_in_batch is None else num_items_in_batch)


@torch.inference_mode()
def score_prefixes(
    model: PreTrainedModel, rollouts: Sequence[Rollout], batch_size: int
) -> ScoredPrefixes:
    """The model's logits, unclipped, at every labelled prefix, each prefix once."""
    model.eval()
    # By length, to pad little.
    ordered = sorted(rollouts, key=lambda r: len(r.prompt_ids) + len(r.token_ids))
    rows: dict[tuple[str, bytes], tuple[float, int, int, int]] = {}
    for start in range(0, len(ordered), batch_size):
        batch = ordered[start : start + batch_size]
        for rollout, logits in zip(batch, _logits(model, batch), strict=True):
            for step in np.flatnonzero(rollout.completions):
                counts = int(rollout.verified[step]), int(rollout.completions[step])
                row = (float(logits[rollout.step_ends[step] - 1]), int(step) + 1, *counts)
                rows[rollout.problem_id, rollout.prefix(int(step))] = row
    questions = {name: i for i, name in enumerate(dict.fromkeys(name for name, _ in rows))}
    logit, depth, verified, completions = np.array(list(rows.values())).reshape(-1, 4).T
    return ScoredPrefixes(
        question=np.array([questions[name] for name, _ in rows], dtype=np.int64),
        depth=depth.astype(np.int64),
        logit=logit,
        verified=verified.astype(np.int64),
        completions=completions.astype(np.int64),
    )


def _logits(model: PreTrainedModel, rollouts: Sequence[Rollout]) -> list[np.ndarray]:
    """float32 (n,) at the completion's tokens of each rollout."""
    examples = []
    for rollout in rollouts:
        ids = np.concatenate([rollout.prompt_ids, rollout.token_ids])
        examples.append({"input_ids": ids, "labels": np.full(len(ids), UNLABELLED)})
    batch = pad(examples, pad_id=0)
    logits = model(
        input_ids=batch["input_ids"].to(model.device),
        attention_mask=batch["attention_mask"].to(model.device),
        use_cache=False,
    ).logits
    rows = logits.squeeze(-1).float().cpu().numpy()
    return [row[len(rollout.prompt_ids) :] for rollout, row in zip(rollouts, rows, strict=True)]

"""Training a process reward model, and its audit on questions it has not seen.

The loss is the binary cross entropy between the logit at the last token of each step and the
step's soft label, the mean over all labelled steps of an optimiser step. All steps of a rollout
are trained in one forward pass.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from scipy.special import logit as log_odds
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import PreTrainedModel, Trainer, TrainingArguments, set_seed

from butwait.engines.cache import context_limit
from butwait.engines.models import load_tokenizer
from butwait.engines.settings import ModelSettings
from butwait.problems.settings import PromptSettings
from butwait.records import Key, UserError
from butwait.reward_models.audit.prefixes import ScoredPrefixes, audit
from butwait.reward_models.kinds.trained import write_note
from butwait.reward_models.score_head import add_score_head, load_scorer
from butwait.running.files import atomic_path, write_json
from butwait.running.identity import identity
from butwait.training.arguments import in_precision, training_arguments
from butwait.training.checkpoints import WorkFolder
from butwait.training.devices import ONE, Devices, SharedTrainer, is_cast
from butwait.training.fit import fit, quiet, user_errors
from butwait.training.on_cpu import short_attention
from butwait.training.rollouts import Rollout, rollout_figures, split_questions
from butwait.training.saved import ROWS, Probe, check_saved, release
from butwait.training.settings import PrmSettings
from butwait.training.validation import Validation, split_rows
from butwait.training.weights import gathered_weights, policy_of, save_weights

UNLABELLED = -100.0
"""No loss at this token. The Trainer counts all other tokens, over accumulated batches too."""


def train_prm(
    policy: ModelSettings,
    rollouts: Sequence[Rollout],
    settings: PrmSettings,
    prompt: PromptSettings,
    output: Path,
    key: Key,
    *,
    continued: bool = False,
) -> dict[str, Any]:
    """Trains a copy of the policy with a score head, and audits it.

    Writes ``output/log.jsonl``, ``output/audit.json`` and, last, ``output/model``: an ordinary
    transformers checkpoint with its tokenizer and a note on how it is scored. Checkpoints are
    kept in ``output/work`` until the stage is complete; the same call after a kill goes on from the
    last one. On a CPU the same arguments give the same weights bit for bit.

    Args:
        policy: the model that is copied, and that sampled the rollouts.
        rollouts: from ``rollouts.collect_rollouts``.
        settings: how.
        prompt: how the reward model is shown the questions, here and in searches; the rollouts
            stand behind it (``rollouts.put``).
        output: the stage's folder.
        key: of this stage; it splits the questions, orders the batches, resamples the audit.
        continued: ``policy`` is a reward model itself and is trained on; its head is kept.

    Returns:
        Metrics: the counts of the rollouts (``rollouts.rollout_figures``), examples,
        dropped_too_long, steps, epochs, trained_tokens (tokens run in training, padding not
        counted), audited_tokens, loss_first and loss_last (nats per step label), and the audit's
        main figures.

    Raises:
        UserError: no rollout is left to train on or to audit with; a saved model that is not the
            one that was trained.
    """
    devices = Devices.of(policy)
    training, heldout = split_questions(rollouts, settings.heldout, key.derive("split"))
    tokenizer = load_tokenizer(policy)
    with quiet(), user_errors(output):
        start = in_precision(policy, settings)
        model = load_scorer(start) if continued else add_score_head(start, _prior(training))
        lengths = (settings.max_length, context_limit(model.config))
        limit = min(filter(None, lengths), default=None)
        examples = to_examples(training, limit)
        heldout = [rollout for rollout in heldout if to_examples([rollout], limit)]
        _check_enough(examples, heldout, limit)
        seed = key.derive("train").seed32()
        validation = None
        if settings.validation is not None:
            share = settings.validation.share
            names = [rollout.problem_id for rollout in training]
            training, held = split_rows(training, names, share, seed)
            examples, seen = to_examples(training, limit), to_examples(held, limit)
            _check_enough(examples, seen, limit)
            validation = Validation(settings.validation, seen, _labelled, output)
        short_attention(model, max(len(row["input_ids"]) for row in examples))
        set_seed(seed)
        made_of = _identity(examples, settings, policy, seed)
        with PartialState().main_process_first():
            work = WorkFolder(output / "work", made_of, devices.processes)
        trainer = _Trainer(
            model=model,
            args=training_arguments(
                TrainingArguments, settings, policy, work.path, seed, remove_unused_columns=False
            ),
            train_dataset=examples,
            data_collator=partial(pad, pad_id=tokenizer.pad_token_id),
            compute_loss_func=step_loss,
        )
        blank = np.full(1, tokenizer.pad_token_id, np.int32)
        trainer.share({"input_ids": blank, "labels": np.full(1, UNLABELLED, np.float32)})
        trained = fit(trainer, settings, work, output, "reward model", validation=validation)
        model = policy_of(trainer)
        scored = score_prefixes(model, heldout, settings.batch_size, devices)
        findings = audit(scored, key.derive("audit"))
        probe = Probe([(row["input_ids"], row["labels"]) for row in examples[:ROWS]], _row_loss)
        said, gathered, cast = probe.measure(model), gathered_weights(trainer), is_cast(trainer)
        parts = {} if gathered is None else {"gathered": gathered}
        if devices.is_first:
            write_json(output / "audit.json", findings)
            with atomic_path(output / "model") as folder:
                save_weights(model, folder, **parts)
                tokenizer.save_pretrained(folder)
                write_note(folder, tokenizer, prompt)
            del model
            release(trainer)
            check_saved(output / "model", start, probe, said, load_scorer, cast=cast)
    return {
        **rollout_figures(rollouts),
        "examples": len(examples),
        "dropped_too_long": sum(not fits(rollout, limit) for rollout in rollouts),
        **trained,
        "audited_tokens": sum(len(rollout.ids) for rollout in heldout),
        **{name: findings[name] for name in ("verdict", "within_question_auc", "auc", "ece")},
    }


def _check_enough(examples: list[Any], heldout: list[Any], limit: int | None) -> None:
    for rollouts, purpose in ((examples, "train a reward model on"), (heldout, "audit it with")):
        if not rollouts:
            raise UserError(
                f"no rollout is left to {purpose}: all are ungradable or longer than {limit} "
                "tokens (prm.max_length, or the model's context)"
            )


class _Trainer(SharedTrainer, Trainer):
    """The trainer, which also counts the tokens it runs."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if model.training:
            rows = (inputs["labels"] != UNLABELLED).any(dim=1)  # without those of `share`
            self.count(int(inputs["attention_mask"][rows].sum()))
        return super().compute_loss(model, inputs, *args, **kwargs)


def _row_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The sum over the labelled tokens. Logits (t, 1), labels (t,)."""
    labelled = labels != UNLABELLED
    return binary_cross_entropy_with_logits(
        logits.squeeze(-1)[labelled], labels[labelled], reduction="sum"
    )


def _labelled(inputs: dict[str, Any]) -> int:
    return int((inputs["labels"] != UNLABELLED).sum())


def _identity(
    examples: list[dict[str, np.ndarray]], settings: PrmSettings, policy: ModelSettings, seed: int
) -> str:
    """Of the work whose checkpoints can be gone on from."""
    data = b"".join(array.tobytes() for example in examples for array in example.values())
    digest = hashlib.sha256(data).hexdigest()
    return identity(settings, policy, seed, digest)


def _prior(rollouts: Sequence[Rollout]) -> float:
    """Log-odds of the mean label, away from the infinities."""
    labels = [example["labels"] for example in to_examples(rollouts, None)]
    if not labels:
        return 0.0
    flat = np.concatenate(labels)
    return float(log_odds(np.clip(flat[flat != UNLABELLED].mean(), 0.01, 0.99)))


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
        ids = rollout.ids
        labels = np.full(len(ids), UNLABELLED, np.float32)
        ends = len(rollout.prompt_ids) + rollout.step_ends[own] - 1
        labels[ends] = rollout.verified[own] / rollout.completions[own]
        examples.append({"input_ids": ids, "labels": labels})
    return examples


def fits(rollout: Rollout, limit: int | None) -> bool:
    """Whether prompt and rollout together have at most ``limit`` tokens."""
    return limit is None or len(rollout.ids) <= limit


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
        num_items_in_batch: labelled tokens of the whole optimiser step; None: those of ``labels``.
    """
    labelled = labels != UNLABELLED
    total = binary_cross_entropy_with_logits(
        outputs.logits.squeeze(-1)[labelled].float(), labels[labelled], reduction="sum"
    )
    return total / (labelled.sum() if num_items_in_batch is None else num_items_in_batch)


@torch.inference_mode()
def score_prefixes(
    model: PreTrainedModel,
    rollouts: Sequence[Rollout],
    batch_size: int,
    devices: Devices = ONE,
) -> ScoredPrefixes:
    """The model's logits, unclipped, at every labelled prefix, each prefix once. Devices share the
    batches, and each is given all logits; all of them must call it."""
    model.eval()
    ordered = sorted(rollouts, key=lambda rollout: len(rollout.ids))  # to pad little
    batches = [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]
    own: dict[int, list[np.ndarray]] = {}
    for number, is_own in devices.dealt(len(batches)):
        scores = _logits(model, batches[number])
        own |= {number: scores} if is_own else {}
    found = {number: scores for part in devices.gathered(own) for number, scores in part.items()}
    rows: dict[tuple[str, bytes], tuple[float, int, int, int]] = {}
    for number, batch in enumerate(batches):
        for rollout, logits in zip(batch, found[number], strict=True):
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
    unlabelled = [{"input_ids": r.ids, "labels": np.full(len(r.ids), UNLABELLED)} for r in rollouts]
    batch = pad(unlabelled, pad_id=0)
    logits = model(
        input_ids=batch["input_ids"].to(model.device),
        attention_mask=batch["attention_mask"].to(model.device),
        use_cache=False,
    ).logits
    rows = logits.squeeze(-1).float().cpu().numpy()
    return [row[len(rollout.prompt_ids) :] for rollout, row in zip(rollouts, rows, strict=True)]

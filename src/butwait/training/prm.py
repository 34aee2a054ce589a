"""Training a process reward model, and its audit on questions it has not seen.

The loss is the binary cross entropy between the logit at the last token of each step and the
step's soft label, the mean over all labelled steps of an optimizer step. All steps of a rollout
are trained in one forward pass.
"""

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import logit
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments, set_seed

from butwait.engines.cache import context_limit
from butwait.engines.models import load_tokenizer
from butwait.engines.settings import ModelSettings
from butwait.problems.settings import PromptSettings
from butwait.records import Key, UserError
from butwait.reward_models.audit.prefixes import audit
from butwait.reward_models.kinds.trained import write_note
from butwait.reward_models.score_head import add_score_head, load_scorer
from butwait.running.files import atomic_path, write_json
from butwait.running.identity import identity
from butwait.training.arguments import (
    in_precision,
    on_one_device,
    pass_arguments,
    shared_arguments,
)
from butwait.training.callbacks import Log, Progress
from butwait.training.checkpoints import Marker, WorkFolder
from butwait.training.failures import user_errors
from butwait.training.prm_batches import (
    UNLABELLED,
    fits,
    pad,
    score_prefixes,
    step_loss,
    to_examples,
)
from butwait.training.prm_data import Rollout, split_questions, summarise
from butwait.training.prm_settings import PrmSettings
from butwait.training.quiet import quiet


@dataclass(frozen=True, slots=True)
class PrmResult:
    """Attributes:
    metrics: plain values for ``stage.json``.
    audit: what ``audit.json`` holds.
    """

    metrics: dict[str, Any]
    audit: dict[str, Any]


def train_prm(
    policy: ModelSettings,
    rollouts: Sequence[Rollout],
    settings: PrmSettings,
    prompt: PromptSettings,
    output: Path,
    key: Key,
    *,
    continued: bool = False,
) -> PrmResult:
    """Trains a copy of the policy with a score head, and audits it.

    Writes ``output/log.jsonl``, ``output/audit.json`` and, last, ``output/model``: an ordinary
    transformers checkpoint with its tokenizer and a note on how it is scored. Checkpoints are
    kept in ``output/work`` until the end; the same call after a kill goes on from the last one.
    On a CPU the same arguments give the same weights bit for bit.

    Args:
        policy: the model that is copied, and that sampled the rollouts.
        rollouts: from ``rollouts.collect_rollouts``.
        settings: how.
        prompt: how the policy was shown the questions; the reward model is shown them alike.
        output: the stage's folder.
        key: of this stage; it splits the questions, orders the batches, resamples the audit.
        continued: ``policy`` is a reward model itself and is trained on; its head is kept.

    Metrics: the counts of the rollouts (``prm_data.summarise``), examples, dropped_too_long,
    steps, epochs, trained_tokens (tokens run in training, padding not counted), audited_tokens,
    loss_first and loss_last (nats per step label), and the audit's main figures.

    Raises UserError where no rollout is left to train on or to audit with.
    """
    training, heldout = split_questions(rollouts, settings.heldout, key.derive("split"))
    tokenizer = load_tokenizer(policy)
    with quiet(), user_errors():
        start = in_precision(policy, settings)
        model = load_scorer(start) if continued else add_score_head(start, _prior(training))
        limit = _limit(model, settings)
        examples = to_examples(training, limit)
        heldout = [rollout for rollout in heldout if to_examples([rollout], limit)]
        _check_enough(examples, heldout, limit)
        seed = key.derive("train").seed32()
        trained = _fit(model, examples, tokenizer.pad_token_id, policy, settings, output, seed)
        findings = audit(score_prefixes(model, heldout, settings.batch_size), key.derive("audit"))
        write_json(output / "audit.json", findings)
        model.config.use_cache = True  # The trainer turned it off; scoring goes step by step.
        with atomic_path(output / "model") as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            write_note(folder, tokenizer, prompt)
    WorkFolder(output / "work", "").remove()
    metrics = {
        **summarise(rollouts),
        "examples": len(examples),
        "dropped_too_long": sum(not fits(rollout, limit) for rollout in rollouts),
        **trained,
        "audited_tokens": sum(len(r.prompt_ids) + len(r.token_ids) for r in heldout),
        **{name: findings[name] for name in ("verdict", "within_question_auc", "auc", "ece")},
    }
    return PrmResult(metrics, findings)


def _check_enough(examples: list[Any], heldout: list[Rollout], limit: int | None) -> None:
    for rollouts, purpose in ((examples, "train a reward model on"), (heldout, "audit it with")):
        if not rollouts:
            raise UserError(
                f"no rollout is left to {purpose}: all are ungradable or longer than {limit} "
                "tokens (prm.max_length, or the model's context)"
            )


class _Trainer(Trainer):
    """The trainer, which also counts the tokens it runs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.counted = {"trained_tokens": 0}

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self.counted["trained_tokens"] += int(inputs["attention_mask"].sum())
        return super().compute_loss(model, inputs, *args, **kwargs)


def _fit(
    model: PreTrainedModel,
    examples: list[dict[str, np.ndarray]],
    pad_id: int,
    policy: ModelSettings,
    settings: PrmSettings,
    output: Path,
    seed: int,
) -> dict[str, Any]:
    """Trains in place; returns the metrics of the training itself."""
    set_seed(seed)
    data = b"".join(array.tobytes() for example in examples for array in example.values())
    made_of = identity(settings, policy, seed, hashlib.sha256(data).hexdigest())
    work = WorkFolder(output / "work", made_of)
    with ExitStack() as stack:
        trainer = _Trainer(
            model=model,
            args=_arguments(settings, policy, work.path, seed),
            train_dataset=examples,
            data_collator=lambda batch: pad(batch, pad_id),
            compute_loss_func=step_loss,
        )
        trainer.remove_callback(PrinterCallback)
        log = Log(output / "log.jsonl")
        for callback in (Marker(trainer.counted), log, Progress("reward model", stack)):
            trainer.add_callback(callback)
        checkpoint = work.last()
        if checkpoint is not None:
            trainer.counted.update(checkpoint[1])
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint[0]))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        **trainer.counted,
        "loss_first": losses[0] if losses else None,
        "loss_last": losses[-1] if losses else None,
    }


def _arguments(
    settings: PrmSettings, policy: ModelSettings, work: Path, seed: int
) -> TrainingArguments:
    arguments = TrainingArguments(
        **shared_arguments(settings, policy, work, seed),
        **pass_arguments(settings),
        remove_unused_columns=False,
    )
    return on_one_device(arguments)


def _prior(rollouts: Sequence[Rollout]) -> float:
    """Log-odds of the mean label, away from the infinities."""
    labels = [example["labels"] for example in to_examples(rollouts, None)]
    if not labels:
        return 0.0
    flat = np.concatenate(labels)
    return float(logit(np.clip(flat[flat != UNLABELLED].mean(), 0.01, 0.99)))


def _limit(model: PreTrainedModel, settings: PrmSettings) -> int | None:
    limits = [n for n in (settings.max_length, context_limit(model.config)) if n is not None]
    return min(limits, default=None)

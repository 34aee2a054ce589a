"""Supervised fine-tuning by TRL's SFTTrainer.

The loss of an optimizer step is the mean over all its tokens with loss (every device and
accumulation step together) of -log p, in nats: a long example weighs more than a short one.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from butwait.engines.models import load_causal_lm, load_tokenizer
from butwait.engines.settings import ModelSettings
from butwait.problems.settings import PromptSettings
from butwait.records import Example, UserError
from butwait.running.identity import identity
from butwait.synthesis.dataset import quiet_datasets
from butwait.training.arguments import (
    in_precision,
    on_one_device,
    pass_arguments,
    shared_arguments,
)
from butwait.training.callbacks import Log, Progress
from butwait.training.checkpoints import Marker, WorkFolder
from butwait.training.encode import NO_LOSS, Rows, make_rows
from butwait.training.epochs import KeepEpochs
from butwait.training.failures import user_errors
from butwait.training.four_bit import load_four_bit
from butwait.training.packing import check_packing
from butwait.training.quiet import quiet
from butwait.training.saving import (
    lora_config,
    merge_again,
    policy_of,
    save_merged,
    save_model,
)
from butwait.training.settings import SftSettings


def train_sft(
    model: ModelSettings,
    examples: Sequence[Example],
    settings: SftSettings,
    output: Path,
    seed: int,
    prompt: PromptSettings | None = None,
) -> dict[str, Any]:
    """Fine-tunes a causal language model on examples.

    Writes ``output/model`` (weights, tokenizer, generation config; with LoRA the merged weights,
    and the adapter in ``output/adapter``) and ``output/log.jsonl``; with ``keep_epochs``, the same
    folders of every epoch under ``output/epochs/<N>``. Checkpoints are kept in
    ``output/work`` until the end; the same call after a kill goes on from the last one. On a CPU
    the same arguments give the same weights bit for bit, killed or not.

    Args:
        model: the model to start from.
        examples: what to learn; see ``make_rows`` for those of another tokenizer.
        settings: how.
        output: the stage's folder.
        seed: order of the examples, adapters' initial weights, dropout.
        prompt: the prompt's layout for examples of another tokenizer; None: the default one.

    Returns:
        examples, dropped_too_long, encoded_again, packed_rows (None without packing), steps,
        epochs, trained_tokens (tokens with loss, counted each time they are seen), loss_first and
        loss_last (nats per token, of the first and last logged step).

    Raises:
        UserError: bad examples (see ``make_rows``), a model that cannot be packed, adapted or
            held in memory, a loss that is no number, a full disk.
    """
    tokenizer = load_tokenizer(model)
    weights = in_precision(model, settings)
    four_bit = settings.lora is not None and settings.lora.four_bit
    policy = load_four_bit(weights) if four_bit else load_causal_lm(weights)
    layout = prompt or PromptSettings()
    limit = _length_limit(policy, settings)
    rows = make_rows(examples, tokenizer, layout, limit, settings.too_long)
    made_of = identity(settings, model, seed, rows.input_ids, rows.labels)
    work = WorkFolder(output / "work", made_of)
    with quiet(), user_errors(), ExitStack() as stack:
        trainer = _trainer(policy, tokenizer, rows, settings, model, work.path, seed)
        marker = Marker(trainer.counted)
        for callback in (marker, Log(output / "log.jsonl"), Progress("sft", stack)):
            trainer.add_callback(callback)
        if settings.keep_epochs:
            trainer.add_callback(
                KeepEpochs(output / "epochs", "adapter" if settings.lora else "model")
            )
        checkpoint = work.last()
        if checkpoint is not None:
            trainer.counted.update(checkpoint[1])
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint[0]))
        if settings.lora is None:
            save_model(policy_of(trainer), tokenizer, output)
        else:
            save_merged(policy_of(trainer), tokenizer, settings.lora, weights, output)
        _finish_epochs(tokenizer, settings, weights, output)
    work.remove()
    return _metrics(trainer, rows, settings)


class _Trainer(SFTTrainer):
    """TRL's trainer, which also counts the tokens with loss and writes no model card."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.counted = {"trained_tokens": 0}

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        # The first token of a row is predicted from nothing and never has a loss.
        self.counted["trained_tokens"] += int((inputs["labels"][:, 1:] != NO_LOSS).sum())
        return super().compute_loss(model, inputs, *args, **kwargs)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Checkpoints are for resuming and go away: they need no card."""


def _trainer(
    policy: Any,
    tokenizer: Any,
    rows: Rows,
    settings: SftSettings,
    model: ModelSettings,
    work: Path,
    seed: int,
) -> _Trainer:
    if settings.packing:
        check_packing(policy)
    arguments = _arguments(settings, model, work, seed, longest=max(map(len, rows.input_ids)))
    dataset = Dataset.from_dict({"input_ids": rows.input_ids, "labels": rows.labels})
    try:
        with quiet_datasets():
            trainer = _Trainer(
                model=policy,
                args=on_one_device(arguments),
                train_dataset=dataset,
                processing_class=tokenizer,
                peft_config=lora_config(settings.lora) if settings.lora else None,
            )
    except ValueError as error:  # peft and TRL refuse layers that they cannot adapt
        raise UserError(f"the training cannot be set up: {error}") from error
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(
    settings: SftSettings, model: ModelSettings, work: Path, seed: int, longest: int
) -> SFTConfig:
    return SFTConfig(
        **shared_arguments(settings, model, work, seed),
        **pass_arguments(settings),
        # Rows are ready: TRL must neither tokenise nor cut. Packing is a part of what it prepares.
        dataset_kwargs={"skip_prepare_dataset": not settings.packing},
        packing=settings.packing,
        packing_strategy="bfd",
        max_length=(settings.max_length or longest) if settings.packing else None,
    )


def _length_limit(policy: Any, settings: SftSettings) -> int | None:
    positions = getattr(policy.config.get_text_config(), "max_position_embeddings", None)
    limits = [limit for limit in (settings.max_length, positions) if limit is not None]
    return min(limits, default=None)


def _finish_epochs(
    tokenizer: Any, settings: SftSettings, weights: ModelSettings, output: Path
) -> None:
    """Makes ordinary checkpoints of the epochs that were kept."""
    if not settings.keep_epochs:
        return
    for epoch in sorted((output / "epochs").iterdir()):
        if settings.lora is not None:
            merge_again(weights, tokenizer, epoch)
        else:
            tokenizer.save_pretrained(epoch / "model")


def _metrics(trainer: _Trainer, rows: Rows, settings: SftSettings) -> dict[str, Any]:
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "examples": len(rows.input_ids),
        "dropped_too_long": rows.dropped_too_long,
        "encoded_again": rows.encoded_again,
        "packed_rows": len(trainer.train_dataset) if settings.packing else None,
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "trained_tokens": trainer.counted["trained_tokens"],
        "loss_first": losses[0] if losses else None,
        "loss_last": losses[-1] if losses else None,
    }

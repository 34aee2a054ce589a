"""Supervised fine-tuning by TRL's SFTTrainer.

The loss of an optimizer step is the mean over all its tokens with loss (every device and
accumulation step together) of -log p, in nats: a long example weighs more than a short one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from butwait.engines.models import load_tokenizer
from butwait.engines.settings import ModelSettings
from butwait.problems.settings import PromptSettings
from butwait.records import Example, UserError
from butwait.running.identity import identity
from butwait.synthesis.dataset import quiet_datasets
from butwait.training.arguments import in_precision, training_arguments
from butwait.training.checkpoints import KeepEpochs, WorkFolder
from butwait.training.encode import NO_LOSS, Rows, check_packing, make_rows
from butwait.training.fit import fit, quiet, user_errors
from butwait.training.settings import SftSettings
from butwait.training.weights import load_policy, lora_config, merge_again, policy_of, save_trained


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
    ``output/work`` until the stage is complete; the same call after a kill goes on from the last
    one. On a CPU the same arguments give the same weights bit for bit, killed or not.

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
    policy = load_policy(weights, settings.lora)
    positions = getattr(policy.config.get_text_config(), "max_position_embeddings", None)
    limit = min(filter(None, (settings.max_length, positions)), default=None)
    rows = make_rows(examples, tokenizer, prompt or PromptSettings(), limit, settings.too_long)
    made_of = identity(settings, model, seed, rows.input_ids, rows.labels)
    work = WorkFolder(output / "work", made_of)
    with quiet(), user_errors(output):
        longest = max(map(len, rows.input_ids))
        arguments = training_arguments(
            SFTConfig,
            settings,
            model,
            work.path,
            seed,
            # Rows are ready: TRL must neither tokenise nor cut. Packing is a part of what it
            # prepares.
            dataset_kwargs={"skip_prepare_dataset": not settings.packing},
            packing=settings.packing,
            packing_strategy="bfd",
            max_length=(settings.max_length or longest) if settings.packing else None,
        )
        trainer = _trainer(policy, tokenizer, rows, settings, arguments)
        epochs = KeepEpochs(output / "epochs", "adapter" if settings.lora else "model")
        kept = [epochs] if settings.keep_epochs else []
        figures = fit(trainer, work, output, "sft", *kept)
        save_trained(policy_of(trainer), tokenizer, settings.lora, weights, output)
        if settings.keep_epochs:
            _finish_epochs(tokenizer, settings, weights, output)
    return {
        "examples": len(rows.input_ids),
        "dropped_too_long": rows.dropped_too_long,
        "encoded_again": rows.encoded_again,
        "packed_rows": len(trainer.train_dataset) if settings.packing else None,
        **figures,
    }


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
    policy: Any, tokenizer: Any, rows: Rows, settings: SftSettings, arguments: SFTConfig
) -> _Trainer:
    if settings.packing:
        check_packing(policy)
    dataset = Dataset.from_dict({"input_ids": rows.input_ids, "labels": rows.labels})
    try:
        with quiet_datasets():
            return _Trainer(
                model=policy,
                args=arguments,
                train_dataset=dataset,
                processing_class=tokenizer,
                peft_config=lora_config(settings.lora),
            )
    except ValueError as error:  # peft and TRL refuse layers that they cannot adapt
        raise UserError(f"the training cannot be set up: {error}") from error


def _finish_epochs(
    tokenizer: Any, settings: SftSettings, weights: ModelSettings, output: Path
) -> None:
    """Makes ordinary checkpoints of the epochs that were kept."""
    for epoch in sorted((output / "epochs").iterdir()):
        if settings.lora is not None:
            merge_again(weights, tokenizer, epoch)
        else:
            tokenizer.save_pretrained(epoch / "model")

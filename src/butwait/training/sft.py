"""Supervised fine-tuning by TRL's SFTTrainer.

The loss of an optimiser step is the mean over all its tokens with loss (every device and
accumulation step together) of -log p, in nats: a long example weighs more than a short one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
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
from butwait.training.devices import Devices, SharedTrainer, is_cast, is_sharded
from butwait.training.encode import NO_LOSS, Rows, check_packing, make_rows
from butwait.training.fit import fit, quiet, user_errors
from butwait.training.on_cpu import compact_head, short_attention
from butwait.training.saved import ROWS, Probe, check_saved, release
from butwait.training.settings import SftSettings
from butwait.training.shared_prompts import behind_beginning, same_logprobs, shares
from butwait.training.validation import Validation, split_rows
from butwait.training.weights import Start, adapters_in_float32, lora_config


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
        prompt: the prompt's layout: of examples of another tokenizer, of the end of a turn, and of
            the chat template that is saved; None: the default one.

    Returns:
        examples, dropped_too_long, encoded_again, packed_rows (None without packing), steps,
        epochs, trained_tokens (tokens with loss, counted each time they are seen), loss_first and
        loss_last (nats per token, of the first and last logged step); with ``validation``, its
        figures.

    Raises:
        UserError: bad examples (see ``make_rows``), a model that cannot be packed, adapted or
            held in memory, a loss that is no number, a full disk, a saved model that is not the
            one that was trained.
    """
    devices = Devices.of(model)
    tokenizer = load_tokenizer(model)
    layout = prompt or PromptSettings()
    start = Start(in_precision(model, settings), settings.lora, tokenizer, layout)
    policy = start.load()
    positions = getattr(policy.config.get_text_config(), "max_position_embeddings", None)
    limit = min(filter(None, (settings.max_length, positions)), default=None)
    held: list[Example] = []
    if settings.validation is not None:
        questions = [example.problem_id for example in examples]
        examples, held = split_rows(examples, questions, settings.validation.share, seed)
    rows = make_rows(examples, tokenizer, layout, limit, settings.too_long)
    made_of = identity(settings, model, seed, rows.input_ids, rows.labels)
    with PartialState().main_process_first():
        work = WorkFolder(output / "work", made_of, devices.processes)
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
            router_aux_loss_coef=0.0,
            packing=settings.packing,
            packing_strategy="bfd",
            max_length=(settings.max_length or longest) if settings.packing else None,
        )
        trainer = _trainer(policy, tokenizer, rows, settings, arguments)
        packed_rows = len(trainer.train_dataset) if settings.packing else None
        pad = tokenizer.pad_token_id
        blank = {"input_ids": [pad, pad], "labels": [NO_LOSS, NO_LOSS], "seq_lengths": [2]}
        trainer.share(blank)
        epochs = KeepEpochs(output / "epochs", "adapter" if settings.lora else "model", trainer)
        kept = [epochs] if settings.keep_epochs else []
        validation, probed = None, rows
        if settings.validation is not None:
            probed = make_rows(held, tokenizer, layout, limit, settings.too_long)
            seen = Dataset.from_dict({"input_ids": probed.input_ids, "labels": probed.labels})
            validation = Validation(settings.validation, seen, _labelled, output)
        probe = Probe(list(zip(probed.input_ids, probed.labels, strict=True))[:ROWS])
        del policy  # the trainer's, which is released below
        figures = fit(trainer, settings, work, output, "sft", *kept, validation=validation)
        trained, cast = start.save_of(trainer, output, probe), is_cast(trainer)
        if trained is not None:  # this is the device that writes
            if settings.keep_epochs:
                _finish_epochs(start, output)
            release(trainer)
            check_saved(output / "model", start.weights, probe, trained, cast=cast)
    return {
        "examples": len(rows.input_ids),
        "dropped_too_long": rows.dropped_too_long,
        "encoded_again": rows.encoded_again,
        "packed_rows": packed_rows,
        **figures,
    }


def _labelled(inputs: dict[str, Any]) -> int:
    """Tokens of a batch with loss; the first of a row is predicted from nothing and has none."""
    return int((inputs["labels"][:, 1:] != NO_LOSS).sum())


class _Trainer(SharedTrainer, SFTTrainer):
    """TRL's trainer, which also counts the tokens with loss, runs once what all rows of a pass
    begin with, and writes no model card."""

    _same: bool | None = None
    """Whether the model says the same behind a beginning that ran once; None: not yet seen."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if model.training:
            self.count(_labelled(inputs))
            inputs = self._behind_beginning(model, inputs)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _behind_beginning(self, model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        if self._same is False or self.accelerator.num_processes > 1 or is_sharded(self):
            return inputs
        own = self.accelerator.unwrap_model(model)
        if not shares(own, inputs["input_ids"].size(1)):
            return inputs
        with self.accelerator.autocast():
            behind = behind_beginning(own, inputs, NO_LOSS)
        if behind is not inputs and self._same is None:
            with torch.no_grad(), self.accelerator.autocast():
                short, whole = (_logprobs(own, given) for given in (behind, inputs))
                self._same = same_logprobs(own, short, whole)
            return self._behind_beginning(model, inputs)
        return behind

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Checkpoints are for resuming and go away: they need no card."""


def _logprobs(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """float32 (n,): of the tokens with loss."""
    given = {name: value for name, value in inputs.items() if name != "labels"}
    out = model(**given, use_cache=False)  # as TRL runs it
    logits, labels = out.logits[:, :-1].float(), inputs["labels"][:, 1:]
    seen = labels != NO_LOSS
    chosen = logits[seen].log_softmax(-1)
    return chosen.gather(-1, labels[seen][:, None]).squeeze(-1)


def _trainer(
    policy: Any, tokenizer: Any, rows: Rows, settings: SftSettings, arguments: SFTConfig
) -> _Trainer:
    # Other devices may be given their weights by the first.
    if settings.packing and Devices.here().is_first:
        check_packing(policy)
    dataset = Dataset.from_dict({"input_ids": rows.input_ids, "labels": rows.labels})
    try:
        with quiet_datasets():
            trainer = _Trainer(
                model=policy,
                args=arguments,
                train_dataset=dataset,
                processing_class=tokenizer,
                peft_config=lora_config(settings.lora),
            )
    except ValueError as error:  # peft and TRL refuse layers that they cannot adapt
        raise UserError(f"the training cannot be set up: {error}") from error
    adapters_in_float32(trainer.model)
    compact_head(trainer.model)
    if not settings.packing:
        short_attention(trainer.model, max(map(len, rows.input_ids)))
    return trainer


def _finish_epochs(start: Start, output: Path) -> None:
    """Makes ordinary checkpoints of the epochs that were kept: none where the training ended before
    the first was over."""
    for epoch in sorted((output / "epochs").glob("*")):
        if start.lora is not None:
            start.merge(epoch)
        else:
            start.save_tokenizer(epoch / "model")

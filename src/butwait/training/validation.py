"""The loss on questions that are not trained on, while a model trains, and what follows from it."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from transformers import TrainerCallback, TrainerState

from butwait.records import UserError
from butwait.running.files import atomic_path, remove
from butwait.running.json_lines import dump_rows
from butwait.training.checkpoints import prune_best
from butwait.training.devices import Devices
from butwait.training.settings import ValidationSettings
from butwait.training.weights import save_trained

Row = TypeVar("Row")
LOSS = "validation_loss"


def split_rows(
    rows: Sequence[Row], questions: Sequence[Hashable], share: float, seed: int
) -> tuple[list[Row], list[Row]]:
    """(rows to train on, rows to validate on): a ``share`` of the questions, at least one of them,
    with all their rows. Raises UserError where that leaves none to train on."""
    names = sorted(set(questions), key=str)
    count = max(1, round(share * len(names)))
    if count >= len(names):
        raise UserError(
            f"validation.share: {share:g} of {len(names)} questions leaves none to train on"
        )
    chosen = np.random.default_rng(seed).permutation(len(names))[:count]
    kept = {names[i] for i in chosen}
    parts: tuple[list[Row], list[Row]] = ([], [])
    for row, question in zip(rows, questions, strict=True):
        parts[question in kept].append(row)
    return parts


@dataclass(eq=False)
class Validation(TrainerCallback):
    """Looks at the loss before the first step, every so many, and after the last; writes
    ``validation.jsonl`` (step, loss in the units of the training's).

    The looks are part of the trainer's log, so that a resumed training knows those before its
    checkpoint and stops where the other one did.

    Attributes:
        settings: when, and whether to stop.
        rows: the data set's rows that are looked at.
        labelled: how many labels of a batch have a loss.
        output: the stage's folder; the weights of the lowest loss are in ``best/<step>``.
    """

    settings: ValidationSettings
    rows: Sequence[Any]
    labelled: Callable[[dict[str, torch.Tensor]], int]
    output: Path
    trainer: Any = None

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if state.global_step == 0:
            if state.is_world_process_zero:
                remove(self._best_folder)  # of other work in the same folder
            self._look(state, control)
        else:
            self._write(state)

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if state.global_step % self.settings.every == 0 or state.global_step >= state.max_steps:
            self._look(state, control)

    def figures(self) -> dict[str, Any]:
        """The first, last and lowest loss, and the step whose weights are kept. Where that is not
        the last, the trainer's model is given its weights."""
        state = self.trainer.state
        looks = _looks(state)
        best = _best(looks) if self.settings.patience is not None else looks[-1]
        if best["step"] != state.global_step:
            Devices.of_trainer(self.trainer).wait()  # the first one may still be writing them
            kept = self._best_folder / str(best["step"])
            if not kept.is_dir():  # the trainer would keep the last weights, without a word
                raise UserError(
                    f"validation.patience: the weights of the lowest loss, {kept}, are gone; "
                    f"remove {self.output / 'work'} to train again"
                )
            state.best_model_checkpoint = str(kept)
            self.trainer._load_best_model()
        return {
            "validation_first": looks[0][LOSS],
            "validation_last": looks[-1][LOSS],
            "validation_best": _best(looks)[LOSS],
            "kept_step": best["step"],
        }

    @property
    def _best_folder(self) -> Path:
        return self.output / "best"

    def _look(self, state: TrainerState, control: Any) -> None:
        state.log_history.append({"step": state.global_step, LOSS: self._loss()})
        self._write(state)
        patience, looks = self.settings.patience, _looks(state)
        if patience is None:
            return
        best = _best(looks)
        if best is looks[-1]:
            save_trained(self.trainer, self._best_folder / str(best["step"]))
        elif len(looks) - 1 - looks.index(best) >= patience:
            control.should_training_stop = True
        if state.is_world_process_zero:
            prune_best(self._best_folder, Path(self.trainer.args.output_dir), looks, _best)

    def _loss(self) -> float:
        trainer, size = self.trainer, self.trainer.args.per_device_train_batch_size
        devices, starts = Devices.of_trainer(trainer), range(0, len(self.rows), size)
        total, count = 0.0, 0
        trainer.model.eval()
        with torch.no_grad(), trainer.compute_loss_context_manager():
            for number, counts in devices.dealt(len(starts)):
                start = starts[number]
                batch = [self.rows[i] for i in range(start, min(start + size, len(self.rows)))]
                inputs = trainer._prepare_inputs(trainer.data_collator(batch))
                labels = self.labelled(inputs) * counts
                total += float(trainer.compute_loss(trainer.model, inputs)) * labels
                count += labels
        trainer.model.train()
        sums = devices.gathered((total, count))
        return sum(part for part, _ in sums) / sum(part for _, part in sums)

    def _write(self, state: TrainerState) -> None:
        if not state.is_world_process_zero:
            return
        rows = [{"step": look["step"], "loss": look[LOSS]} for look in _looks(state)]
        with atomic_path(self.output / "validation.jsonl") as path:
            path.write_text(dump_rows(rows), encoding="utf-8")


def _looks(state: TrainerState) -> list[dict[str, Any]]:
    return [entry for entry in state.log_history if LOSS in entry]


def _best(looks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first look with the lowest loss."""
    return min(looks, key=lambda look: float(look[LOSS]))

"""A trainer run from its last checkpoint to its end: its log, its bar, and how it fails."""

import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import torch
from accelerate import PartialState
from transformers import PrinterCallback, TrainerCallback, TrainerState

from butwait.engines.models import no_progress_bars
from butwait.records import UserError
from butwait.running.progress import task
from butwait.running.refusals import refusals_told
from butwait.training.checkpoints import Marker, WorkFolder

_LOGGED = ("loss", "learning_rate", "grad_norm", "epoch")


def fit(
    trainer: Any, work: WorkFolder, output: Path, title: str, *callbacks: TrainerCallback
) -> dict[str, Any]:
    """Trains to the end, with ``output/log.jsonl`` and a progress bar called ``title``.

    ``trainer.counted``, a dictionary of counts, goes into checkpoints and comes back from them.

    Returns:
        steps, epochs, the counts, loss_first and loss_last (of the first and last logged step).
    """
    with ExitStack() as stack:
        marker = Marker(lambda: trainer.counted)
        shown = (Log(output / "log.jsonl"), Progress(title, stack))
        for callback in (marker, *shown, *callbacks):
            trainer.add_callback(callback)
        resume(trainer, work, trainer.counted.update)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        **trainer.counted,
        "loss_first": losses[0] if losses else None,
        "loss_last": losses[-1] if losses else None,
    }


def resume(trainer: Any, work: WorkFolder, restore: Callable[[dict[str, Any]], None]) -> None:
    """Trains from the last checkpoint, whose facts ``restore`` is given, or from the start."""
    trainer.remove_callback(PrinterCallback)
    with PartialState().main_process_first():
        checkpoint = work.last()
    if checkpoint is not None:
        restore(checkpoint[1])
    trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint[0]))


@dataclass(eq=False)
class Log(TrainerCallback):
    """Writes ``log.jsonl``: step, loss (nats per token), learning_rate, grad_norm, epoch.

    ``every_figure``: all numbers that the trainer logs besides. After a resume it holds the lines
    up to the checkpoint and goes on from there. A loss that is no number stops the training with a
    UserError.
    """

    path: Path
    every_figure: bool = False

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        lines = [self._line(entry) for entry in state.log_history if "loss" in entry]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("".join(lines), encoding="utf-8")

    def on_log(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        entry = state.log_history[-1]
        if "loss" not in entry:
            return
        if not math.isfinite(entry["loss"]):
            raise UserError(
                f"the loss became {entry['loss']} at step {entry['step']}; take a lower "
                "learning_rate, or precision: float32"
            )
        with self.path.open("a", encoding="utf-8") as file:
            file.write(self._line(entry))

    def _line(self, entry: dict[str, Any]) -> str:
        others = sorted(entry.keys() - {"step", *_LOGGED}) if self.every_figure else ()
        line = {name: _finite(entry.get(name)) for name in (*_LOGGED, *others)}
        return json.dumps({"step": entry["step"]} | line) + "\n"


def _finite(value: Any) -> Any:
    """None for a number that JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(eq=False)
class Progress(TrainerCallback):
    """Shows the progress bar, one unit a step, and these figures until ``stack`` closes."""

    description: str
    stack: ExitStack
    shown: Sequence[str] = ("loss",)

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        self._task = self.stack.enter_context(task(self.description, state.max_steps))
        self._task.advance(state.global_step)

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        # The figures of this step are logged after this call, so the last one's are shown.
        last = state.log_history[-1] if state.log_history else {}
        known = [name for name in self.shown if last.get(name) is not None]
        self._task.advance(1, **{name: f"{last[name]:.3f}" for name in known})


@contextmanager
def quiet() -> Iterator[None]:
    """No telemetry, and no log lines, bars or warnings of the libraries: training shows butwait's
    own progress and nothing else."""
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    trl = logging.getLogger("trl")
    level = trl.level
    trl.setLevel(logging.ERROR)
    try:
        with no_progress_bars(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        trl.setLevel(level)


@contextmanager
def user_errors(output: Path) -> Iterator[None]:
    """Turns an exhausted device or disk, whatever the libraries raise then, into a UserError; other
    errors pass."""
    with refusals_told(f"a checkpoint was not written in {output}", mistakes=False):
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise UserError(
                "the device ran out of memory in training; take a smaller batch_size with more "
                "accumulation_steps, gradient_checkpointing: true, or (for sft) lora"
            ) from error

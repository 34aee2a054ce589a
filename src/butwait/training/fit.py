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
from transformers.integrations import TensorBoardCallback

from butwait.engines.models import no_progress_bars
from butwait.records import UserError
from butwait.running.devices import memory_kept
from butwait.running.packages import require
from butwait.running.progress import task
from butwait.running.refusals import refusals_told
from butwait.running.terminal import heard
from butwait.training.checkpoints import Marker, WorkFolder
from butwait.training.devices import is_sharded
from butwait.training.optimizers import Beginning, choose_optimizer
from butwait.training.settings import OptimizationSettings, OptimizerSettings
from butwait.training.validation import Validation
from butwait.training.weights import policy_of

_LOGGED = ("loss", "learning_rate", "grad_norm", "epoch")


def fit(
    trainer: Any,
    settings: OptimizationSettings,
    work: WorkFolder,
    output: Path,
    title: str,
    *callbacks: TrainerCallback,
    validation: Validation | None = None,
) -> dict[str, Any]:
    """Trains to the end, with ``output/log.jsonl`` and a progress bar called ``title``.

    ``trainer.counted``, a dictionary of counts, goes into checkpoints and comes back from them.

    Returns:
        steps, epochs, the counts, moved (share of the trained weights that are others than before,
        None where devices hold parts of them), loss_first and loss_last (of the first and last
        logged step), and the figures of the validation.
    """
    for tracker in settings.report_to:
        require(tracker, f"report_to: {tracker}")
    spread = is_sharded(trainer) or getattr(trainer, "is_deepspeed_enabled", False)
    if settings.validation and settings.validation.patience and spread:
        raise UserError(
            "validation.patience keeps the weights of the lowest loss, which devices that hold "
            "parts of them cannot take back: leave it out, or take launch.config: ddp"
        )
    with ExitStack() as stack:
        marker = Marker(lambda: trainer.counted)
        shown: list[TrainerCallback] = []
        if trainer.accelerator.is_main_process:
            shown += [Log(output / "log.jsonl"), Progress(title, stack)]
            if "tensorboard" in settings.report_to:
                shown.append(TensorBoard(output / "tensorboard"))
        if validation is not None:
            validation.trainer = trainer
            trainer.add_callback(validation)  # before the marker: it may end the training
        for callback in (marker, *shown, *callbacks):
            trainer.add_callback(callback)
        moved = resume(trainer, settings, work, trainer.counted.update)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        **trainer.counted,
        "moved": moved,
        "loss_first": losses[0] if losses else None,
        "loss_last": losses[-1] if losses else None,
        **({} if validation is None else validation.figures()),
    }


def resume(
    trainer: Any,
    settings: OptimizerSettings,
    work: WorkFolder,
    restore: Callable[[dict[str, Any]], None],
) -> float | None:
    """Trains from the last checkpoint, whose facts ``restore`` is given, or from the start.
    Returns the share of the trained weights that are others than before the first step."""
    choose_optimizer(trainer, settings)
    beginning = Beginning.of(trainer.model)
    beginning.warn(settings)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Sane())
    with PartialState().main_process_first():
        checkpoint = work.last()
    if checkpoint is not None:
        restore(checkpoint[1])
    with memory_kept():
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint[0]))
    return beginning.moved(policy_of(trainer))


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


class Sane(TrainerCallback):
    """Stops a training that learns nothing, or whose gradient is no number, with a UserError: the
    step is not taken, and the checkpoint before it is kept."""

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if args.get_warmup_steps(state.max_steps) >= state.max_steps:
            raise UserError(
                f"all steps ({state.max_steps}) would be warm-up, with a learning rate of 0; set "
                "warmup_ratio: 0, or train for more steps"
            )

    def on_pre_optimizer_step(
        self, args: Any, state: TrainerState, control: Any, model: Any = None, **_: Any
    ) -> None:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        if gradients and not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            raise UserError(
                f"the gradient is no number at step {state.global_step + 1}; take a lower "
                "learning_rate, or precision: float32"
            )


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


class TensorBoard(TensorBoardCallback):
    """Events in a folder that stays: transformers writes them among the checkpoints, which go.

    A resumed training writes on there, and takes back what was logged after its checkpoint.

    Args:
        folder: of the event files.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.logging_dir = str(folder)

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **others: Any) -> None:
        if state.is_world_process_zero:
            from torch.utils.tensorboard import SummaryWriter

            self.tb_writer = SummaryWriter(self.logging_dir, purge_step=state.global_step + 1)
        super().on_train_begin(args, state, control, **others)


@contextmanager
def quiet() -> Iterator[None]:
    """No telemetry, and no log lines, bars or warnings of the libraries: training shows butwait's
    own progress and nothing else, unless libraries are to be heard (``-v``)."""
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    trl = logging.getLogger("trl")
    level, all_of_it = trl.level, heard(logging.DEBUG)
    trl.setLevel(level if all_of_it else logging.ERROR)
    try:
        with no_progress_bars(), warnings.catch_warnings():
            if not all_of_it:
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

"""What a training shows and writes while it runs."""

import json
import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from butwait.records import UserError
from butwait.running.progress import task

_LOGGED = ("loss", "learning_rate", "grad_norm", "epoch")


class Log(TrainerCallback):
    """Writes ``log.jsonl``: step, loss (nats per token), learning_rate, grad_norm, epoch.

    ``every_figure``: all numbers that the trainer logs besides. After a resume it holds the lines
    up to the checkpoint and goes on from there. A loss that is no number stops the training with a
    UserError.
    """

    def __init__(self, path: Path, *, every_figure: bool = False) -> None:
        self._path = path
        self._every_figure = every_figure

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        lines = [self._line(entry) for entry in state.log_history if "loss" in entry]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text("".join(lines), encoding="utf-8")

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        entry = state.log_history[-1]
        if "loss" not in entry:
            return
        if not math.isfinite(entry["loss"]):
            raise UserError(
                f"the loss became {entry['loss']} at step {entry['step']}; take a lower "
                "learning_rate, or precision: float32"
            )
        with self._path.open("a", encoding="utf-8") as file:
            file.write(self._line(entry))

    def _line(self, entry: dict[str, Any]) -> str:
        names = [
            *_LOGGED,
            *(sorted(entry.keys() - {"step", *_LOGGED}) if self._every_figure else ()),
        ]
        line = {"step": entry["step"]} | {name: _finite(entry.get(name)) for name in names}
        return json.dumps(line) + "\n"


def _finite(value: Any) -> Any:
    """None for a number that JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Progress(TrainerCallback):
    """Shows the progress bar, one unit a step, and these figures until ``stack`` closes."""

    def __init__(
        self, description: str, stack: ExitStack, shown: Sequence[str] = ("loss",)
    ) -> None:
        self._shown = shown
        self._description = description
        self._stack = stack

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._task = self._stack.enter_context(task(self._description, state.max_steps))
        self._task.advance(state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        # The figures of this step are logged after this call, so the last one's are shown.
        last = state.log_history[-1] if state.log_history else {}
        known = [name for name in self._shown if last.get(name) is not None]
        self._task.advance(1, **{name: f"{last[name]:.3f}" for name in known})

"""What a training shows and writes while it runs."""

import json
import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from butwait.records import UserError
from butwait.running.progress import task

_LOGGED = ("loss", "learning_rate", "grad_norm", "epoch")


class Log(TrainerCallback):
    """Writes ``log.jsonl``: step, loss (nats per token), learning_rate, grad_norm, epoch.

    After a resume it holds the lines up to the checkpoint and goes on from there. A loss that is
    no number stops the training with a UserError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

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

    @staticmethod
    def _line(entry: dict[str, Any]) -> str:
        return json.dumps({"step": entry["step"]} | {k: entry.get(k) for k in _LOGGED}) + "\n"


class Progress(TrainerCallback):
    """Shows the progress bar, one unit a step, until ``stack`` closes."""

    def __init__(self, description: str, stack: ExitStack) -> None:
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
        # The loss of this step is logged after this call, so it is the last one's that is shown.
        last = state.log_history[-1] if state.log_history else {}
        self._task.advance(1, **({"loss": f"{last['loss']:.3f}"} if "loss" in last else {}))

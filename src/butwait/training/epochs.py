"""The model as it was after each epoch: ``epochs/1``, ``epochs/2``, ..."""

import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from butwait.running.files import atomic_path
from butwait.training.saving import save_weights


class KeepEpochs(TrainerCallback):
    """Writes the trained weights (with LoRA, the adapter) at the end of every epoch.

    It does so before the checkpoint of the same step: a resume never begins behind an epoch that
    was not written.
    """

    def __init__(self, folder: Path, name: str) -> None:
        """``folder/<epoch>/<name>`` is written."""
        self._folder = folder
        self._name = name

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step == 0 and self._folder.exists():
            shutil.rmtree(self._folder)  # of other work in the same folder

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        epoch = float(state.epoch or 0.0)
        if epoch.is_integer():
            with atomic_path(self._folder / str(int(epoch)) / self._name) as folder:
                save_weights(model, folder)

"""Where a training's figures go besides its own log: TensorBoard, trackio, wandb."""

from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback

PROJECT = "butwait"
"""The project of trackio's runs; wandb's is ``WANDB_PROJECT``."""


class TensorBoard(TensorBoardCallback):
    """Events in a folder that stays: transformers writes them among the checkpoints, which go.

    A resumed training writes on there, and takes back what was logged behind its checkpoint.

    Args:
        folder: of the event files.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.logging_dir = str(folder)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **others: Any,
    ) -> None:
        if state.is_world_process_zero:
            from torch.utils.tensorboard import SummaryWriter

            self.tb_writer = SummaryWriter(self.logging_dir, purge_step=state.global_step + 1)
        super().on_train_begin(args, state, control, **others)

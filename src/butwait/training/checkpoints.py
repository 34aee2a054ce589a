"""Checkpoints of a training that may be killed at any moment.

A checkpoint folder of transformers is written file by file. One that was finished carries a
marker; a resume takes the last one that does and removes the rest.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from butwait.running.files import write_json

_MARKER = "butwait.json"


class WorkFolder:
    """The folder where a training keeps its checkpoints until it ends."""

    def __init__(self, path: Path, identity: str) -> None:
        """``identity`` names the work (settings, model, data, seed): a folder left by other work
        is cleared."""
        self.path = path
        if not self._belongs_to(identity):
            self.remove()
            path.mkdir(parents=True)
            write_json(path / _MARKER, {"identity": identity})

    def last(self) -> tuple[Path, dict[str, Any]] | None:
        """The last finished checkpoint and what ``Marker`` stored with it."""
        finished = []
        for folder in self.path.glob("checkpoint-*"):
            if (folder / _MARKER).exists():
                finished.append(folder)
            else:
                shutil.rmtree(folder)
        if not finished:
            return None
        folder = max(finished, key=lambda p: int(p.name.rpartition("-")[2]))
        return folder, json.loads((folder / _MARKER).read_text(encoding="utf-8"))

    def remove(self) -> None:
        """Removes the folder and all checkpoints."""
        if self.path.exists():
            shutil.rmtree(self.path)

    def _belongs_to(self, identity: str) -> bool:
        marker = self.path / _MARKER
        return marker.exists() and json.loads(marker.read_text("utf-8")) == {"identity": identity}


class Marker(TrainerCallback):
    """Marks each checkpoint as finished and stores ``facts`` with it."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        # The model itself is saved after the last step: a checkpoint of it would be a waste.
        if state.global_step >= state.max_steps or control.should_training_stop:
            control.should_save = False

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        write_json(folder / _MARKER, self.facts)

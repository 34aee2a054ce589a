"""What a training that may be killed at any moment keeps on disk: checkpoints, and epochs.

A checkpoint folder of transformers is written file by file. One that was finished carries a
marker; a resume takes the last one that does and removes the rest.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from accelerate import PartialState
from transformers import TrainerCallback, TrainerState

from butwait.running.files import remove, write_json
from butwait.running.progress import tell
from butwait.training.weights import check_finite, save_trained

_MARKER = "butwait.json"


class WorkFolder:
    """The folder where a training keeps its checkpoints until its stage is complete."""

    def __init__(self, path: Path, identity: str, processes: int = 1) -> None:
        """``identity`` names the work (settings, model, data, seed): a folder left by other work
        is cleared, and so is one of another number of processes, whose batches were others."""
        self.path = path
        own = {"identity": identity} | ({"processes": processes} if processes > 1 else {})
        before = _read(path / _MARKER)
        if before == own:
            return
        then = processes if before is None else before.get("processes", 1)
        if then != processes and any(path.glob("checkpoint-*")):
            tell(
                f"checkpoints of {then} process{'es' * (then > 1)} are not gone on from by "
                f"{processes}, whose batches are others: the training begins again"
            )
        remove(path)
        path.mkdir(parents=True)
        write_json(path / _MARKER, own)

    def last(self) -> tuple[Path, dict[str, Any]] | None:
        """The last finished checkpoint and what ``Marker`` stored with it."""
        finished = []
        for folder in self.path.glob("checkpoint-*"):
            if (folder / _MARKER).exists():
                finished.append(folder)
            else:
                remove(folder)
        if not finished:
            return None
        folder = max(finished, key=lambda p: int(p.name.rpartition("-")[2]))
        return folder, json.loads((folder / _MARKER).read_text(encoding="utf-8"))


Look = TypeVar("Look", bound=Mapping[str, Any])


def prune_best(
    best_folder: Path, work: Path, looks: Sequence[Look], best: Callable[[Sequence[Look]], Look]
) -> None:
    """Removes the weights of looks that no session can keep as the best any more. Those of the best
    one stay, and those that were the best at a checkpoint, which a resume may find to be so again.

    Args:
        best_folder: holds weights in ``<step>``.
        work: of the checkpoints; without one, no session goes on.
        looks: so far, in order, each with its ``step``.
        best: chooses among them.
    """
    checkpoints = [int(folder.name.rpartition("-")[2]) for folder in work.glob("checkpoint-*")]
    known = ([look for look in looks if look["step"] <= step] for step in checkpoints)
    needed = {str(best(some)["step"]) for some in (*known, looks) if some}
    for folder in best_folder.glob("*"):
        if folder.name.isdigit() and folder.name not in needed:
            remove(folder)


def _read(marker: Path) -> dict[str, Any] | None:
    if not marker.exists():
        return None
    content: dict[str, Any] = json.loads(marker.read_text(encoding="utf-8"))
    return content


@dataclass(eq=False)
class Marker(TrainerCallback):
    """Marks each checkpoint as finished and stores with it what ``facts`` gives at that moment."""

    facts: Callable[[], dict[str, Any]]

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        # The model itself is saved after the last step: a checkpoint of it would be a waste.
        if state.global_step >= state.max_steps or control.should_training_stop:
            control.should_save = False

    def on_save(
        self, args: Any, state: TrainerState, control: Any, model: Any = None, **_: Any
    ) -> None:
        check_finite(model)  # a resume would go on with what is no number, again and again
        PartialState().wait_for_everyone()  # each device writes a part of its own
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            write_json(folder / _MARKER, self.facts())


@dataclass(eq=False)
class KeepEpochs(TrainerCallback):
    """Writes the trained weights (with LoRA, the adapter) into ``folder/<epoch>/<name>`` at the end
    of every epoch.

    It does so before the checkpoint of the same step: a resume never begins after an epoch that
    was not written.
    """

    folder: Path
    name: str
    trainer: Any = None

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if state.global_step == 0 and state.is_world_process_zero:
            remove(self.folder)  # of other work in the same folder

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        epoch = float(state.epoch or 0.0)
        if epoch.is_integer():
            save_trained(self.trainer, self.folder / str(int(epoch)) / self.name)

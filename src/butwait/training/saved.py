"""The model on disk is the one that was trained: its loss on a few rows is compared."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.nn.functional import cross_entropy

from butwait.engines.checkpoints.configs import causal_lm_class
from butwait.engines.checkpoints.failures import reason
from butwait.engines.models import device_of, no_progress_bars, read_config
from butwait.engines.settings import ModelSettings
from butwait.records import UserError
from butwait.running.progress import tell
from butwait.training.encode import NO_LOSS

ROWS = 4
"""Rows that are looked at: one at a time, so that they fit where the training did."""

_TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}
"""Nats, or as a share of a loss above 1. Adapters that are merged into bfloat16 weights are rounded
to 8 bits of precision; float32 keeps 24."""


def next_token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The sum of -log p, in nats. Logits (t, v), labels (t,)."""
    return cross_entropy(logits[:-1], labels[1:].long(), ignore_index=NO_LOSS, reduction="sum")


@dataclass(frozen=True)
class Probe:
    """A few rows, and the loss of a model on them.

    Attributes:
        rows: (token ids, labels) of each.
        loss: the summed loss of a row, of its logits (t, v) in float32 and its labels (t,).
    """

    rows: Sequence[tuple[ArrayLike, ArrayLike]]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = next_token_loss

    def measure(self, model: Any) -> float:
        """The mean over the tokens with a label, in the arithmetic of the model's weights. Nothing
        of the model is changed, and nothing is drawn."""
        training, total = model.training, 0.0
        model.eval()
        try:
            with torch.no_grad(), _without_autocast(model):
                for row in self.rows:
                    ids, labels = (torch.tensor(np.asarray(part)).to(model.device) for part in row)
                    said = model(input_ids=ids[None].long(), use_cache=False).logits[0]
                    total += float(self.loss(said.float(), labels))
        finally:
            model.train(training)
        counted = sum(int((np.asarray(labels) != NO_LOSS).sum()) for _, labels in self.rows)
        return total / max(1, counted)


@contextmanager
def _without_autocast(model: Any) -> Iterator[None]:
    """A model in a trainer's hands without the trainer's autocast, which the saved one does not
    have. What devices do before and after a forward pass (FSDP) stays."""
    own, wrapped = (vars(model).get(name) for name in ("_original_forward", "forward"))
    if own is not None:
        model.forward = own
    try:
        yield
    finally:
        if own is not None:
            model.forward = wrapped


def check_saved(
    folder: Path,
    weights: ModelSettings,
    probe: Probe,
    trained: float,
    load: Callable[[ModelSettings], Any] | None = None,
    *,
    cast: bool = False,
) -> None:
    """Loads a saved model as anybody would, and compares its loss on the rows with ``trained``,
    that of the model in the trainer's hands.

    The trainer's own weights should be released before (``release``). Where the saved ones do not
    fit on the device all the same, a line says that they were not checked.

    Args:
        folder: of the saved model.
        weights: what the training began with: its device, and the dtype that was trained.
        probe: what is measured.
        trained: the loss that must come out.
        load: loads it into main memory; None: transformers' Auto class of language models.
        cast: whether ``trained`` is of weights that devices hold parts of, cast to bfloat16.

    Raises:
        UserError: another loss, or a model that cannot be loaded.
    """
    own = weights.model_copy(update={"name": str(folder), "revision": None, "device": "cpu"})
    try:
        found = probe.measure((load or _plainly)(own).to(device_of(weights)))
    except torch.OutOfMemoryError:
        tell(f"the saved model was not checked: no memory to load {folder} again")
        return
    allowed = _TOLERANCE["bfloat16" if cast else weights.dtype] * max(1.0, abs(trained))
    if not abs(found - trained) <= allowed:
        raise UserError(
            f"the model in {folder} is not the one that was trained: on {len(probe.rows)} rows its "
            f"loss is {found:.7g} nats a token, loaded from disk, and {trained:.7g} in training "
            f"(they may differ by {allowed:.2g}); please report it with the model's name"
        )


def _plainly(model: ModelSettings) -> Any:
    try:
        with no_progress_bars():
            return causal_lm_class(read_config(model)).from_pretrained(
                model.name, trust_remote_code=False
            )
    except Exception as error:  # whatever a broken file makes of the library
        raise UserError(
            f"the model saved in {model.name} cannot be loaded: {reason(error)}"
        ) from error


def release(trainer: Any) -> None:
    """Frees the weights, gradients and moments of a trainer that has ended."""
    for holder in (trainer, trainer.callback_handler):
        for name in ("model", "model_wrapped", "optimizer", "lr_scheduler", "ref_model"):
            if hasattr(holder, name):
                setattr(holder, name, None)
    trainer.accelerator.free_memory()

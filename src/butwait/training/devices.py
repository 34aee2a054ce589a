"""What the processes of a training on several devices have in common: how they talk, which rows
each runs, and which of them writes.

All devices run the model equally often, since they wait for each other in every pass. Where rows
do not divide, accelerate would run the first rows once more; here what is lacking is a row without
loss, so that an optimiser step has the loss and the gradient of the same batch on one device.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from accelerate import PartialState
from accelerate.data_loader import SeedableRandomSampler
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset, concatenate_datasets
from torch.utils.data import Sampler
from transformers import Trainer

from butwait.engines.models import device_of
from butwait.engines.settings import ModelSettings

LONGEST_WAIT = timedelta(days=1)
"""How long devices wait for one that works alone: at a look, a search, a saved model. NCCL's own
limit is 10 minutes. A process that dies ends the others at once, by their launcher."""


@dataclass(frozen=True)
class Devices:
    """The processes of a training, one a device; they talk by accelerate. All of them must call
    ``gathered``, ``from_first`` and ``wait`` together.

    Attributes:
        processes: how many there are.
        index: which of them this one is.
    """

    processes: int
    index: int = 0

    @classmethod
    def of(cls, model: ModelSettings) -> "Devices":
        """Those that this process was started with. It meets the others here."""
        # The first call makes the process group: TrainingArguments' `ddp_timeout` comes too late.
        PartialState(cpu=device_of(model).type == "cpu", timeout=LONGEST_WAIT)
        return cls.here()

    @classmethod
    def here(cls) -> "Devices":
        """Those that have met before."""
        state = PartialState()
        return cls(state.num_processes, state.process_index)

    @classmethod
    def of_trainer(cls, trainer: Any) -> "Devices":
        """Those of a trainer of transformers."""
        accelerator = trainer.accelerator
        return cls(accelerator.num_processes, accelerator.process_index)

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes."""
        return self.index == 0

    def gathered(self, value: Any) -> list[Any]:
        """The value of every device, in order."""
        return [value] if self.processes == 1 else gather_object([value])

    def from_first(self, value: Any) -> Any:
        """The first device's value, on all devices."""
        if self.processes == 1:
            return value
        held = [value]
        broadcast_object_list(held)
        return held[0]

    def wait(self) -> None:
        """Returns when all devices have come here."""
        if self.processes > 1:
            PartialState().wait_for_everyone()

    def dealt(self, batches: int) -> Iterator[tuple[int, bool]]:
        """(a batch, whether it counts) for every pass of this device. A device that has no batch
        left runs the last one again, for nothing."""
        for first in range(0, batches, self.processes):
            mine = first + self.index
            yield min(mine, batches - 1), mine < batches


ONE = Devices(1)


def own_device(model: ModelSettings) -> torch.device:
    """The device of this process as accelerate names it, which compares it with that of weights in
    four bits: with a number only where there are several processes. Where the settings have a
    number, that device is made the current one."""
    device = device_of(model)
    if device.type != "cuda":
        return device
    if device.index is not None:
        torch.cuda.set_device(device)
    state = PartialState()
    return state.device if state.num_processes > 1 else torch.device("cuda")


class Order(Sampler[int]):
    """The order of accelerate's own sampler. Where an optimiser step has several forward passes,
    its rows are run from the shortest to the longest, so that little is padded; the step's loss is
    the same.

    Args:
        lengths: of the rows, in tokens.
        batch: rows of a forward pass of all devices together.
        passes: of an optimiser step.
        epoch: gives the current one, from 0; each has an order of its own. (accelerate does not
            tell a sampler of several processes in which epoch a resume begins.)
        blank: the row ``len(lengths)`` has no loss and stands, as often as is needed, for what is
            lacking of the last batch; else that batch is smaller.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch: int,
        passes: int,
        epoch: Callable[[], int],
        *,
        blank: bool,
    ) -> None:
        self._lengths, self._epoch = lengths, epoch
        self._order = SeedableRandomSampler(range(len(lengths)))
        self._step = batch * passes if passes > 1 else 1
        self._lacking = -len(lengths) % batch if blank else 0

    def __len__(self) -> int:
        return len(self._lengths) + self._lacking

    def __iter__(self) -> Iterator[int]:
        self._order.set_epoch(self._epoch())
        order = list(self._order)
        for first in range(0, len(order), self._step):
            yield from sorted(order[first : first + self._step], key=self._lengths.__getitem__)
        yield from [len(self._lengths)] * self._lacking


class SharedTrainer(Trainer):
    """transformers' trainer, whose rows the devices share as one device would run them.

    Attributes:
        counted: what goes into checkpoints: tokens that were trained on, over all devices.
    """

    train_dataset: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._rows: int | None = None
        super().__init__(*args, **kwargs)
        self.counted = {"trained_tokens": 0}

    def share(self, blank: dict[str, Any]) -> None:
        """Where there are several devices, lets ``blank``, a row without loss, stand for what is
        lacking of a batch."""
        if self.accelerator.num_processes > 1:
            self._rows = len(self.train_dataset)
            self.train_dataset = _with_row(self.train_dataset, blank)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        passes, processes = self.args.gradient_accumulation_steps, self.accelerator.num_processes
        if passes == 1 and self._rows is None:
            return super()._get_train_sampler(train_dataset)
        rows = self.train_dataset if self._rows is None else self.train_dataset[: self._rows]
        return Order(
            [len(ids) for ids in _column(rows, "input_ids")],
            self.args.per_device_train_batch_size * processes,
            passes,
            lambda: int(self.state.epoch or 0),
            blank=self._rows is not None,
        )

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if num_training_steps == 1:
            self.args.warmup_steps = 0  # or the only step would have a learning rate of 0
        return super().create_scheduler(num_training_steps, optimizer)

    def count(self, tokens: int) -> None:
        """Counts tokens of a forward pass, those of all devices; all of them must call it."""
        if self.accelerator.num_processes > 1:
            own = torch.tensor([tokens], device=self.accelerator.device)
            tokens = int(self.accelerator.gather(own).sum())
        self.counted["trained_tokens"] += tokens


def _column(rows: Any, name: str) -> Any:
    """Of a list of rows, or of a data set or a part of one."""
    return [row[name] for row in rows] if isinstance(rows, list) else rows[name]


def _with_row(rows: Any, row: dict[str, Any]) -> Any:
    """A list, or a data set whose columns the row has, with one more row."""
    if not isinstance(rows, Dataset):
        return [*rows, row]
    last = {name: [row[name]] for name in rows.column_names}
    return concatenate_datasets([rows, Dataset.from_dict(last, rows.features)])


def parts_are_held() -> bool:
    """Whether accelerate was told to give every device a part of the weights (FSDP)."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def is_sharded(trainer: Any) -> bool:
    """Whether every device holds a part of the weights only."""
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    return trainer.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3)


def is_cast(trainer: Any) -> bool:
    """Whether devices cast their parts of float32 weights to bfloat16 in a forward pass."""
    return is_sharded(trainer) and trainer.args.bf16

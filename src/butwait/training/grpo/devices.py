"""The devices of a training: whether the settings fit them, and how they talk."""

from typing import Any

from accelerate.utils import broadcast_object_list, gather_object

from butwait.records import UserError
from butwait.training.grpo.settings import GrpoDirectSettings, GrpoSettings


class GatheredDevices:
    """``generation.Devices`` by accelerate, whose process group must exist when it is used."""

    def __init__(self, processes: int) -> None:
        self._processes = processes

    def gathered(self, value: Any) -> list[Any]:
        """The value of every device, in order."""
        return [value] if self._processes == 1 else gather_object([value])

    def from_first(self, value: Any) -> Any:
        """The first device's value, on all devices."""
        if self._processes == 1:
            return value
        held = [value]
        broadcast_object_list(held)
        return held[0]


def check_devices(settings: GrpoSettings, processes: int) -> int:
    """How many forward passes of a device an optimizer step has.

    Raises UserError where a group would straddle devices: TRL compares the completions of a group
    with each other, and butwait draws them together.
    """
    if settings.questions % processes:
        raise UserError(
            f"questions ({settings.questions}) must be a multiple of the {processes} devices, so "
            "that the completions of a question stay on one of them"
        )
    share = settings.batch_size * settings.minibatches * processes
    if settings.completions % share:
        raise UserError(
            f"questions x group ({settings.completions}) must be a multiple of batch_size x "
            f"minibatches x devices ({settings.batch_size} x {settings.minibatches} x {processes})"
        )
    retrains = isinstance(settings, GrpoDirectSettings) and settings.prm is not None
    if retrains and processes > 1:
        raise UserError("prm: the reward model is trained in the loop on one device only")
    return settings.completions // share


def check_whole_model(trainer: Any, settings: GrpoSettings) -> None:
    """Raises UserError where the weights are spread over devices and this process is to draw
    completions: the devices would wait for each other in every forward pass, at different times."""
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    sharded = trainer.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3)
    if not sharded:
        return
    if settings.generation.kind == "engine":
        raise UserError(
            "generation.kind: engine needs the whole model on every device; with FSDP or ZeRO-3 "
            "take generation.kind: vllm_server or vllm_colocate"
        )
    if settings.selection is not None:
        raise UserError(
            "selection draws samples with the whole model on one device; with FSDP or ZeRO-3 leave "
            "it out and evaluate checkpoints in a stage of their own"
        )

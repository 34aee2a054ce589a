"""Which devices the workers have."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from butwait.engines.load import ENGINES
from butwait.engines.settings import ModelSettings, refused_spread
from butwait.records import UserError
from butwait.workers.job import Job
from butwait.workers.settings import PlacedGpus, WorkersSettings

_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Placement:
    """Of the workers of one job.

    Attributes:
        count: workers. Of a Ray cluster, one where it is not said: only the cluster knows.
        gpus: of each, in all; 0: it runs on a CPU, or its models are elsewhere.
        policy: of these, the policy's own; None: policy and reward model share them.
    """

    count: int
    gpus: int
    policy: int | None = None

    @classmethod
    def of(
        cls, settings: WorkersSettings, engine: Any, model: ModelSettings, reward_model: Any
    ) -> "Placement":
        """Where workers run what these settings load.

        Raises UserError for more devices than this machine has, and for a model that is spread over
        more than a worker has.
        """
        spread = int(getattr(engine, "tensor_parallel", 1))
        gpus = settings.each or (spread if _on_gpu(engine, model, reward_model) else 0)
        policy = settings.gpus.policy if isinstance(settings.gpus, PlacedGpus) else None
        own = gpus if policy is None else policy
        if gpus and spread > own:
            raise UserError(
                f"engine.tensor_parallel: {spread} GPUs of one policy are more than the {own} that "
                "workers.gpus gives it; raise one, or lower the other"
            )
        if settings.kind == "ray":  # whose devices are on other machines
            return cls(settings.count or 1, gpus, policy)
        there = len(_devices()) if gpus else 0
        count = settings.count or (there // gpus if gpus else 1)
        if gpus and not 0 < count * gpus <= there:
            raise UserError(too_many(count or 1, gpus, there))
        return cls(count, gpus, policy)

    def placed(self, job: Job) -> Job:
        """The job as a worker sees its own devices, which are numbered from 0."""
        if not self.gpus:
            return job
        judge, model = job.reward_model, _on(job.model, "cuda")
        place = "cuda" if self.policy is None else f"cuda:{self.policy}"
        return replace(job, model=model, reward_model=_on(judge, place))

    def sharing(self, job: Job) -> Job:
        """The job with a worker's share of this machine's cores, for grading and, where it computes
        on a CPU, for torch."""
        share = max(1, _cores() // self.count)
        threads = job.threads or (None if self.gpus else share)
        return replace(job, threads=threads, graders=min(8, share))

    def environment(self, index: int) -> Mapping[str, str]:
        """Of a worker of this machine."""
        if not self.gpus:
            return {}
        own = _devices()[index * self.gpus : (index + 1) * self.gpus]
        return {_VISIBLE: ",".join(own)}


def _cores() -> int:
    """That this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def too_many(count: int, gpus: int, there: int) -> str:
    """A sentence about workers that there are no devices for."""
    each = f"{gpus} GPU{'s' * (gpus != 1)}"
    return (
        f"{count} worker{'s' * (count != 1)} of {each} each need {count * gpus}, and this machine "
        f"has {there or 'none'}: lower workers.count or workers.gpus"
    )


def cannot_spread(config: Mapping[str, Any], devices: int) -> str | None:
    """Why a model cannot be spread over so many devices, by its ``config.json``; None: it can, or
    nobody knows."""
    text = config.get("text_config")
    config = text if isinstance(text, dict) else config
    heads = config.get("num_attention_heads")
    kept = config.get("num_key_value_heads", heads)
    if not isinstance(heads, int) or not isinstance(kept, int) or kept <= 0:
        return None
    return refused_spread(kept, heads, devices)


def _on_gpu(engine: Any, model: ModelSettings, reward_model: Any) -> bool:
    """Whether these weights are run on a GPU of this machine."""
    runs = [model] if ENGINES.of(engine).runs_model else []
    devices = [getattr(held, "device", "cpu") for held in (*runs, *_parts(reward_model))]
    if any(device.startswith("cuda") for device in devices):
        return True
    return "auto" in devices and bool(_devices())


def _parts(judge: Any) -> list[Any]:
    """The models that a reward model is made of."""
    return [part for each in getattr(judge, "members", ()) for part in _parts(each)] or [judge]


def _devices() -> list[str]:
    """The names of the GPUs that this process may use."""
    import torch

    there = torch.cuda.device_count()
    named = [name for name in os.environ.get(_VISIBLE, "").split(",") if name.strip()]
    return named[:there] if named else [str(number) for number in range(there)]


def _on(settings: Any, device: str) -> Any:
    """Settings with their device, where they have one that is not a CPU."""
    if members := getattr(settings, "members", ()):
        return settings.model_copy(update={"members": tuple(_on(m, device) for m in members)})
    if getattr(settings, "device", "cpu").startswith("cpu"):
        return settings
    return settings.model_copy(update={"device": device})

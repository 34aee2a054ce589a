"""Where searches, attempts and rollouts are made. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from butwait.records.settings import Resource, Settings

Devices = Annotated[int, Field(gt=0)]


class PlacedGpus(Settings):
    """Devices of one worker, parted."""

    policy: Resource[Devices] = 1
    """Devices of the policy: ``cuda:0`` of its worker, and the next ones where it is split."""
    reward_model: Resource[Devices] = 1
    """Devices of the reward model: the next ones after those."""


class WorkersSettings(Settings):
    """Who makes trees, attempts, rollouts and completions of branches. A whole problem goes to one
    worker, and results are the same wherever they are made."""

    kind: Resource[Literal["local", "processes", "ray"]] = "local"
    """``local``: this process. ``processes``: one process a worker, on this machine. ``ray``: the
    actors of a Ray cluster."""
    count: Resource[Annotated[int, Field(gt=0)] | None] = None
    """Workers; None: as many as there are devices for, and one without any."""
    address: Resource[str | None] = None
    """Of a Ray cluster (``HOST:6379``, or ``auto`` for the one of this machine); None: one is
    started on this machine, for this run alone."""
    gpus: Resource[Devices | PlacedGpus | None] = None
    """Devices of one worker. A number: policy and reward model share them;
    ``{policy: 1, reward_model: 1}``: each has its own; None: one, where the model runs on a GPU
    (with ``ray``: of the run's own machine)."""
    skip_failed: Resource[bool] = False
    """Whether a stage is complete without the problems that ended two workers. They are named in
    its metrics and in the report."""

    @model_validator(mode="after")
    def _says_who(self) -> "WorkersSettings":
        several = {"count", "gpus"} & self.model_fields_set
        if self.kind == "local" and several:
            told = "has no meaning for workers.kind: local, which is this process; set kind to "
            raise ValueError(f"{min(several)} {told}processes or ray")
        if self.kind != "ray" and self.address is not None:
            raise ValueError("address is of a Ray cluster; set kind to ray")
        return self

    @property
    def each(self) -> int | None:
        """Devices of one worker, in all; None: it is not said."""
        if isinstance(self.gpus, PlacedGpus):
            return self.gpus.policy + self.gpus.reward_model
        return self.gpus

"""What a pool of workers asks of the place where they run: this process, others, or a cluster."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from butwait.engines.scheduling.figures import figures
from butwait.engines.servers.figures import server_figures


class WorkerLostError(Exception):
    """A worker, its machine or its engine is gone: no fault of the item that it was at.

    Attributes:
        why: its last words, for a sentence.
        begun: whether the item may be what ended it; one that it never saw, or that was on a node
            that was lost, is not blamed.
    """

    def __init__(self, why: str, *, begun: bool = True) -> None:
        super().__init__(why)
        self.why = why
        self.begun = begun


class Figures(NamedTuple):
    """What is known of the models of one worker since it opened its job.

    Attributes:
        servers: what servers did for it, by their addresses (``engines.servers.figures``).
        scheduling: of its engine's rows (``engines.scheduling.figures``).
    """

    servers: Mapping[str, Mapping[str, int]]
    scheduling: Mapping[str, Any]

    @classmethod
    def of(cls, engine: Any, reward_model: Any) -> "Figures":
        return cls(server_figures(engine, reward_model), figures(engine))


class Reply(NamedTuple):
    """What a worker gives back for an item.

    Attributes:
        result: of the work.
        policy_tokens: that its engine sampled since its last reply.
        unjudged: why functions of one's own gave no verdict since then (``Grader.failures``).
        figures: of the worker until now.
        begun: other items that it was at and that did not wait for a place in it (``places``).
    """

    result: Any
    policy_tokens: int = 0
    unjudged: Any = None
    figures: Figures = Figures({}, {})
    begun: int = 0


class Handle(Protocol):
    """One worker that has opened its job."""

    async def call(self, item: Any) -> Reply:
        """Does an item; several calls may be under way at a time. Where one is cancelled, so is the
        work, and that is no failure of the worker.

        Raises WorkerLostError where the worker ends before it answers, and whatever UserError the
        work itself raises.
        """
        ...

    async def close(self) -> None:
        """Ends the worker and what it started. A worker that is gone already is no error."""
        ...


class Host(Protocol):
    """A place that starts workers for one job."""

    async def start(self, index: int) -> Handle:
        """A worker that has opened the job: its models are loaded.

        Args:
            index: which of the pool's workers, from 0. One that is restarted keeps its index, and
                the devices that go with it.

        Raises WorkerLostError where it ends before it is ready, and the UserError of a job that
        cannot be opened. What was started is ended where this is cancelled.
        """
        ...

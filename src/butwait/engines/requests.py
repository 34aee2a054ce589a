"""What waits for the engine's batch: steps to be sampled and continuations to be scored."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from butwait.engines.pool import Handle
from butwait.engines.settings import Sampling
from butwait.engines.steps import GrowingStep, StepDetector
from butwait.records import Finish, Key


@dataclass(slots=True, eq=False)
class Call:
    """The requests of one call of the engine; its future is done when all of them are."""

    future: asyncio.Future[None]
    unfinished: int

    def finish_one(self) -> None:
        self.unfinished -= 1
        if self.unfinished == 0 and not self.future.done():
            self.future.set_result(None)


@dataclass(slots=True, eq=False)
class SharedStart:
    """A start that several requests of one call have in common and that no cache holds.

    Attributes:
        waiting: requests that have not begun.
        begun: whether one of them has: it runs the tokens, and the others copy.
        handle: to the tokens, once they have been run.
    """

    waiting: int = 0
    begun: bool = False
    handle: Handle | None = None


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """A path to go on from.

    Attributes:
        token_ids: int32 (p + n,), prompt and completion so far.
        prompt_length: p.
        handle: to all of these tokens but the last. (Logits come from running the last one, so
            it is always left to whoever goes on.)
        start: common to the requests of the call with the very same tokens.
        call: what it is part of; set when it is put in the queue.
        run_tokens: tokens that had to be run to get there; 0 where a cache held them.
    """

    token_ids: np.ndarray
    prompt_length: int
    handle: Handle | None
    start: SharedStart = field(default_factory=SharedStart)
    call: Call = field(init=False)
    run_tokens: int = 0


@dataclass(slots=True, eq=False, kw_only=True)
class StepRequest(Request):
    """One step to be sampled.

    Attributes:
        detector, step: where the step ends.
        sampling, key: how its tokens are drawn.
        tokens, logprobs: the result, int32 (m,) and float32 (m,).
        finish: why the step ended; None while it goes on.
        new_handle: to the extended path but its last token; None where the path has ended.
    """

    detector: StepDetector
    step: GrowingStep
    sampling: Sampling
    key: Key
    tokens: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    logprobs: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    finish: Finish | None = None
    new_handle: Handle | None = None


@dataclass(slots=True, eq=False, kw_only=True)
class ScoreRequest(Request):
    """Given tokens whose log-probabilities are wanted.

    Attributes:
        continuation: int32 (m,), m > 0.
        logprobs: the result, float32 (m,).
    """

    continuation: np.ndarray
    logprobs: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))


def share_starts(requests: Sequence[Request]) -> None:
    """Lets the requests of one call that begin with the very same tokens share a start."""
    starts: dict[bytes, SharedStart] = {}
    for request in requests:
        request.start = starts.setdefault(request.token_ids.tobytes(), request.start)
        request.start.waiting += 1

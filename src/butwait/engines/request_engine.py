"""What engines share whose steps are requests to a batch that somebody else runs."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from butwait.engines.engine import Continuation, EngineCounters, Prefix
from butwait.engines.policy_tokens import PolicyTokens
from butwait.engines.settings import Sampling, StepRule
from butwait.engines.steps import StepDetector
from butwait.records import Key

T = TypeVar("T")


class RequestEngine(ABC):
    """The part of an ``Engine`` (see ``engines.engine``) that does not depend on whom it asks. Its
    client belongs to the event loop of its first call.

    Args:
        tokens: the policy's tokenizer with the prompt's layout.
    """

    def __init__(self, tokens: PolicyTokens) -> None:
        self.counters = EngineCounters()
        self.scored_tokens = 0
        """Tokens run to score continuations, their prefixes included."""
        self._tokens = tokens
        self._loop: asyncio.AbstractEventLoop | None = None

    def encode(self, text: str) -> np.ndarray:
        return self._tokens.encode(text)

    async def extend(
        self,
        prefixes: Sequence[Prefix],
        step_rule: StepRule,
        sampling: Sampling,
        keys: Sequence[Key],
    ) -> list[Continuation]:
        """One step for every prefix. A path that reaches the end of the model's context, or of
        ``capacity``, ends there with ``length``. Raises UserError where the other side died, is
        lost, refuses, or ran other tokens than it was given."""
        detector = self._tokens.detector(step_rule)
        results = await self._together(
            self._extend(prefix, detector, sampling, key)
            for prefix, key in zip(prefixes, keys, strict=True)
        )
        self.counters.count(results)
        return results

    @abstractmethod
    async def _extend(
        self, prefix: Prefix, detector: StepDetector, sampling: Sampling, key: Key
    ) -> Continuation:
        """One step of one path."""

    async def _together(self, requests: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        """The results of concurrent requests, in order; where one fails, the others are cancelled.
        Raises RuntimeError in another event loop."""
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            raise RuntimeError(f"{type(self).__name__} belongs to one event loop")
        self._loop = loop
        tasks = [loop.create_task(request) for request in requests]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

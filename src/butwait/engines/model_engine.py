"""What engines of a language model share: its tokenizer (prompts, inserted text, ends of steps)
and, where somebody else runs the batch, steps as requests."""

import asyncio
from abc import abstractmethod
from collections.abc import Collection, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

from butwait.engines.detokenizer import Detokenizer
from butwait.engines.engine import (
    Continuation,
    Engine,
    EngineCounters,
    Prefix,
    PromptTooLongError,
)
from butwait.engines.scheduling.rows import ROWS_THAT_PAY, Rows, asking
from butwait.engines.settings import Sampling, StepRule
from butwait.engines.steps import MOST_RULES, StepDetector
from butwait.problems.prompts import encode, layout, messages, turn_end
from butwait.problems.settings import PromptSettings
from butwait.problems.tokens import following, text_ids
from butwait.records import Key, Problem, UserError

T = TypeVar("T")

Ask = tuple[Prefix, StepDetector, Sampling, Key]
"""A path, where its next step ends, and how its tokens are drawn."""


class ModelEngine(Engine):
    """The part of an ``Engine`` that does not depend on where its model runs.

    Args:
        tokenizer: of the policy.
        prompt: how a problem is put to it.
        eos_ids: every id that ends a completion, beside what the prompt's layout ends a turn with.
        capacity: tokens of a path, prompt included; None: no bound is known.

    Attributes:
        rows: of its batch.
    """

    def __init__(
        self,
        tokenizer: Any,
        prompt: PromptSettings,
        eos_ids: Collection[int],
        capacity: int | None = None,
    ) -> None:
        self.counters = EngineCounters()
        self.rows = Rows(ROWS_THAT_PAY["cpu"])
        self.scored_tokens = 0
        """Tokens run to score continuations, prefixes without a cache included."""
        self._tokenizer, self._prompt, self._capacity = tokenizer, prompt, capacity
        self._turn_end = turn_end(tokenizer, prompt)
        self._eos_ids = frozenset({*eos_ids, self._turn_end})
        self._detokenizer = Detokenizer(tokenizer)
        self._detectors: dict[StepRule, StepDetector] = {}

    def start(self, problem: Problem) -> Prefix:
        """The prompt of a problem. Raises UserError where it leaves no room for an answer."""
        prompt = layout(problem, self._prompt)
        ids = encode(self._tokenizer, messages(problem, prompt), prompt)
        if self._capacity is not None and len(ids) >= self._capacity:
            raise PromptTooLongError(
                f"the prompt of problem {problem.id} has {len(ids)} tokens, and a path holds "
                f"{self._capacity}, prompt included: leave the problem out or set "
                "engine.capacity higher (up to the model's context)"
            )
        return Prefix(token_ids=ids, prompt_length=len(ids))

    def encode(self, text: str) -> np.ndarray:
        """int32 (n,): the tokens of a text that follows a path (``text_tokens``)."""
        return np.array(following(partial(text_ids, self._tokenizer), text), np.int32)

    def token_characters(self, token_ids: np.ndarray, text: str) -> np.ndarray | None:
        """See ``KnowsTokens``."""
        return self._detokenizer.token_characters(token_ids, text)

    async def extend(
        self, prefixes: Sequence[Prefix], rule: StepRule, sampling: Sampling, keys: Sequence[Key]
    ) -> list[Continuation]:
        """One step for every prefix. A path that reaches the end of the model's context, or of
        ``capacity``, ends there with ``length``. Raises UserError where the model's logits are no
        numbers, and where another side died, is lost, refuses, or ran other tokens than it was
        given."""
        detector = self._detectors.pop(rule, None)
        if detector is None:
            detector = StepDetector(self._detokenizer, rule, self._eos_ids)
            if len(self._detectors) >= MOST_RULES:
                del self._detectors[next(iter(self._detectors))]
        self._detectors[rule] = detector  # the last one is the latest
        asks = [(path, detector, sampling, key) for path, key in zip(prefixes, keys, strict=True)]
        with asking(len(asks)):
            results = await self._extend(asks)
        self.counters.count(results)
        return results

    @abstractmethod
    async def _extend(self, asks: Sequence[Ask]) -> list[Continuation]:
        """A step for each, in order."""

    def _room(self, prefix: Prefix) -> int | None:
        """Tokens that the path may still take; None: no bound is known."""
        return None if self._capacity is None else max(0, self._capacity - len(prefix.token_ids))

    def _check_fits(self, tokens: int) -> None:
        """Raises UserError for a path of ``tokens`` tokens to be scored that is too long."""
        if self._capacity is not None and tokens > self._capacity:
            raise UserError(
                f"a path of {tokens} tokens is to be scored, and the engine holds "
                f"{self._capacity}: set engine.capacity higher"
            )


class RequestEngine(ModelEngine):
    """An ``Engine`` whose steps are requests to a batch that somebody else runs. Its client belongs
    to the event loop of its first call.

    It gives no handles: the other side finds a prefix by its tokens, and drops by itself what was
    unused longest.
    """

    counts_what_ran = True
    """Whether prefilled tokens are those that the other side ran, and not as if each start of a
    call were run once."""
    _loop: asyncio.AbstractEventLoop | None = None

    async def _extend(self, asks: Sequence[Ask]) -> list[Continuation]:
        return await self._together(map(self._counted, asks))

    async def score(
        self, prefixes: Sequence[Prefix], continuations: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Log-probabilities of given tokens, untempered: prefix and continuation are run for them.
        Raises ScoringUnsupportedError where the other side gives none, and UserError for a path
        longer than ``capacity`` or where the other side died."""
        return await self._together(
            self._scored(prefix, np.concatenate([prefix.token_ids, continuation]).astype(np.int32))
            for prefix, continuation in zip(prefixes, continuations, strict=True)
        )

    def release(self, prefixes: Sequence[Prefix]) -> None:
        """Does nothing: there are no handles."""

    async def _counted(self, ask: Ask) -> Continuation:
        self.rows.add(1)
        try:
            return await self._step(*ask)
        finally:
            self.rows.add(-1)

    @abstractmethod
    async def _step(
        self, prefix: Prefix, detector: StepDetector, sampling: Sampling, key: Key
    ) -> Continuation:
        """One step of one path."""

    @abstractmethod
    async def _score(self, prefix: Prefix, path: np.ndarray) -> Sequence[float]:
        """Log-probabilities of a path's tokens after its prefix, one at least."""

    async def _scored(self, prefix: Prefix, path: np.ndarray) -> np.ndarray:
        if len(path) == len(prefix.token_ids):
            return np.zeros(0, np.float32)
        logprobs = await self._score(prefix, path)
        self.scored_tokens += len(path) - 1
        return np.array(logprobs, np.float32)

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

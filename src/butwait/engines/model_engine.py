"""What engines of a language model share: its tokenizer (prompts, inserted text, ends of steps)
and, where somebody else runs the batch, steps as requests."""

import asyncio
from abc import abstractmethod
from collections.abc import Collection, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from butwait.engines.detokenizer import Detokenizer
from butwait.engines.engine import Continuation, Engine, EngineCounters, Prefix
from butwait.engines.settings import Sampling, StepRule
from butwait.engines.steps import ArrivingStep, StepDetector
from butwait.problems.prompts import encode, messages
from butwait.problems.settings import PromptSettings
from butwait.records import Key, Problem, UserError

T = TypeVar("T")


def text_tokens(tokenizer: Any, text: str) -> np.ndarray:
    """int32 (n,): the tokens of ``text`` by a ``transformers`` tokenizer, none added around it.

    They are the tokenizer's for the text alone: nothing is merged with the tokens before, which
    stay as they were sampled.
    """
    return np.array(tokenizer.encode(text, add_special_tokens=False), np.int32)


class PolicyTokens:
    """A policy's tokenizer with the prompt's layout.

    Args:
        tokenizer: of the policy.
        prompt: how a problem is put to it.
        eos_ids: every id that ends a completion.
    """

    def __init__(self, tokenizer: Any, prompt: PromptSettings, eos_ids: Collection[int]) -> None:
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.eos_ids = frozenset(eos_ids)
        self.detokenizer = Detokenizer(tokenizer)
        self._detectors: dict[StepRule, StepDetector] = {}

    def start(self, problem: Problem, capacity: int | None) -> Prefix:
        """The prompt of a problem.

        Args:
            problem: what is asked.
            capacity: tokens that a path holds, prompt included; None: no bound is known.

        Raises UserError where the prompt leaves no room for an answer.
        """
        ids = encode(self.tokenizer, messages(problem, self.prompt), self.prompt)
        if capacity is not None and len(ids) >= capacity:
            raise UserError(
                f"the prompt of problem {problem.id} has {len(ids)} tokens, and a path holds "
                f"{capacity}, prompt included: leave the problem out or set "
                "engine.capacity higher (up to the model's context)"
            )
        return Prefix(token_ids=ids, prompt_length=len(ids))

    def encode(self, text: str) -> np.ndarray:
        """int32 (n,): the tokens of a text on its own (``text_tokens``)."""
        return text_tokens(self.tokenizer, text)

    def detector(self, rule: StepRule) -> StepDetector:
        """Where steps end by this rule; made once for each rule."""
        if rule not in self._detectors:
            self._detectors[rule] = StepDetector(self.detokenizer, rule, self.eos_ids)
        return self._detectors[rule]


def check_fits(tokens: int, capacity: int | None) -> None:
    """Raises UserError for a path of ``tokens`` tokens to be scored that is longer than
    ``capacity``."""
    if capacity is not None and tokens > capacity:
        raise UserError(
            f"a path of {tokens} tokens is to be scored, and the engine holds {capacity}: set "
            "engine.capacity higher"
        )


class ModelEngine(Engine):
    """The part of an ``Engine`` that does not depend on where its model runs.

    Args:
        tokens: the policy's tokenizer with the prompt's layout.
        capacity: tokens of a path, prompt included; None: no bound is known.
    """

    def __init__(self, tokens: PolicyTokens, capacity: int | None) -> None:
        self.counters = EngineCounters()
        self.scored_tokens = 0
        """Tokens run to score continuations, prefixes without a cache included."""
        self._tokens = tokens
        self._capacity = capacity

    def start(self, problem: Problem) -> Prefix:
        """The prompt of a problem. Raises UserError where it leaves no room for an answer."""
        return self._tokens.start(problem, self._capacity)

    def encode(self, text: str) -> np.ndarray:
        return self._tokens.encode(text)


class RequestEngine(ModelEngine):
    """An ``Engine`` whose steps are requests to a batch that somebody else runs. Its client belongs
    to the event loop of its first call.

    It gives no handles: the other side finds a prefix by its tokens, and drops by itself what was
    unused longest.
    """

    _loop: asyncio.AbstractEventLoop | None = None

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

    def _arriving(self, detector: StepDetector, prefix: Prefix) -> ArrivingStep:
        """The next step of a path, with the room that the context leaves it."""
        left = None if self._capacity is None else self._capacity - len(prefix.token_ids)
        return ArrivingStep(detector, prefix, left)

    @abstractmethod
    async def _extend(
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

"""The engine contract: prefixes in, one step of reasoning out.

Token ids are the state and text is a view of them: a continuation is never detokenised and
tokenised again. A prefix may carry a handle to the engine's KV cache; a lost handle costs a
prefill and nothing else.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from butwait.engines.settings import Sampling, StepRule
from butwait.records import Finish, Key, Problem, UserError


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """A path so far.

    Attributes:
        token_ids: int32 (p + n,), prompt then completion.
        prompt_length: p.
        text: the completion's text so far (a view).
        handle: the engine's own KV-cache handle, or None. Handles are immutable: extending a
            prefix does not use it up, and several extensions of one prefix fork it.
    """

    token_ids: np.ndarray
    prompt_length: int
    text: str = ""
    handle: Any = None

    @property
    def completion_length(self) -> int:
        """Tokens after the prompt."""
        return len(self.token_ids) - self.prompt_length

    def extended(self, token_ids: np.ndarray, text: str, handle: Any = None) -> "Prefix":
        """This path and more of it, sampled or inserted. Without a handle, going on from it costs
        a prefill.

        Args:
            token_ids: int32 (n,); of a text that is inserted, ``engine.encode(text)``.
            text: theirs.
            handle: to the longer path.
        """
        joined = np.concatenate([self.token_ids, token_ids], dtype=np.int32)
        return Prefix(joined, self.prompt_length, self.text + text, handle)


@dataclass(frozen=True, slots=True, eq=False)
class Continuation:
    """One extension of a prefix.

    Attributes:
        token_ids: int32 (n,), with the EOS token where ``finish`` is "eos".
        text: their text, without special tokens.
        logprobs: float32 (n,), nats per token under the sampled policy (temperature, top-p and
            top-k applied); under greedy decoding, those of the untempered model.
        finish: why it ended.
        prefix: the given prefix extended by it, with its own handle.
        prefilled_tokens: tokens the engine had to run again or for the first time without
            sampling them (the prompt, a lost handle).
        overshoot_tokens: tokens that were sampled beyond the step's end and thrown away, by an
            engine that cannot stop at once. They are policy tokens like the others.
    """

    token_ids: np.ndarray
    text: str
    logprobs: np.ndarray
    finish: Finish
    prefix: Prefix
    prefilled_tokens: int
    overshoot_tokens: int = 0


@dataclass(slots=True)
class EngineCounters:
    """Tokens since the engine was made."""

    policy_tokens: int = 0
    prefilled_tokens: int = 0

    def count(self, steps: Iterable[Continuation]) -> None:
        """Adds what these steps took."""
        for step in steps:
            self.policy_tokens += len(step.token_ids) + step.overshoot_tokens
            self.prefilled_tokens += step.prefilled_tokens


class UnsupportedError(UserError):
    """The engine can never do what it is asked for, however often it is asked."""


class ScoringUnsupportedError(UnsupportedError):
    """The engine cannot give log-probabilities of given tokens."""


class SamplingUnsupportedError(UnsupportedError):
    """The engine cannot draw tokens in this way and say how likely they were."""


class PromptUnsupportedError(UnsupportedError):
    """The engine cannot be asked to go on with such a prompt."""


class GoingOnUnsupportedError(UnsupportedError):
    """The engine answers a prompt, and cannot go on with a part of an answer."""


class PromptTooLongError(UserError):
    """A prompt leaves no room for an answer."""


@runtime_checkable
class Engine(Protocol):
    """A policy that extends prefixes. One engine serves many problems at once: it batches
    whatever waits, across problems.

    Attributes:
        counters: tokens since the engine was made.
    """

    counters: EngineCounters

    def turn(self) -> "Engine":
        """The engine for one search. Where tokens are bounded (``engines.gate``), searches that
        began earlier go first."""
        return self

    def start(self, problem: Problem) -> Prefix:
        """The prompt of a problem, with an empty completion and no handle."""

    def encode(self, text: str) -> np.ndarray:
        """int32 (n,): the tokens of a text to be inserted into a completion, without special
        tokens around it."""

    async def extend(
        self, prefixes: Sequence[Prefix], rule: StepRule, sampling: Sampling, keys: Sequence[Key]
    ) -> list[Continuation]:
        """One step for every prefix, in order. Token t of row i is drawn by inverse CDF over
        the vocabulary's order with ``keys[i].uniforms(...)[t]`` in engines that are
        deterministic, so the result depends on (prefix, key) alone."""

    async def score(
        self, prefixes: Sequence[Prefix], continuations: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """float32 (n,) each: untempered log-probabilities, in nats, of given tokens after given
        prefixes. Raises ScoringUnsupportedError where the engine cannot."""

    def release(self, prefixes: Sequence[Prefix]) -> None:
        """Frees the handles of these prefixes. Releasing twice is harmless."""

    async def close(self) -> None:
        """Frees everything. The engine is not used afterwards."""


@runtime_checkable
class KnowsTokens(Protocol):
    """An engine that can tell what each of its tokens wrote."""

    def token_characters(self, token_ids: np.ndarray, text: str) -> np.ndarray | None:
        """How many characters of a text each token adds.

        Args:
            token_ids: int32 (n,), sampled one after another.
            text: theirs.

        Returns:
            int32 (n,), whose sum is the text's length (``AttemptTokens.characters``); None where
            that cannot be said.
        """


def token_characters(engine: Engine, token_ids: np.ndarray, text: str) -> np.ndarray | None:
    """As the engine tells it; None where it does not (``KnowsTokens``)."""
    return engine.token_characters(token_ids, text) if isinstance(engine, KnowsTokens) else None

"""A language model that is a table: continuations with exact probabilities.

It draws, stops, scores and counts as a real engine does, and every probability is known. Use it
to try a recipe or a sampler without a model, and to test one against exact answers:
``ScriptedEngine.paths`` lists all completions with their probabilities.
"""

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from butwait.engines.detokenizer import Detokenizer
from butwait.engines.engine import Continuation, EngineCounters, Prefix
from butwait.engines.scripted_policy import (
    Policy,
    ScriptedTokenizer,
    TokenDistribution,
    next_token,
    sampled,
)
from butwait.engines.settings import Sampling, StepRule
from butwait.engines.steps import StepDetector
from butwait.records import OPEN, Finish, Key, Problem, UserError

REMEMBERED_PREFIXES = 20_000
"""Prefixes whose continuations are kept ready, per step rule and sampling."""

Table = Mapping[str, Mapping[str, float]]
"""From the completion so far to the next pieces and their probabilities."""


@dataclass(frozen=True, slots=True, eq=False)
class ScriptedPath:
    """One of all possible completions.

    Attributes:
        steps: the texts of its steps.
        token_ids: int32 (n,).
        finish: why it ends.
        probability: under the sampled policy.
    """

    steps: tuple[str, ...]
    token_ids: np.ndarray
    finish: Finish
    probability: float


class ScriptedEngine:
    """An engine whose policy is written down.

    Args:
        script: a table {completion so far: {next piece: probability}}, the same for every
            question, or a function (question, completion so far) -> {next piece: probability}.
            The piece ``EOS`` ends a completion. Each piece is one token.
        pieces: every piece that may come; needed with a function, read off a table.
        delay: seconds that every call of ``extend`` takes at least: makes a search slow enough
            to be interrupted, or interleaved with others, by a test.

    Raises:
        UserError: a function without ``pieces``; later, a completion the table does not list,
            or probabilities that are no distribution.
    """

    def __init__(
        self,
        script: Table | Policy,
        pieces: Collection[str] | None = None,
        *,
        delay: float = 0.0,
    ) -> None:
        if isinstance(script, Mapping):
            table = script
            pieces = {piece for choices in table.values() for piece in choices}
            script = _table_policy(table)
        elif pieces is None:
            raise UserError("a script that is a function needs the list of its pieces")
        self.tokenizer = ScriptedTokenizer(pieces)
        self.counters = EngineCounters()
        self._policy: Policy = script
        self._delay = delay
        self._scripts: dict[tuple[StepRule, Sampling], _Script] = {}
        self._handles = count()
        self._held: set[int] = set()

    @property
    def held(self) -> int:
        """Handles given out and not released yet."""
        return len(self._held)

    def start(self, problem: Problem) -> Prefix:
        """The question, byte by byte."""
        token_ids = self.tokenizer.encode(problem.question)
        return Prefix(token_ids, len(token_ids))

    def encode(self, text: str) -> np.ndarray:
        """See ``Engine``. A piece of the script is one token, any other text is bytes."""
        return self.tokenizer.encode_piece(text)

    async def extend(
        self,
        prefixes: Sequence[Prefix],
        step_rule: StepRule,
        sampling: Sampling,
        keys: Sequence[Key],
    ) -> list[Continuation]:
        """See ``Engine``. A prefix whose handle is lost or missing is prefilled once a call."""
        await asyncio.sleep(self._delay)
        script = self._script(step_rule, sampling)
        prefilled = self._prefill(prefixes)
        return [
            self._continue(prefix, script.start(prefix).draw(key), tokens)
            for prefix, key, tokens in zip(prefixes, keys, prefilled, strict=True)
        ]

    async def score(
        self, prefixes: Sequence[Prefix], continuations: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """See ``Engine``. A token that the script does not allow there has -inf."""
        return [
            self._logprobs(prefix, token_ids.tolist())
            for prefix, token_ids in zip(prefixes, continuations, strict=True)
        ]

    def release(self, prefixes: Sequence[Prefix]) -> None:
        """See ``Engine``."""
        self._held.difference_update(prefix.handle for prefix in prefixes)

    async def close(self) -> None:
        """See ``Engine``."""
        self._held.clear()
        self._scripts.clear()

    def paths(
        self,
        problem: Problem,
        step_rule: StepRule,
        sampling: Sampling | None = None,
        max_steps: int | None = None,
    ) -> list[ScriptedPath]:
        """All completions of a problem under these limits, with exact probabilities.

        Args:
            max_steps: a path that is still open after so many steps is listed as it is.
        """
        script = self._script(step_rule, sampling or Sampling())
        return list(_walk(script, self.start(problem), (), 1.0, max_steps))

    def _script(self, step_rule: StepRule, sampling: Sampling) -> "_Script":
        key = (step_rule, sampling)
        if key not in self._scripts:
            self._scripts[key] = _Script(self._policy, self.tokenizer, step_rule, sampling)
        return self._scripts[key]

    def _prefill(self, prefixes: Sequence[Prefix]) -> list[int]:
        """Tokens to prefill for each prefix; equal prefixes of one call share theirs."""
        tokens, seen = [], set()
        for prefix in prefixes:
            known = prefix.handle in self._held or id(prefix) in seen
            tokens.append(0 if known else len(prefix.token_ids))
            seen.add(id(prefix))
        return tokens

    def _continue(self, prefix: Prefix, step: "_Step", prefilled: int) -> Continuation:
        handle = next(self._handles)
        self._held.add(handle)
        self.counters.policy_tokens += len(step.token_ids)
        self.counters.prefilled_tokens += prefilled
        assert step.finish is not None, "only whole steps are drawn"
        return Continuation(
            step.token_ids,
            step.text,
            step.logprobs,
            step.finish,
            step.extended(prefix, handle),
            prefilled,
        )

    def _logprobs(self, prefix: Prefix, token_ids: Sequence[int]) -> np.ndarray:
        question, text = _texts(self.tokenizer, prefix)
        logprobs = np.full(len(token_ids), -np.inf, np.float32)
        for position, token in enumerate(token_ids):
            ids, probabilities = next_token(self._policy, self.tokenizer, question, text)
            if token not in ids:
                break
            logprobs[position] = np.log(probabilities[ids == token][0])
            if token == self.tokenizer.eos_token_id:
                break
            text += self.tokenizer.decode([token])
        return logprobs


class _Script:
    """A policy under one step rule and sampling; remembers the steps it has been asked for."""

    def __init__(
        self, policy: Policy, tokenizer: ScriptedTokenizer, step_rule: StepRule, sampling: Sampling
    ) -> None:
        self.policy = policy
        self.tokenizer = tokenizer
        self.sampling = sampling
        self.detector = StepDetector(Detokenizer(tokenizer), step_rule, [tokenizer.eos_token_id])
        self._starts: dict[tuple[int, bytes], _Step] = {}

    def start(self, prefix: Prefix) -> "_Step":
        """The empty step after a prefix."""
        key = (prefix.prompt_length, prefix.token_ids.tobytes())
        if key not in self._starts:
            if len(self._starts) >= REMEMBERED_PREFIXES:
                self._starts.clear()
            self._starts[key] = _Step(self, prefix, [], [])
        return self._starts[key]


class _Step:
    """A step while it grows. Its continuations are made once, when they are first drawn.

    Attributes:
        token_ids: int32 (n,), so far.
        logprobs: float32 (n,).
        finish: why it ends here; None where it goes on.
        text: of a step that has ended.
        choices: the next token, of a step that goes on.
    """

    __slots__ = (
        "_next",
        "_prefix",
        "_script",
        "choices",
        "finish",
        "logprobs",
        "text",
        "token_ids",
    )

    def __init__(
        self, script: _Script, prefix: Prefix, token_ids: list[int], logprobs: list[float]
    ) -> None:
        self._script, self._prefix = script, prefix
        self._next: dict[int, _Step] = {}
        self.token_ids = _frozen(np.array(token_ids, np.int32))
        self.logprobs = _frozen(np.array(logprobs, np.float32))
        growing = script.detector.step(prefix.token_ids[prefix.prompt_length :], prefix.text)
        full = len(token_ids) == growing.room
        self.finish = growing.finish(self.token_ids) if token_ids or full else None
        self.text = growing.text
        self.choices = self._distribution() if self.finish is None else None

    def draw(self, key: Key) -> "_Step":
        """The whole step that a key draws, one uniform a token."""
        step, uniform = self, key.generator().random
        while step.choices is not None:
            step = step.after(step.choices.draw(uniform()))
        return step

    def after(self, choice: int) -> "_Step":
        """This step and one more token: the one at index ``choice`` of ``choices``."""
        if choice not in self._next:
            assert self.choices is not None, "the step has ended"
            ids = [*self.token_ids.tolist(), self.choices.ids[choice]]
            logprobs = [*self.logprobs.tolist(), self.choices.logprobs[choice]]
            self._next[choice] = _Step(self._script, self._prefix, ids, logprobs)
        return self._next[choice]

    def extended(self, prefix: Prefix, handle: int | None = None) -> Prefix:
        """``prefix`` and this step."""
        token_ids = np.concatenate([prefix.token_ids, self.token_ids])
        return Prefix(token_ids, prefix.prompt_length, prefix.text + self.text, handle)

    def _distribution(self) -> TokenDistribution:
        script = self._script
        question, text = _texts(script.tokenizer, self._prefix)
        text += script.tokenizer.decode(self.token_ids.tolist())
        return sampled(
            *next_token(script.policy, script.tokenizer, question, text), script.sampling
        )


def _walk(
    script: _Script, prefix: Prefix, steps: tuple[str, ...], probability: float, left: int | None
) -> Iterator[ScriptedPath]:
    """All paths through ``prefix``, which has this probability."""
    for step, share in _whole_steps(script.start(prefix), 1.0):
        assert step.finish is not None, "only whole steps are listed"
        longer = step.extended(prefix)
        texts = (*steps, step.text)
        if step.finish in OPEN and left != 1:
            fewer = None if left is None else left - 1
            yield from _walk(script, longer, texts, probability * share, fewer)
        else:
            completion = longer.token_ids[longer.prompt_length :]
            yield ScriptedPath(texts, completion, step.finish, probability * share)


def _whole_steps(step: _Step, probability: float) -> Iterator[tuple[_Step, float]]:
    """Every way in which a step can go on to its end, with its probability."""
    if step.choices is None:
        yield step, probability
        return
    for choice, share in enumerate(step.choices.probabilities):
        yield from _whole_steps(step.after(choice), probability * share)


def _texts(tokenizer: ScriptedTokenizer, prefix: Prefix) -> tuple[str, str]:
    """A prefix's question and completion."""
    question = tokenizer.decode(prefix.token_ids[: prefix.prompt_length].tolist())
    return question, tokenizer.decode(prefix.token_ids[prefix.prompt_length :].tolist())


def _table_policy(table: Table) -> Policy:
    def policy(question: str, text: str) -> Mapping[str, float]:
        if text not in table:
            raise UserError(f"the script lists nothing after {text!r}; add it to the table")
        return table[text]

    return policy


def _frozen(array: np.ndarray) -> np.ndarray:
    """The array, read-only: continuations share it."""
    array.flags.writeable = False
    return array

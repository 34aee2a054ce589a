"""A language model that is a table: continuations with exact probabilities.

It draws, stops, scores and counts as a real engine does, and every probability is known. Use it
to try a recipe or a sampler without a model, and to test one against exact answers. What it speaks
is a small reversible vocabulary.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from numbers import Real
from typing import Any

import numpy as np

from butwait.engines.detokenizer import Detokenizer
from butwait.engines.engine import Continuation, Engine, EngineCounters, Prefix
from butwait.engines.settings import Sampling, StepRule
from butwait.engines.steps import GrowingStep, StepDetector
from butwait.records import Key, Problem, UserError

EOS = "<eos>"
"""The piece that ends a completion. It has no text."""

Policy = Callable[[str, str], Mapping[str, float]]
"""From (question, completion so far) to the next pieces and their probabilities."""

REMEMBERED_PREFIXES = 20_000
"""Prefixes whose continuations are kept ready, per step rule and sampling."""
REMEMBERED_RULES = 8
"""Pairs of a step rule and a sampling that are kept ready."""

Table = Mapping[str, Mapping[str, float]]
"""From the completion so far to the next pieces and their probabilities."""


class ScriptedTokenizer:
    """One token for each piece of a script.

    Ids: 0 is EOS, then the pieces in alphabetical order, then 256 bytes, which any other text
    (a question) is made of. It has as much of a ``transformers`` tokenizer's interface as the
    engines need.
    """

    eos_token_id = 0

    def __init__(self, pieces: Collection[str]) -> None:
        self._pieces = sorted(set(pieces) - {EOS})
        self._ids = {piece: i for i, piece in enumerate([EOS, *self._pieces])}
        self._bytes = [b"", *(piece.encode() for piece in self._pieces)]
        self._bytes += [bytes([b]) for b in range(256)]

    def __len__(self) -> int:
        return len(self._bytes)

    def id(self, piece: str) -> int:
        """The token of a piece; UserError where the script's vocabulary lacks it."""
        if piece not in self._ids:
            raise UserError(
                f"the script's vocabulary has no piece {piece!r}; add it to the pieces given"
            )
        return self._ids[piece]

    def encode(self, text: str) -> np.ndarray:
        """int32: the bytes of any text, as tokens."""
        first_byte = len(self._pieces) + 1
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32) + np.int32(first_byte)

    def encode_piece(self, text: str) -> np.ndarray:
        """int32: the one token of a piece; of any other text, its bytes."""
        piece = self._ids.get(text)
        return self.encode(text) if piece is None else np.array([piece], np.int32)

    def decode(self, token_ids: Sequence[int], **_: Any) -> str:
        """The text of tokens; EOS has none. Bytes that are no UTF-8 show as U+FFFD."""
        return b"".join(self._bytes[i] for i in token_ids).decode(errors="replace")

    def batch_decode(self, sequences: Sequence[Sequence[int]], **_: Any) -> list[str]:
        """``decode`` for many."""
        return [self.decode(token_ids) for token_ids in sequences]


@dataclass(frozen=True, slots=True)
class TokenDistribution:
    """What the next token may be, in the vocabulary's order.

    Attributes:
        ids: the tokens of positive probability.
        probabilities: theirs, as they are sampled; they sum to 1.
        logprobs: as they are reported, in nats.
        cumulated: running sums of ``probabilities``; the last is exactly 1.
    """

    ids: tuple[int, ...]
    probabilities: tuple[float, ...]
    logprobs: tuple[float, ...]
    cumulated: tuple[float, ...]

    def draw(self, uniform: float) -> int:
        """Index of the token at this point of [0, 1): the inverse CDF."""
        return bisect_right(self.cumulated, uniform)


def next_token(
    policy: Policy, tokenizer: ScriptedTokenizer, question: str, text: str
) -> tuple[np.ndarray, np.ndarray]:
    """The policy's own distribution after ``text``.

    Returns:
        int64 (n,) token ids in ascending order and float64 (n,) probabilities above zero.

    Raises:
        UserError: the probabilities are no distribution, or a piece is not in the vocabulary.
    """
    listed = policy(question, text)
    known = isinstance(listed, Mapping) and all(isinstance(piece, str) for piece in listed)
    if not known or not all(isinstance(p, Real) for p in listed.values()):
        raise UserError(
            f"the script gives {listed!r:.200} after {text!r}; it must give {{next piece: "
            "probability}"
        )
    total = sum(listed.values())
    if not abs(total - 1) <= 1e-6 or min(listed.values(), default=0) < 0:
        raise UserError(
            f"the script's probabilities after {text!r} are no distribution (their sum is "
            f"{total:g}); make them non-negative with sum 1"
        )
    pairs = sorted((tokenizer.id(piece), p / total) for piece, p in listed.items() if p > 0)
    ids, probabilities = zip(*pairs, strict=True)
    return np.array(ids), np.array(probabilities)


def sampled(ids: np.ndarray, probabilities: np.ndarray, sampling: Sampling) -> TokenDistribution:
    """The distribution after temperature, top-k and top-p, in this order, as in ``transformers``.

    Greedy decoding (temperature 0) takes the first of the likeliest tokens and reports its
    log-probability under the untempered model.
    """
    if sampling.temperature == 0:
        best = int(np.argmax(probabilities))
        logprob = float(np.log(probabilities[best]))
        return TokenDistribution((int(ids[best]),), (1.0,), (logprob,), (1.0,))
    log_tempered = np.log(probabilities) / sampling.temperature
    tempered = np.exp(log_tempered - log_tempered.max())
    order = np.argsort(-tempered, kind="stable")
    if sampling.top_k:
        order = order[: sampling.top_k]
    if sampling.top_p < 1:
        shares = tempered[order] / tempered[order].sum()
        order = order[np.cumsum(shares) - shares < sampling.top_p]
    kept = np.sort(order)
    final = tempered[kept] / tempered[kept].sum()
    cumulated = np.cumsum(final)
    cumulated[-1] = 1.0
    columns = ids[kept], final, np.log(final), cumulated
    return TokenDistribution(*(tuple(column.tolist()) for column in columns))


class ScriptedEngine(Engine):
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
        self, script: Table | Policy, pieces: Collection[str] | None = None, *, delay: float = 0.0
    ) -> None:
        if isinstance(script, Mapping):
            table = script
            pieces = {piece for choices in table.values() for piece in choices}
            script = _table_policy(table)
        elif pieces is None:
            raise UserError("a script that is a function needs the list of its pieces")
        self.tokenizer = ScriptedTokenizer(pieces)
        self._detokenizer = Detokenizer(self.tokenizer)
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

    def token_characters(self, token_ids: np.ndarray, text: str) -> np.ndarray | None:
        """See ``KnowsTokens``."""
        return self._detokenizer.token_characters(token_ids, text)

    async def extend(
        self, prefixes: Sequence[Prefix], rule: StepRule, sampling: Sampling, keys: Sequence[Key]
    ) -> list[Continuation]:
        """See ``Engine``. A prefix whose handle is lost or missing is prefilled once a call."""
        await asyncio.sleep(self._delay)
        script = self._script(rule, sampling)
        results = []
        for prefix, key, ran in zip(prefixes, keys, self._prefill(prefixes), strict=True):
            step, handle = script.start(prefix).draw(key), next(self._handles)
            self._held.add(handle)
            assert step.finish is not None, "only whole steps are drawn"
            ids, text = step.token_ids, step.text
            extended = prefix.extended(ids, text, handle)
            results.append(Continuation(ids, text, step.logprobs, step.finish, extended, ran))
        self.counters.count(results)
        return results

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

    def _script(self, rule: StepRule, sampling: Sampling) -> "_Script":
        key = (rule, sampling)
        if key not in self._scripts:
            if len(self._scripts) >= REMEMBERED_RULES:
                self._scripts.clear()
            self._scripts[key] = _Script(self._policy, self.tokenizer, rule, sampling)
        return self._scripts[key]

    def _prefill(self, prefixes: Sequence[Prefix]) -> list[int]:
        """Tokens to prefill for each prefix; equal prefixes of one call share theirs."""
        tokens, seen = [], set()
        for prefix in prefixes:
            known = prefix.handle in self._held or id(prefix) in seen
            tokens.append(0 if known else len(prefix.token_ids))
            seen.add(id(prefix))
        return tokens

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
        self, policy: Policy, tokenizer: ScriptedTokenizer, rule: StepRule, sampling: Sampling
    ) -> None:
        self.policy = policy
        self.tokenizer = tokenizer
        self.sampling = sampling
        self.detector = StepDetector(Detokenizer(tokenizer), rule, [tokenizer.eos_token_id])
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

    def __init__(
        self, script: _Script, prefix: Prefix, token_ids: list[int], logprobs: list[float]
    ) -> None:
        self._script, self._prefix = script, prefix
        self._next: dict[int, _Step] = {}
        self.token_ids = np.array(token_ids, np.int32)
        self.logprobs = np.array(logprobs, np.float32)
        for shared in (self.token_ids, self.logprobs):  # by all continuations
            shared.flags.writeable = False
        growing = GrowingStep(script.detector, prefix)
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

    def _distribution(self) -> TokenDistribution:
        script = self._script
        question, text = _texts(script.tokenizer, self._prefix)
        text += script.tokenizer.decode(self.token_ids.tolist())
        return sampled(
            *next_token(script.policy, script.tokenizer, question, text), script.sampling
        )


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

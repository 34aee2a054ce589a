"""The in-process engine: any decoder-only ``transformers`` model, all live paths of all problems in
one batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from butwait.engines.batching import Batcher
from butwait.engines.engine import Continuation, EngineCounters, Prefix
from butwait.engines.models import eos_token_ids
from butwait.engines.policy_tokens import PolicyTokens, check_fits
from butwait.engines.pool import SlotPool
from butwait.engines.requests import ScoreRequest, SharedStart, StepRequest
from butwait.engines.settings import Sampling, StepRule, TransformersSettings
from butwait.engines.slots import SlotModel
from butwait.engines.steps import StepDetector
from butwait.problems.settings import PromptSettings
from butwait.records import Key, Problem


class TransformersEngine:
    """An ``Engine`` (see ``engines.engine``) that runs a model in this process.

    A path that has ended gives its slot back at once: its prefix has no handle, and going on
    from it all the same costs a prefill.

    In deterministic mode tokens and log-probabilities depend on prefix, key and
    ``fingerprint()`` alone. So do the counts of tokens: what is run again because a cache was
    lost depends on the company, so it stands in ``replayed_tokens`` and not in ``counters``.

    Args:
        model: a causal language model in eval mode, on its device.
        tokenizer: of the model.
        settings: slots, capacity, mode.
        prompt: how a problem is put to the model.
    """

    def __init__(
        self, model: Any, tokenizer: Any, settings: TransformersSettings, prompt: PromptSettings
    ) -> None:
        self.counters = EngineCounters()
        self.replayed_tokens = 0
        """Deterministic mode: tokens run again because a cache was lost."""
        self.scored_tokens = 0
        """Tokens run to score continuations, prefixes without a cache included."""
        eos_ids = eos_token_ids(model.generation_config.eos_token_id, tokenizer)
        self._tokens = PolicyTokens(tokenizer, prompt, eos_ids)
        self._slots = SlotModel(
            model,
            settings.slots,
            settings.capacity,
            settings.deterministic,
            settings.prefill_chunk,
        )
        self._pool = SlotPool(self._slots)
        self._batcher = Batcher(self._slots, self._pool)

    @property
    def lost_handles(self) -> int:
        """Handles given up because their slots were needed."""
        return self._pool.lost

    def fingerprint(self) -> dict[str, Any]:
        """What results depend on beside model, prefix and key (see ``SlotModel``)."""
        return self._slots.fingerprint()

    def start(self, problem: Problem) -> Prefix:
        """The prompt of a problem. Raises UserError where it leaves no room for an answer."""
        return self._tokens.start(problem, self._slots.capacity)

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
        ``capacity``, ends there with ``length``."""
        detector = self._tokens.detector(step_rule)
        requests = [
            self._step_request(prefix, detector, sampling, key)
            for prefix, key in zip(prefixes, keys, strict=True)
        ]
        waiting = [request for request in requests if request.step.room > 0]
        await self._batcher.run(waiting)
        for request in requests:
            if request.step.room == 0:
                request.finish = request.step.finish(request.tokens)
        self._count(requests)
        return [
            _continuation(prefix, request)
            for prefix, request in zip(prefixes, requests, strict=True)
        ]

    async def score(
        self, prefixes: Sequence[Prefix], continuations: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Log-probabilities of given tokens, untempered, in batch. Raises UserError where prefix
        and continuation are longer than a slot."""
        requests = [
            ScoreRequest(
                token_ids=prefix.token_ids,
                prompt_length=prefix.prompt_length,
                handle=prefix.handle,
                continuation=np.asarray(continuation, np.int32),
            )
            for prefix, continuation in zip(prefixes, continuations, strict=True)
        ]
        longest = max((len(r.token_ids) + len(r.continuation) for r in requests), default=0)
        check_fits(longest, self._slots.capacity)
        await self._batcher.run([request for request in requests if len(request.continuation)])
        for request in requests:
            # The last token of the prefix is run with the continuation, whose own last is not.
            self.scored_tokens += max(0, request.run_tokens - 1) + len(request.continuation)
        return [request.logprobs for request in requests]

    def release(self, prefixes: Sequence[Prefix]) -> None:
        for prefix in prefixes:
            if prefix.handle is not None:
                self._pool.release(prefix.handle)

    async def close(self) -> None:
        self._batcher.stop(RuntimeError("the engine was closed"))
        self._pool.clear()
        self._slots.close()

    def _step_request(
        self, prefix: Prefix, detector: StepDetector, sampling: Sampling, key: Key
    ) -> StepRequest:
        completion = prefix.token_ids[prefix.prompt_length :]
        room = max(0, self._slots.capacity - len(prefix.token_ids))
        return StepRequest(
            token_ids=prefix.token_ids,
            prompt_length=prefix.prompt_length,
            handle=prefix.handle,
            detector=detector,
            step=detector.step(completion, prefix.text, context_room=room),
            sampling=sampling,
            key=key,
        )

    def _count(self, requests: Sequence[StepRequest]) -> None:
        if self._slots.deterministic:
            self._count_as_if_nothing_were_lost(requests)
        self.counters.policy_tokens += sum(len(request.tokens) for request in requests)
        self.counters.prefilled_tokens += sum(request.run_tokens for request in requests)

    def _count_as_if_nothing_were_lost(self, requests: Sequence[StepRequest]) -> None:
        """Charges the tokens that this call needs in any company: a prefix that came without a
        handle, once for all requests that start from it."""
        charged: set[SharedStart] = set()
        for request in requests:
            run, request.run_tokens = request.run_tokens, 0
            if run and request.handle is None and request.start not in charged:
                charged.add(request.start)
                request.run_tokens = run
            self.replayed_tokens += run - request.run_tokens


def _continuation(prefix: Prefix, request: StepRequest) -> Continuation:
    assert request.finish is not None
    extended = Prefix(
        token_ids=np.concatenate([prefix.token_ids, request.tokens], dtype=np.int32),
        prompt_length=prefix.prompt_length,
        text=prefix.text + request.step.text,
        handle=request.new_handle,
    )
    return Continuation(
        token_ids=request.tokens,
        text=request.step.text,
        logprobs=request.logprobs,
        finish=request.finish,
        prefix=extended,
        prefilled_tokens=request.run_tokens,
    )

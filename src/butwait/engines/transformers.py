"""The in-process engine: any decoder-only ``transformers`` model, all live paths of all problems in
one batch."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from butwait.engines.decoding import PolicyBatcher, ScoreJob
from butwait.engines.engine import Continuation, Prefix
from butwait.engines.model_engine import Ask, ModelEngine
from butwait.engines.models import eos_token_ids
from butwait.engines.sampling import SharedStart, StepJob
from butwait.engines.scheduling.loads import Load
from butwait.engines.scheduling.rows import ROWS_THAT_PAY, Rows
from butwait.engines.settings import Sampling, SlotSettings
from butwait.engines.slots import SlotModel
from butwait.engines.steps import GrowingStep, StepDetector
from butwait.problems.settings import PromptSettings
from butwait.records import Key
from butwait.running.devices import SHARE, free_memory
from butwait.running.log import say


class TransformersEngine(ModelEngine):
    """An ``Engine`` (see ``engines.engine``) that runs a model in this process.

    A path that has ended gives its slot back at once: its prefix has no handle, and going on
    from it all the same costs a prefill.

    Paths share the keys and values of what they have in common. Counts are those of an engine in
    which each prompt is run by itself: what was not run, as another prompt begins alike, stands in
    ``shared_tokens``.

    In deterministic mode tokens and log-probabilities depend on prefix and key alone, and on what
    ``SlotModel`` holds fixed. So do the counts of tokens: what is run again because a cache was
    lost depends on the company, so it stands in ``replayed_tokens`` and not in ``counters``.

    Args:
        model: a causal language model in eval mode, on its device.
        tokenizer: of the model.
        settings: slots, capacity, mode.
        prompt: how a problem is put to the model.
    """

    def __init__(
        self, model: Any, tokenizer: Any, settings: SlotSettings, prompt: PromptSettings
    ) -> None:
        self.replayed_tokens = 0
        """Deterministic mode: tokens run again because a cache was lost."""
        self._slots = SlotModel(
            model, settings.slots, settings.capacity, settings.deterministic, settings.prefill_chunk
        )
        parameter = next(model.parameters())
        say(
            f"  {settings.slots} rows of {self._slots.capacity} tokens, {parameter.dtype} on "
            f"{parameter.device}",
            logging.DEBUG,
        )
        self._batcher = PolicyBatcher(self._slots, lambda jobs: self.rows.note(jobs))
        self._cache_tokens: int | None = None
        named = getattr(model.generation_config, "eos_token_id", None)
        eos_ids = eos_token_ids(named, tokenizer)
        super().__init__(tokenizer, prompt, eos_ids, self._slots.capacity)
        pays = ROWS_THAT_PAY.get(parameter.device.type, ROWS_THAT_PAY["cpu"])
        self.rows = Rows(min(pays, settings.slots), self._spare_slots)

    @property
    def lost_handles(self) -> int:
        """Handles given up because their slots were needed."""
        return self._batcher.pool.lost

    @property
    def shared_tokens(self) -> int:
        """Tokens of prompts that were counted and not run: those of another one were at hand."""
        return self._batcher.prefixes.saved_tokens

    async def load(self) -> Load:
        """How full the cache is. A path that runs is never given up."""
        if self._cache_tokens is None:
            device = next(self._slots.model.parameters()).device
            memory = SHARE.get(device.type, SHARE["cpu"]) * free_memory(device)
            most = int(memory / self._slots.token_bytes) + self._slots.held_tokens
            self._cache_tokens = min(most, self._slots.slots * self._slots.capacity)
        return Load(self._cache_tokens, min(1.0, self._slots.held_tokens / self._cache_tokens))

    def trim(self, share: float) -> None:
        """See ``TellsLoad``."""
        if self._cache_tokens is not None:
            tokens = int(share * self._cache_tokens)
            self._batcher.pool.trim(tokens, self._batcher.wanted)
            self._batcher.prefixes.trim(tokens)

    def _spare_slots(self) -> int:
        return self._slots.free - self._batcher.starting

    async def _extend(self, asks: Sequence[Ask]) -> list[Continuation]:
        jobs = [self._job(*ask) for ask in asks]
        await self._batcher.run_jobs([job for job in jobs if job.step.room > 0])
        for job in jobs:
            if job.step.room == 0:
                job.finish = job.step.finish(job.tokens)
        if self._slots.deterministic:
            self._charge_as_if_nothing_were_lost(jobs)
        return [_continuation(job) for job in jobs]

    async def score(
        self, prefixes: Sequence[Prefix], continuations: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Log-probabilities of given tokens, untempered, in batch. Raises UserError where prefix
        and continuation are longer than a slot."""
        jobs = [
            ScoreJob(
                prefix=prefix, handle=prefix.handle, continuation=np.asarray(continuation, np.int32)
            )
            for prefix, continuation in zip(prefixes, continuations, strict=True)
        ]
        for job in jobs:
            self._check_fits(len(job.prefix.token_ids) + len(job.continuation))
        await self._batcher.run_jobs([job for job in jobs if len(job.continuation)])
        for job in jobs:
            # The last token of the prefix is run with the continuation, whose own last is not.
            self.scored_tokens += max(0, job.run_tokens - 1) + len(job.continuation)
        return [job.logprobs for job in jobs]

    def release(self, prefixes: Sequence[Prefix]) -> None:
        self._batcher.release(prefix.handle for prefix in prefixes)

    async def close(self) -> None:
        """Frees the cache, and lets go of the model."""
        self._batcher.close("the engine was closed")

    def _job(self, prefix: Prefix, detector: StepDetector, sampling: Sampling, key: Key) -> StepJob:
        step = GrowingStep(detector, prefix, self._room(prefix))
        return StepJob(
            prefix=prefix,
            handle=prefix.handle,
            detector=detector,
            step=step,
            sampling=sampling,
            key=key,
        )

    def _charge_as_if_nothing_were_lost(self, jobs: Sequence[StepJob]) -> None:
        """Charges the tokens that this call needs in any company: a prefix that came without a
        handle, once for all jobs that start from it."""
        charged: set[SharedStart] = set()
        for job in jobs:
            run, job.run_tokens = job.run_tokens, 0
            if run and job.handle is None and job.start not in charged:
                charged.add(job.start)
                job.run_tokens = run
            self.replayed_tokens += run - job.run_tokens


def _continuation(job: StepJob) -> Continuation:
    assert job.finish is not None
    text = job.step.text
    prefix = job.prefix.extended(job.tokens, text, job.new_handle)
    return Continuation(job.tokens, text, job.logprobs, job.finish, prefix, job.run_tokens)

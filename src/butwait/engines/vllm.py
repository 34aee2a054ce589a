"""vLLM's asynchronous engine, driven from this process.

A step is a request that ends by itself: vLLM's scheduler stops it at every token that may complete
a delimiter of the step rule, without text, and hands over all tokens at once, as this process
would hold up a GPU if it saw every token. Our own ``StepDetector`` then says whether the step
ends, and where, so that engines agree. After a stop for nothing (one line break where two are the
delimiter) a further request goes on, with a seed of its own. A box that closes is found when its
request has ended; what vLLM sampled after it is overshoot. Steps whose ends too many tokens may
complete (a delimiter that ends with a space) are streamed and cut on arrival.

Handles are not needed: vLLM's prefix cache finds what it has by the tokens alone.
"""

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np

from butwait.engines.detokenizer import UNFINISHED
from butwait.engines.engine import Continuation, Prefix
from butwait.engines.model_engine import RequestEngine
from butwait.engines.scheduling.loads import Load, together
from butwait.engines.settings import Sampling, StepRule
from butwait.engines.steps import MOST_RULES, ArrivingStep, StepDetector
from butwait.problems.settings import PromptSettings
from butwait.records import Key, UserError

PARAGRAPH = "\n\n"
MANY = 2048
"""Stop ids from which on a step is streamed: vLLM looks through the list after every token (17 us
here), and a request goes on after every stop for nothing."""


class Stats:
    """What the loggers of vLLM's engines (one each) were told last."""

    def __init__(self) -> None:
        self._scheduled: dict[int, Any] = {}
        self._preempted = 0

    def logger(self) -> Any:
        """A factory of loggers, as vLLM takes them."""
        from vllm.v1.metrics.loggers import StatLoggerBase

        stats = self

        class Logger(StatLoggerBase):
            def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
                pass

            def record(
                self, scheduler_stats: Any, iteration_stats: Any, *others: Any, **named: Any
            ) -> None:
                stats.note(scheduler_stats, iteration_stats, named.get("engine_idx", 0))

            def log_engine_initialized(self) -> None:
                pass

        return Logger

    def note(self, scheduled: Any, iteration: Any, engine: int) -> None:
        """What one engine says after a pass; either may be None."""
        if scheduled is not None:
            self._scheduled[engine] = scheduled
        if iteration is not None:
            self._preempted += iteration.num_preempted_reqs

    def load(self, capacity: int) -> Load:
        """Of the engines together, each with this capacity in tokens."""
        loads = [
            Load(capacity, s.kv_cache_usage, 0, s.num_running_reqs, s.num_waiting_reqs)
            for s in self._scheduled.values()
        ]
        return replace(together(loads or [Load(capacity, 0.0)]), preemptions=self._preempted)


class VllmEngine(RequestEngine):
    """An ``Engine`` (see ``engines.engine``) on a started ``AsyncLLM``.

    It belongs to the event loop of its first call. A request's seed comes from its key; which
    token a seed draws may still depend on what shares the batch, as the logits do.

    Args:
        llm: vLLM's ``AsyncLLM``, with ``logprobs_mode="processed_logprobs"``.
        tokenizer: of the model.
        prompt: how a problem is put to the model.
        eos_ids: every id that ends a completion.
        capacity: tokens per path, prompt included.
        seeds: whether requests get the seeds of their keys.
        stats: where vLLM's own loggers leave its load; None: there are none.
    """

    def __init__(
        self,
        llm: Any,
        tokenizer: Any,
        prompt: PromptSettings,
        eos_ids: Collection[int],
        capacity: int,
        seeds: bool = True,
        stats: "Stats | None" = None,
    ) -> None:
        super().__init__(tokenizer, prompt, eos_ids, capacity)
        self._stats = stats
        self._llm = llm
        self._seeds = seeds
        self._stop_ids: dict[tuple[str, ...], list[int]] = {}
        self._names = count()

    async def load(self) -> Load | None:
        """What vLLM said of itself last; None where it was not asked to."""
        cache = None if self._llm is None else self._llm.vllm_config.cache_config
        if self._stats is None or cache is None or not cache.num_gpu_blocks:
            return None
        return self._stats.load(cache.num_gpu_blocks * cache.block_size)

    def trim(self, share: float) -> None:
        """Does nothing: vLLM drops by itself what was unused longest."""

    async def close(self) -> None:
        self._llm.shutdown()
        # Its destructor shuts down again, and fails where that is left to the interpreter's end.
        # The turn lets its own task end, which holds it too.
        self._llm = None
        await asyncio.sleep(0)

    async def _step(
        self, prefix: Prefix, detector: StepDetector, sampling: Sampling, key: Key
    ) -> Continuation:
        step = ArrivingStep(detector, prefix, self._room(prefix))
        if step.finish is not None:
            return step.continuation(prefilled_tokens=0)
        stops = self._stops(detector.rule, prefix.text)
        stream = len(stops) > MANY
        asked = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "stop_token_ids": sorted(self._eos_ids) if stream else stops,
            "logprobs": 0,
        }
        path, prefilled, again = prefix.token_ids, 0, 0
        seed = key.seed32() if self._seeds else None
        while True:
            now, cached = asked | {"seed": seed, "max_tokens": step.room}, 0
            async with aclosing(self._request(path, now, stream=stream)) as outputs:
                async for output in outputs:
                    [new] = output.outputs
                    cached = output.num_cached_tokens or cached
                    # In its flat form the sampled token comes first at every position.
                    sampled = [new.logprobs.logprobs[at] for at in new.logprobs.start_indices]
                    if step.add(new.token_ids, sampled) is not None:
                        break
            prefilled += len(path) - cached
            if step.finish is not None:
                return step.continuation(prefilled)
            if new.finish_reason != "stop":
                raise UserError(f"vLLM gave up a path after {len(step.token_ids)} tokens of a step")
            path = np.concatenate([prefix.token_ids, step.token_ids])
            again += 1
            seed = key.derive("more", again).seed32() if self._seeds else None

    async def _score(self, prefix: Prefix, path: np.ndarray) -> list[float]:
        """vLLM runs the whole path for it without its prefix cache."""
        self._check_fits(len(path))
        # vLLM samples a token after every prompt: here it is the path's last, which so needs no
        # place in the context. Greedy sampling leaves it untempered.
        start, last = len(prefix.token_ids), int(path[-1])
        asked = {
            "temperature": 0.0,
            "max_tokens": 1,
            "prompt_logprobs": 0,
            "logprob_token_ids": [last],
        }
        async with aclosing(self._request(path[:-1], asked, stream=False)) as outputs:
            [output] = [output async for output in outputs]
        given = [*output.prompt_logprobs[start:], *output.outputs[0].logprobs]
        return [at[token].logprob for at, token in zip(given, path[start:].tolist(), strict=True)]

    async def _request(
        self, token_ids: np.ndarray, asked: dict[str, Any], *, stream: bool
    ) -> AsyncGenerator[Any, None]:
        """vLLM's outputs for a prompt, token by token or all at once; the request is aborted where
        the generator is closed."""
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        prompt = {"prompt_token_ids": token_ids.tolist()}
        try:
            params = SamplingParams(
                **asked,
                output_kind=RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY,
                detokenize=False,
                flat_logprobs=True,
                skip_clone=True,  # nobody else has it
            )
            async with aclosing(
                self._llm.generate(prompt, params, f"step-{next(self._names)}")
            ) as outputs:
                async for output in outputs:
                    yield output
        except EngineDeadError as error:
            raise UserError(
                "vLLM's engine process died (see its log above; out of memory is the usual "
                "reason): lower engine.gpu_memory, engine.max_rows or engine.capacity, and run "
                "again; what is finished stays"
            ) from error
        except EngineGenerateError as error:
            raise UserError(f"vLLM failed at a request: {error.__cause__ or error}") from error
        except VLLMClientError as error:
            raise UserError(f"vLLM refused a request: {error}") from error

    def _stops(self, rule: StepRule, text: str) -> list[int]:
        """The ids that vLLM stops a path at after the completion ``text``.

        Braces are not among them, as most close no box. Where a box may end the path, vLLM stops
        at paragraphs too, so that it runs on after a box for one at most.
        """
        strings = rule.stop_strings(text) + ((PARAGRAPH,) if rule.stop_at_box else ())
        if strings not in self._stop_ids:
            if len(self._stop_ids) >= MOST_RULES:
                del self._stop_ids[next(iter(self._stop_ids))]
            completing = tokens_that_complete(self._detokenizer.pieces, strings)
            self._stop_ids[strings] = sorted({*completing, *self._eos_ids})
        return self._stop_ids[strings]


def tokens_that_complete(pieces: Sequence[str], strings: Sequence[str]) -> list[int]:
    """Ids of the tokens with which one of ``strings`` can become whole: those that contain it or
    begin with the last characters of it.

    Args:
        pieces: what each id adds to a text (``Detokenizer.pieces``).
        strings: not empty ones. Characters outside of ASCII may be spread over tokens; then every
            token with part of a character counts.
    """
    whole = [*strings, *([] if "".join(strings).isascii() else [UNFINISHED])]
    ends = tuple({string[i:] for string in strings for i in range(1, len(string))})
    return [
        token
        for token, piece in enumerate(pieces)
        if piece.startswith(ends) or any(string in piece for string in whole)
    ]

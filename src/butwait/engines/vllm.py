"""vLLM's asynchronous engine, driven from this process.

A step is a request that ends by itself: vLLM's scheduler stops it at every token that may complete
a delimiter of the step rule, without text, and hands over all tokens at once, as this process
would hold up a GPU if it saw every token. Our own ``StepDetector`` then says whether the step
ends, and where, so that engines agree. After a stop for nothing (one line break where two are the
delimiter) a further request goes on, with a seed of its own. A box that closes is found when its
request has ended; what vLLM sampled behind it is overshoot. Steps whose ends too many tokens may
complete (a delimiter that ends with a space) are streamed and cut on arrival.

Handles are not needed: vLLM's prefix cache finds what it has by the tokens alone.
"""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from itertools import count
from typing import Any

import numpy as np

from butwait.engines.chunks import ArrivingStep
from butwait.engines.detokenizer import UNFINISHED
from butwait.engines.engine import Continuation, Prefix
from butwait.engines.models import checkpoint_eos_token_ids, no_progress_bars, resolve
from butwait.engines.policy_tokens import PolicyTokens, check_fits
from butwait.engines.request_engine import RequestEngine
from butwait.engines.settings import ModelSettings, Sampling, StepRule, VllmSettings
from butwait.engines.steps import StepDetector
from butwait.problems.settings import PromptSettings
from butwait.records import Key, Problem, UserError

INSTALL = "pip install 'butwait[vllm]' (on a CPU: make vllm)"
PARAGRAPH = "\n\n"
MANY = 2048
"""Stop ids from which on a step is streamed: vLLM looks through the list after every token (17 us
here), and a request goes on after every stop for nothing."""
QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CONFIGURE_LOGGING": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Environment that is set before vLLM is imported, where the user has not set it."""


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
        fingerprint: what results depend on beside model, prefix and key.
    """

    def __init__(
        self,
        llm: Any,
        tokenizer: Any,
        prompt: PromptSettings,
        eos_ids: Collection[int],
        capacity: int,
        fingerprint: dict[str, Any],
    ) -> None:
        super().__init__(PolicyTokens(tokenizer, prompt, eos_ids))
        self._llm = llm
        self._capacity = capacity
        self._fingerprint = fingerprint
        self._stop_ids: dict[tuple[str, ...], list[int]] = {}
        self._names = count()

    def fingerprint(self) -> dict[str, Any]:
        """What results depend on beside model, prefix and key. It does not make them
        deterministic: the batch does its part."""
        return dict(self._fingerprint)

    def start(self, problem: Problem) -> Prefix:
        """The prompt of a problem. Raises UserError where it leaves no room for an answer."""
        return self._tokens.start(problem, self._capacity)

    async def score(
        self, prefixes: Sequence[Prefix], continuations: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Log-probabilities of given tokens, untempered. vLLM runs prefix and continuation for
        them without its prefix cache. Raises UserError for a path longer than ``capacity``, and
        where vLLM has died."""
        paths = [
            np.concatenate([prefix.token_ids, np.asarray(continuation, np.int32)])
            for prefix, continuation in zip(prefixes, continuations, strict=True)
        ]
        longest = max(map(len, paths), default=0)
        check_fits(longest, self._capacity)
        return await self._together(
            self._score(path, len(prefix.token_ids))
            for prefix, path in zip(prefixes, paths, strict=True)
        )

    def release(self, prefixes: Sequence[Prefix]) -> None:
        """Does nothing: vLLM drops what was unused longest by itself."""

    async def close(self) -> None:
        self._llm.shutdown()
        # Its destructor shuts down again, and fails where that is left to the interpreter's end.
        # The turn lets its own task end, which holds it too.
        self._llm = None
        await asyncio.sleep(0)

    async def _extend(
        self, prefix: Prefix, detector: StepDetector, sampling: Sampling, key: Key
    ) -> Continuation:
        step = ArrivingStep(detector, prefix, self._capacity - len(prefix.token_ids))
        if step.finish is not None:
            return step.continuation(prefilled_tokens=0)
        stops = self._stops(detector.rule, prefix.text)
        stream = len(stops) > MANY
        asked = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "stop_token_ids": sorted(self._tokens.eos_ids) if stream else stops,
            "logprobs": 0,
        }
        path, seed, prefilled, again = prefix.token_ids, key.seed32(), 0, 0
        while True:
            now, cached = asked | {"seed": seed, "max_tokens": step.room}, 0
            async with aclosing(self._request(path, now, stream=stream)) as outputs:
                async for output in outputs:
                    [new] = output.outputs
                    cached = output.num_cached_tokens or cached
                    if step.add(new.token_ids, _sampled(new.logprobs)) is not None:
                        break
            prefilled += len(path) - cached
            if step.finish is not None:
                return step.continuation(prefilled)
            if new.finish_reason != "stop":
                raise UserError(f"vLLM gave up a path after {len(step.token_ids)} tokens of a step")
            path = np.concatenate([prefix.token_ids, step.token_ids])
            again += 1
            seed = key.derive("more", again).seed32()

    async def _score(self, path: np.ndarray, start: int) -> np.ndarray:
        if start == len(path):
            return np.zeros(0, np.float32)
        # vLLM samples a token behind every prompt: here it is the path's last, which so needs no
        # place in the context. Greedy sampling leaves it untempered.
        last = int(path[-1])
        asked = {
            "temperature": 0.0,
            "max_tokens": 1,
            "prompt_logprobs": 0,
            "logprob_token_ids": [last],
        }
        async with aclosing(self._request(path[:-1], asked, stream=False)) as outputs:
            [output] = [output async for output in outputs]
        self.scored_tokens += len(path) - 1
        at = [*output.prompt_logprobs[start:], *output.outputs[0].logprobs]
        return np.array(_chosen(at, path[start:].tolist()), np.float32)

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
        """The ids that vLLM stops a path at behind the completion ``text``.

        Braces are not among them, as most close no box. Where a box may end the path, vLLM stops
        at paragraphs too, so that it runs on behind a box for one at most.
        """
        strings = rule.stop_strings(text) + ((PARAGRAPH,) if rule.stop_at_box else ())
        if strings not in self._stop_ids:
            completing = tokens_that_complete(self._tokens.detokenizer.pieces, strings)
            self._stop_ids[strings] = sorted({*completing, *self._tokens.eos_ids})
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


def _sampled(logprobs: Any) -> list[float]:
    """Log-probabilities of a request's tokens from vLLM's flat form, where the sampled token comes
    first at every position."""
    return [logprobs.logprobs[at] for at in logprobs.start_indices]


def _chosen(positions: Sequence[Mapping[int, Any]], token_ids: Sequence[int]) -> list[float]:
    """Log-probabilities of these tokens from what vLLM gives at their positions."""
    return [at[token].logprob for at, token in zip(positions, token_ids, strict=True)]


def start_vllm(
    model: ModelSettings, tokenizer: Any, settings: VllmSettings, prompt: PromptSettings
) -> VllmEngine:
    """Starts vLLM (its own process; a CPU takes about half a minute) on a model.

    Raises UserError where vLLM is not installed, was built for another device or cannot run from
    where it is, for options that it does not know, and where it cannot load the model.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import vllm
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM
    except ImportError as error:
        raise UserError(f"engine.kind: vllm needs vLLM ({error}): {INSTALL}") from error
    device = _device(model)
    fingerprint = {"vllm": vllm.__version__, "dtype": model.dtype, "device": device}
    fingerprint |= settings.model_dump(include={"max_rows", "tensor_parallel", "options"})
    eos_ids = checkpoint_eos_token_ids(model, tokenizer)
    try:
        arguments = AsyncEngineArgs(**_arguments(model, settings, device))
        limit = arguments.create_model_config().max_model_len
        capacity = min(settings.capacity or limit, limit)
        arguments.max_model_len = capacity
        with no_progress_bars():
            # Not in a variable: errors that vLLM keeps would hold it, and ``close`` not end it.
            return VllmEngine(
                AsyncLLM.from_engine_args(arguments),
                tokenizer,
                prompt,
                eos_ids,
                capacity,
                fingerprint | {"capacity": capacity},
            )
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(_cannot_start(model, error)) from error


def _arguments(model: ModelSettings, settings: VllmSettings, device: str) -> dict[str, Any]:
    """What vLLM is started with. Raises UserError for options that butwait sets itself."""
    ours = {
        "model": resolve(model),
        "revision": model.revision,
        "dtype": model.dtype,
        "skip_tokenizer_init": True,
        # Those of the generation settings would be sampled with where we say nothing.
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",
        "enable_prefix_caching": True,
        "max_num_seqs": settings.max_rows,
        "gpu_memory_utilization": settings.gpu_memory,
        "tensor_parallel_size": settings.tensor_parallel,
        "max_model_len": None,
        "use_tqdm_on_load": False,
        "disable_log_stats": True,
    }
    defaults: dict[str, Any] = {}
    if device == "cpu":
        # The cache finds a path's beginning in whole blocks, and what is left is run again at every
        # step. vLLM's own 128 tokens on a CPU are longer than most steps.
        defaults["block_size"] = 32
        # Its worker takes back the draw of a prompt that it has run in part, which PyTorch's
        # generators on a CPU cannot do ("CPU Generator does not use offset", vLLM 0.31): the whole
        # engine would die of it.
        ours["enable_chunked_prefill"] = False
    taken = sorted(ours.keys() & settings.options.keys())
    if taken:
        raise UserError(f"engine.options: {taken[0]} is set by butwait itself; leave it out")
    return defaults | ours | settings.options


def _device(model: ModelSettings) -> str:
    """What this vLLM was built for. Raises UserError where the recipe asks for another device,
    and for a CPU build in a path with a space."""
    from vllm.platforms import current_platform

    built_for: str = current_platform.device_type
    if model.device not in ("auto", built_for):
        raise UserError(
            f"model.device: this vLLM runs on {built_for}, not on {model.device!r}; set auto "
            "(CUDA_VISIBLE_DEVICES chooses among GPUs)"
        )
    if built_for == "cpu" and " " in sys.prefix:
        # Its loader (LD_PRELOAD) and its compiler's linker split the path there (0.31).
        raise UserError(
            f"vLLM's CPU build cannot run from a path with a space ({sys.prefix!r}): install it "
            "elsewhere (make vllm VLLM_VENV=/a/folder/without/one)"
        )
    return built_for


def _cannot_start(model: ModelSettings, error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0].rstrip(".") if lines else type(error).__name__
    return (
        f"vLLM could not be started with the model {model.name!r}: {reason} (check model.name, "
        "engine.options, and the memory: engine.gpu_memory, engine.capacity; vLLM's own log "
        "stands above)"
    )

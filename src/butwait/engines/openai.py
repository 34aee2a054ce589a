"""A policy behind a server that speaks OpenAI's protocol.

A step is one streamed request. Its tokens are put before our own ``StepDetector`` as they come, and
the connection is closed where the step ends, so all engines agree on where that is. The server is
told to stop at strings that end a step for certain: that spares tokens, and decides nothing.

Two ways to ask: ``completions`` sends the path as token ids; ``chat`` sends messages, the last of
them the assistant's turn so far, and refuses where a chat template would edit that turn.
"""

import asyncio
import logging
from collections.abc import Collection, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

import numpy as np

from butwait.engines.engine import Continuation, Prefix, ScoringUnsupportedError
from butwait.engines.model_engine import RequestEngine
from butwait.engines.openai_protocol import (
    CHAT,
    COMPLETIONS,
    LeftOutError,
    Mode,
    Pieces,
    Reply,
    Served,
    echoed,
    is_int,
    mapping,
    no_numbers,
    probe,
    read,
)
from butwait.engines.remote_server import (
    LostError,
    RefusedError,
    RemoteServer,
    UnansweredError,
)
from butwait.engines.settings import Sampling, StepRule
from butwait.engines.steps import ArrivingStep, StepDetector
from butwait.problems.prompts import Message, messages
from butwait.problems.settings import PromptSettings
from butwait.records import Key, Problem, UserError

logger = logging.getLogger(__name__)

TOKENS_AT_A_TIME = 8
"""Tokens in a piece of the stream, where the server stops by itself at nearly every step's end: an
event for each token would take longer than to sample it."""
OTHERS = (
    "its tokenizer or chat template is another one than that of model.name, or it cut the prompt; "
    "serve the same model, or use engine.mode: completions"
)


class OpenAIEngine(RequestEngine):
    """An ``Engine`` (see ``engines.engine``) on a server. It belongs to the event loop of its
    first call, and asks the server what it takes then.

    Every request has the seed of its key, unless ``seeds`` is off; the same key may still
    draw another token, as in ``VllmEngine``. A reply that is lost midway is sampled anew with the
    same seed, and only the reply that was used is counted.

    Args:
        tokenizer: of the model.
        prompt: how a problem is put to it.
        eos_ids: every id that ends a completion.
        server: where it is asked.
        name: the model's name at the server.
        capacity: tokens per path, prompt included; None: what the server says.
        mode: the ways to ask that are allowed.
        seeds: whether a request has the seed of its key.
        any_logprobs: whether log-probabilities before temperature, top-k and top-p will do.
    """

    def __init__(
        self,
        tokenizer: Any,
        prompt: PromptSettings,
        eos_ids: Collection[int],
        server: RemoteServer,
        name: str,
        capacity: int | None = None,
        *,
        mode: Mode = "auto",
        seeds: bool = True,
        any_logprobs: bool = False,
    ) -> None:
        super().__init__(tokenizer, prompt, eos_ids, capacity)
        self._server, self._name = server, name
        self._paths = [COMPLETIONS] if mode != "chat" else []
        if mode != "completions" and prompt.style == "chat":
            self._paths.append(CHAT)
        self._seeds, self._any_logprobs = seeds, any_logprobs
        self._chats: dict[bytes, list[Message]] = {}
        self._served: Served | None = None
        self._miscounted = False
        self._asking = asyncio.Lock()

    def start(self, problem: Problem) -> Prefix:
        start = super().start(problem)
        self._chats[start.token_ids.tobytes()] = messages(problem, self._prompt)
        return start

    async def close(self) -> None:
        await self._server.close()

    async def _step(
        self, prefix: Prefix, detector: StepDetector, sampling: Sampling, key: Key
    ) -> Continuation:
        served = await self._how(prefix)
        self._check_logprobs(served, sampling)
        room = self._room(prefix)
        if room == 0 and prefix.completion_length == 0:
            raise UserError(
                f"a prompt has {prefix.prompt_length} tokens, and the server at {self._server.url} "
                f"takes {self._capacity}, prompt included: leave its problem out, or serve the "
                "model with a longer context"
            )
        step = ArrivingStep(detector, prefix, room)
        prefilled, seed, requests = 0, key.seed32(), 1
        while step.finish is None:
            ask = partial(self._request, served, step, sampling, seed)
            step, ran = await self._server.again(ask)
            prefilled += ran
            # The server may stop for a reason of its own (a limit per request): on from there.
            seed, requests = key.derive("request", requests).seed32(), requests + 1
        result = step.continuation(prefilled)
        self._check_numbers(result.logprobs.tolist())
        return result

    async def _request(
        self, served: Served, before: ArrivingStep, sampling: Sampling, seed: int
    ) -> tuple[ArrivingStep, int]:
        """The step after one more request, which starts after the tokens of those before, and the
        tokens that were prefilled for it. Nothing that it is given changes, so that it can be asked
        anew."""
        try:
            return await self._asked(served, before, sampling, seed)
        except LeftOutError as left_out:
            # llama.cpp streams no token that ends within a character, and tells all at the end.
            try:
                return await self._asked(served, before, sampling, seed, at_once=left_out.most)
            except LeftOutError as again:
                raise UserError(
                    f"the server at {self._server.url} leaves out a token that ends within a "
                    f"character: its tokens make {again.ours!r} of {again.theirs!r}, which is no "
                    "path of the model; serve the model with vLLM"
                ) from again

    async def _asked(
        self,
        served: Served,
        before: ArrivingStep,
        sampling: Sampling,
        seed: int,
        at_once: int | None = None,
    ) -> tuple[ArrivingStep, int]:
        """See ``_request``; as a stream, or so many tokens in one reply."""
        step = before.copy()
        body, prompt_ids = self._body(served, step)
        most = step.room if at_once is None else min(step.room, at_once)
        body |= served.sampled(sampling) | {"max_tokens": most}
        body |= {"seed": seed} if self._seeds else {}
        body |= self._stops(served, step.detector.rule, step.prefix.text)
        if at_once is None:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        pieces = Pieces(self._tokenizer, served.gives_ids, maybe_fewer=not served.is_vllm)
        last = Reply()
        try:
            async with aclosing(self._server.events(served.path, body)) as events:
                async for event in events:
                    reply = read(event)
                    self._check_prompt(reply, prompt_ids)
                    taken = pieces.take(reply)
                    last = last.then(reply)
                    step.add(*taken)
                    if step.finish is not None and last.finish is None:
                        break  # the server does not know that the step is over
        except LostError:
            if last.finish is None:
                raise
            # Behind the reason to end there is nothing that a step needs.
        if step.finish is None:
            self._end(step, last, pieces, len(before.token_ids), body.get("stop", ()))
        pieces.check(whole=at_once is not None)
        return step, len(prompt_ids) - min(last.cached_tokens, len(prompt_ids))

    def _end(
        self, step: ArrivingStep, last: Reply, pieces: Pieces, before: int, strings: Sequence[str]
    ) -> None:
        """What the server's own reason to stop means for a step that goes on by its tokens, of
        which it had so many ``before``; it was told to stop at these ``strings``."""
        if last.finish is None:
            raise LostError("a reply has no end")
        if last.finish not in ("stop", "length"):
            raise LostError(f"a reply ended with {last.finish!r}")
        no_path = step.prefix.completion_length + len(step.token_ids) == 0
        if no_path and (pieces.empty or last.finish == "length"):
            raise LostError(f"a reply has no token, and ended with {last.finish!r}")
        if last.finish == "stop" and last.stop not in strings:
            if isinstance(last.stop, int) and last.stop not in self._eos_ids:
                raise UserError(
                    f"the server stopped at token {last.stop}, which ends no completion of "
                    f"{self._tokenizer.name_or_path}: is it the model of model.name?"
                )
            step.add([self._turn_end], [pieces.pending()])
        elif len(step.token_ids) == before:
            step.end_of_context()

    def _check_prompt(self, reply: Reply, prompt_ids: list[int]) -> None:
        """Raises UserError where the server ran other tokens than ours. Their mere number is a
        warning, once: many servers count in a way of their own."""
        n = len(prompt_ids)
        if reply.prompt_ids is not None and reply.prompt_ids != prompt_ids:
            ran = len(reply.prompt_ids) if isinstance(reply.prompt_ids, list) else "other"
            raise UserError(
                f"the server ran {ran} tokens that are not the {n} of the path: {OTHERS}"
            )
        if reply.prompt_tokens not in (None, n) and not self._miscounted:
            self._miscounted = True
            logger.warning(
                "the server at %s says that it ran %.40r tokens where the path has %d; if it "
                "counts rightly, %s",
                *(self._server.url, reply.prompt_tokens, n, OTHERS),
            )

    def _check_numbers(self, logprobs: Sequence[float], **how: bool) -> None:
        if wrong := no_numbers(self._server.url, logprobs, **how):
            raise UserError(wrong)

    def _body(self, served: Served, step: ArrivingStep) -> tuple[dict[str, Any], list[int]]:
        """What says where to go on, and the tokens that the server must run for it."""
        prefix = step.prefix
        path: list[int] = [*prefix.token_ids.tolist(), *step.token_ids.tolist()]
        if served.path == COMPLETIONS:
            return {"model": self._name, "prompt": path, "logprobs": 1}, path
        text = self._detokenizer.decode(path[prefix.prompt_length :])
        body, prompt_ids = self._turn(prefix, text)
        return {"model": self._name, "logprobs": True, **body}, prompt_ids

    def _turn(self, prefix: Prefix, text: str) -> tuple[dict[str, Any], list[int]]:
        """Messages of a chat whose last turn is to be continued. Raises UserError where the chat
        template does not leave that turn as it is."""
        prompt_ids = prefix.token_ids[: prefix.prompt_length]
        chat = self._chats.get(prompt_ids.tobytes())
        if chat is None:
            raise UserError(
                "a path's prompt is none of this run's problems: engine.mode: chat knows prompts "
                "by their messages; use engine.mode: completions"
            )
        options = dict(self._prompt.template_options)
        body: dict[str, Any] = {"messages": chat}
        if options:
            body["chat_template_kwargs"] = options
        if not text:
            return body, prompt_ids.tolist()
        render = partial(self._tokenizer.apply_chat_template, tokenize=False, **options)
        turn: list[Message] = [*chat, {"role": "assistant", "content": text}]
        try:
            whole = render(turn, continue_final_message=True)
        except Exception:  # the turn is not found in what the template made of it, or is refused
            whole = None
        if whole != render(chat, add_generation_prompt=True) + text:
            raise UserError(
                f"the chat template of {self._tokenizer.name_or_path} edits a turn that is "
                "to be continued (a <think>, or spaces at its end): use engine.mode: completions"
            )
        body |= {"messages": turn, "continue_final_message": True, "add_generation_prompt": False}
        return body, self._tokenizer.encode(whole, add_special_tokens=False)

    def _stops(self, served: Served, rule: StepRule, text: str) -> dict[str, Any]:
        """Strings at which a step ends for certain. A server that is not known to keep them in
        its text gets none."""
        if not served.is_vllm:
            return {}
        # A full stop need not end a sentence, and to stop for nothing costs a request.
        strings = () if rule.sentences else rule.stop_strings(text)
        return {
            "stop": list(strings),
            "stream_interval": 1 if rule.sentences else TOKENS_AT_A_TIME,
            "include_stop_str_in_output": True,
            "stop_token_ids": sorted(self._eos_ids),
        }

    async def _score(self, prefix: Prefix, path: np.ndarray) -> list[Any]:
        """By an echo of the prompt."""
        served = await self._how(prefix)
        self._check_fits(len(path))
        if served.path == COMPLETIONS and served.is_vllm:
            # A server samples a token after every prompt: here it is the path's last, which so
            # needs no place in the context. Greedy sampling leaves it untempered.
            body = {
                "model": self._name,
                "prompt": path[:-1].tolist(),
                "echo": True,
                "max_tokens": 1,
                "temperature": 0.0,
                "logprobs": 1,
                "logprob_token_ids": path[-1:].tolist(),
                "return_tokens_as_token_ids": True,
            }

            async def ask() -> list[float] | None:
                answer = await self._server.json(COMPLETIONS, body)
                self._server.check(answer)
                return echoed(answer, path.tolist())

            try:
                echo = await self._server.again(ask)
            except RefusedError as error:
                raise ScoringUnsupportedError(f"no tokens can be scored: {error}") from error
            if echo is not None:
                logprobs = echo[len(prefix.token_ids) :]
                self._check_numbers(logprobs, maybe_impossible=True)
                return logprobs
        raise ScoringUnsupportedError(
            f"the server at {self._server.url} gives no log-probabilities of given tokens (vLLM "
            "0.31 does, in engine.mode: completions)"
        )

    async def _how(self, prefix: Prefix) -> Served:
        """How the server answers; it is asked once."""
        async with self._asking:
            if self._served is None:
                limit = await context(self._server, self._name)
                if limit is not None:
                    self._capacity = min(self._capacity or limit, limit)
                self._served = await probe(self._server, self._name, self._paths, prefix)
        return self._served

    def _check_logprobs(self, served: Served, sampling: Sampling) -> None:
        shaped = sampling.temperature not in (0.0, 1.0) or sampling.top_p < 1 or sampling.top_k
        if shaped and not served.of_the_policy and not self._any_logprobs:
            raise UserError(
                f"the server at {self._server.url} gives log-probabilities before temperature, "
                "top-k and top-p: start vLLM with --logprobs-mode processed_logprobs, sample with "
                "temperature 1 alone, or set engine.any_logprobs: true"
            )


async def context(server: RemoteServer, name: str) -> int | None:
    """Tokens of the model's context, from the server's list of models; None where it has no list or
    does not say. Raises UserError where the list does not have the model."""
    try:
        reply = await server.again(partial(server.json, "/models"), probing=True)
    except RefusedError as error:
        if error.status in (401, 403):
            raise
        return None
    except UnansweredError as error:
        if not error.unable:
            raise
        return None
    listed = _listed(reply)
    if listed and name not in listed:
        raise UserError(
            f"the server at {server.url} has no model {name!r} but "
            f"{server.shown(', '.join(sorted(listed)[:5]))}: set engine.served_model"
        )
    about = listed.get(name, {})
    limit: Any = about.get("max_model_len") or mapping(about.get("meta")).get("n_ctx")  # llama.cpp
    return limit if is_int(limit) and limit > 0 else None


def _listed(reply: Any) -> dict[str, dict[str, Any]]:
    """What is known of each model by its name, from a list in one of several shapes."""
    models = reply
    for key in ("data", "models"):
        if isinstance(models, dict):
            models = models.get(key) or models
    if isinstance(models, dict) and models.get("object") == "model":
        models = [models]
    listed = {}
    for model in models if isinstance(models, list) else []:
        about = model if isinstance(model, dict) else {"id": model}
        aliases = about.get("aliases")
        names = [about.get(key) for key in ("id", "name", "model")]
        names += aliases if isinstance(aliases, list) else []
        listed.update({name: about for name in names if isinstance(name, str)})
    return listed

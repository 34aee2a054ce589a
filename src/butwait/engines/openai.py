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
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from butwait.engines.engine import (
    Continuation,
    Prefix,
    PromptTooLongError,
    PromptUnsupportedError,
    ScoringUnsupportedError,
)
from butwait.engines.model_engine import RequestEngine
from butwait.engines.scheduling.loads import Load
from butwait.engines.servers.chats import check_template, going_on
from butwait.engines.servers.figures import Figures
from butwait.engines.servers.fleet import Fleet, Proof, session_of
from butwait.engines.servers.metrics import MetricsPages
from butwait.engines.servers.openai_protocol import (
    CHAT,
    COMPLETIONS,
    STREAMED,
    LeftOutError,
    Mode,
    Pieces,
    Reply,
    about_the_context,
    echoed,
    no_numbers,
    replies,
)
from butwait.engines.servers.probe import Served, context, probe
from butwait.engines.servers.remote_server import LostError, RefusedError, RemoteServer
from butwait.engines.settings import Sampling, StepRule
from butwait.engines.steps import ArrivingStep, StepDetector
from butwait.problems.prompts import Message, messages
from butwait.problems.settings import PromptSettings
from butwait.records import Key, Problem, UserError

logger = logging.getLogger(__name__)

TOKENS_AT_A_TIME = 8
"""Tokens in a piece of the stream, where the server stops by itself at nearly every step's end: an
event for each token would take longer than to sample it."""
MOST_CHATS = 1 << 16
"""Prompts whose messages are remembered; more than are searched at a time."""
NO_CHAT = (
    "a path's prompt is a text as it stands, and the server is asked by chats, which are known by "
    "the messages of the run's problems; ask by a chat, or use engine.mode: completions"
)
OTHERS = (
    "its tokenizer or chat template is another one than that of model.name, or writes another day, "
    "or it cut the prompt; serve the same model, or use engine.mode: completions"
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
        servers: where it is asked.
        name: the model's name at the server.
        capacity: tokens per path, prompt included; None: what the server says.
        mode: the ways to ask that are allowed.
        seeds: whether a request has the seed of its key.
        any_logprobs: whether log-probabilities before temperature, top-k and top-p will do.
        metrics: where the server says how full it is; None: nobody asks.

    Raises UserError where chats are all that is asked for, and have a template of their own.
    """

    def __init__(
        self,
        tokenizer: Any,
        prompt: PromptSettings,
        eos_ids: Collection[int],
        servers: Fleet,
        name: str,
        capacity: int | None = None,
        *,
        mode: Mode = "auto",
        seeds: bool = True,
        any_logprobs: bool = False,
        metrics: MetricsPages | None = None,
    ) -> None:
        super().__init__(tokenizer, prompt, eos_ids, capacity)
        self._servers, self._server, self._name = servers, servers.first, name
        self._paths = [COMPLETIONS] if mode != "chat" else []
        if mode != "completions" and prompt.style == "chat":
            self._paths.append(CHAT)
        if self._paths == [CHAT]:
            check_template(tokenizer, prompt)
        self._seeds, self._any_logprobs = seeds, any_logprobs
        self._chats: dict[bytes, list[Message]] = {}
        self._served: Served | None = None
        self._miscounted = False
        self._asking = asyncio.Lock()
        self._metrics = metrics

    def start(self, problem: Problem) -> Prefix:
        """See ``Engine.start``. PromptUnsupportedError for no chat, where chats are all that is
        asked for; where that is not known yet, the first step raises it."""
        paths = self._paths if self._served is None else [self._served.path]
        if problem.plain and paths == [CHAT]:
            raise PromptUnsupportedError(NO_CHAT)
        start = super().start(problem)
        if not problem.plain:
            key = start.token_ids.tobytes()
            self._chats.pop(key, None)
            self._chats[key] = messages(problem, self._prompt)
        if len(self._chats) > MOST_CHATS:
            del self._chats[next(iter(self._chats))]
        return start

    async def load(self) -> Load | None:
        """What the server says at ``/metrics``; None where it says nothing."""
        return None if self._metrics is None else await self._metrics.load()

    def trim(self, share: float) -> None:
        """Does nothing: a server drops by itself what was unused longest."""

    async def close(self) -> None:
        await self._servers.close()
        if self._metrics is not None:
            await self._metrics.close()

    def server_figures(self) -> Figures:
        """Requests, failures and sampled tokens, by the server's address."""
        return self._servers.figures()

    async def _step(
        self, prefix: Prefix, detector: StepDetector, sampling: Sampling, key: Key
    ) -> Continuation:
        served = await self._how(prefix)
        if not self._any_logprobs:
            served.check(sampling, self._server.url)
        room = self._room(prefix)
        if room == 0 and prefix.completion_length == 0:
            raise PromptTooLongError(
                f"a prompt has {prefix.prompt_length} tokens, and the server at "
                f"{self._server.url} takes {self._capacity}, prompt included: leave its "
                "problem out, or serve the model with a longer context"
            )
        step = ArrivingStep(detector, prefix, room)
        prefilled, seed, requests = 0, key.seed32(), 1
        session, server = session_of(prefix.token_ids[: prefix.prompt_length]), self._server
        while step.finish is None:
            ask = partial(self._request, served, step, sampling, seed)
            try:
                step, ran, server = await self._servers.again(session, ask)
            except RefusedError as error:
                if not about_the_context(error):
                    raise
                kind = UserError if prefix.completion_length else PromptTooLongError
                raise kind(f"{error}: set engine.capacity to the server's context") from error
            prefilled += ran
            # The server may stop for a reason of its own (a limit per request): on from there.
            seed, requests = key.derive("request", requests).seed32(), requests + 1
        result = step.continuation(prefilled)
        _check_numbers(server, result.logprobs.tolist())
        return result

    async def _request(
        self,
        served: Served,
        before: ArrivingStep,
        sampling: Sampling,
        seed: int,
        server: RemoteServer,
    ) -> tuple[ArrivingStep, int, RemoteServer]:
        """The step after one more request, which starts after the tokens of those before, the
        tokens that were prefilled for it, and who did it. Nothing that it is given changes, so that
        it can be asked anew, of anyone."""
        ask = partial(self._asked, server, served, before, sampling, seed)
        try:
            step, ran = await ask()
        except LeftOutError as left_out:
            # llama.cpp streams no token that ends within a character, and tells all at the end.
            try:
                step, ran = await ask(at_once=left_out.most)
            except LeftOutError as again:
                raise UserError(
                    f"the server at {server.url} leaves out a token that ends within a "
                    f"character: its tokens make {again.ours!r} of {again.theirs!r}, which is no "
                    "path of the model; serve the model with vLLM"
                ) from again
        self._servers.used(server, len(step.token_ids) - len(before.token_ids))
        return step, ran, server

    async def _asked(
        self,
        server: RemoteServer,
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
        body |= STREAMED if at_once is None else {}
        pieces = Pieces(self._tokenizer, served.gives_ids, maybe_fewer=not served.is_vllm)
        last = Reply()
        async with aclosing(replies(server, served.path, body)) as arriving:
            async for reply in arriving:
                self._check_prompt(server, reply, prompt_ids)
                if last.finish is None:  # behind the reason to end there are no tokens
                    step.add(*pieces.take(reply))
                last = last.then(reply)
                if step.finish is not None and last.finish is None:
                    break  # the server does not know that the step is over
        if step.finish is None:
            self._end(step, last, pieces, len(before.token_ids), body.get("stop", ()))
        pieces.check(whole=at_once is not None)
        return step, len(prompt_ids) - min(last.cached_tokens, len(prompt_ids))

    def _end(
        self, step: ArrivingStep, last: Reply, pieces: Pieces, before: int, strings: Sequence[str]
    ) -> None:
        """What the server's own reason to stop means for a step that goes on by its tokens, of
        which it had so many ``before``; it was told to stop at these ``strings``."""
        last.check_end()
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

    def _check_prompt(self, server: RemoteServer, reply: Reply, prompt_ids: list[int]) -> None:
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
                *(server.url, reply.prompt_tokens, n, OTHERS),
            )

    def _body(self, served: Served, step: ArrivingStep) -> tuple[dict[str, Any], list[int]]:
        """What says where to go on, and the tokens that the server must run for it."""
        prefix = step.prefix
        path: list[int] = [*prefix.token_ids.tolist(), *step.token_ids.tolist()]
        body = self._every(served.path)
        if served.path == COMPLETIONS:
            return {**body, "prompt": path}, path
        text = self._detokenizer.decode(path[prefix.prompt_length :])
        turn, prompt_ids = self._turn(prefix, text)
        return body | turn, prompt_ids

    def _every(self, path: str) -> dict[str, Any]:
        """What every request to a path holds, whatever step it is for."""
        if path == COMPLETIONS:
            return {"model": self._name, "logprobs": 1}
        body: dict[str, Any] = {"model": self._name, "logprobs": True}
        if options := dict(self._prompt.template_options):
            body["chat_template_kwargs"] = options
        return body

    def _turn(self, prefix: Prefix, text: str) -> tuple[dict[str, Any], list[int]]:
        """Messages of a chat whose last turn is to be continued. Raises PromptUnsupportedError for
        a prompt that came from no chat, and GoingOnUnsupportedError where the chat template does
        not leave that turn as it is."""
        prompt_ids = prefix.token_ids[: prefix.prompt_length]
        key = prompt_ids.tobytes()
        chat = self._chats.pop(key, None)
        if chat is None:
            raise PromptUnsupportedError(NO_CHAT)
        self._chats[key] = chat  # those that are searched stay
        if not text:
            return {"messages": chat}, prompt_ids.tolist()
        whole = going_on(self._tokenizer, chat, text, self._prompt)
        turn: list[Message] = [*chat, {"role": "assistant", "content": text}]
        ending = {"continue_final_message": True, "add_generation_prompt": False}
        return {"messages": turn, **ending}, self._tokenizer.encode(whole, add_special_tokens=False)

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

            session = session_of(prefix.token_ids[: prefix.prompt_length])

            async def ask(server: RemoteServer) -> tuple[list[float] | None, RemoteServer]:
                answer = await server.json(COMPLETIONS, body)
                server.check(answer)
                return echoed(answer, path.tolist()), server

            try:
                echo, server = await self._servers.again(session, ask)
            except RefusedError as error:
                raise ScoringUnsupportedError(f"no tokens can be scored: {error}") from error
            if echo is not None:
                logprobs = echo[len(prefix.token_ids) :]
                _check_numbers(server, logprobs, maybe_impossible=True)
                return logprobs
        raise ScoringUnsupportedError(
            f"the server at {self._server.url} gives no log-probabilities of given tokens "
            "(vLLM 0.31 does, in engine.mode: completions)"
        )

    async def _how(self, prefix: Prefix) -> Served:
        """How the servers answer; they are asked once."""
        async with self._asking:
            if self._served is None:
                proof = dict(await self._servers.proof(partial(self._proof, prefix)))
                limit = proof.pop("context")
                if limit is not None:
                    self._capacity = min(self._capacity or limit, limit)
                served = Served(**proof)
                if served.path == CHAT and self._paths != [CHAT]:
                    check_template(self._tokenizer, self._prompt)
                self._served = served
        return self._served

    async def _proof(self, prefix: Prefix, server: RemoteServer) -> Proof:
        """What a server says of its model, and how it answers."""
        limit = await context(server, self._name)
        seed = {"seed": 0} if self._seeds else {}
        requests = {path: self._every(path) | STREAMED | seed for path in self._paths}
        decode = self._detokenizer.decode if self._servers.several else None
        return {"context": limit} | asdict(await probe(server, requests, prefix, decode))


def _check_numbers(server: RemoteServer, logprobs: Sequence[float], **how: bool) -> None:
    if wrong := no_numbers(server.url, logprobs, **how):
        raise UserError(wrong)

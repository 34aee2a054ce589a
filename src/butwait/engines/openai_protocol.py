"""OpenAI's protocol, which each server speaks in its own way: what they say, read into one form,
and how one of them answers, asked before the first step."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any, Literal

from butwait.engines.detokenizer import Detokenizer, text_tokens
from butwait.engines.engine import Prefix
from butwait.engines.remote_server import LostError, RefusedError, RemoteServer
from butwait.engines.settings import Sampling
from butwait.records import UserError

Mode = Literal["auto", "completions", "chat"]
COMPLETIONS, CHAT = "/completions", "/chat/completions"
CERTAIN = -1e-6
"""Nats: the log-probability of the only token that a filter left, but for rounding."""
PROBED = 4
"""Tokens that the server is asked for to see how it answers. They are in no count."""
_TOKEN_ID = "token_id:"


@dataclass(frozen=True)
class Reply:
    """A whole reply, or the next piece of a stream.

    Attributes:
        text: what is new.
        token_ids: its tokens, with EOS where the server counts it in; None: it does not say.
        logprobs: nats, one for each of the server's tokens; empty where it gives none.
        finish: the server's reason to end; None: it goes on.
        stop: the stop string or token that ended it, where the server says so.
        prompt_ids: the tokens that were run before, where the server says so.
        prompt_tokens: how many they were, where it says that.
        cached_tokens: how many of them came from its cache.
    """

    text: str = ""
    token_ids: list[int] | None = None
    logprobs: Sequence[float] = ()
    finish: str | None = None
    stop: str | int | None = None
    prompt_ids: list[int] | None = None
    prompt_tokens: int | None = None
    cached_tokens: int = 0

    def then(self, later: "Reply") -> "Reply":
        """What this piece of a stream and a later one say of its end."""
        return Reply(
            finish=later.finish or self.finish,
            stop=self.stop if later.stop is None else later.stop,
            cached_tokens=later.cached_tokens or self.cached_tokens,
        )


@contextmanager
def _in_our_form() -> Iterator[None]:
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise LostError(f"a reply has another form ({error!r})") from error


@_in_our_form()
def read(body: dict[str, Any]) -> Reply:
    """A reply, or an event of a stream. Raises LostError where it is none, and UserError where
    the server takes the thought out of the text."""
    usage = body.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    choices = body["choices"]
    choice = choices[0] if choices else {}
    message = choice.get("delta") or choice.get("message") or {}
    if message.get("reasoning_content") or message.get("reasoning"):
        raise UserError(
            "the server takes the thought out of the text: start it without a reasoning parser, "
            "or set engine.mode: completions"
        )
    token_ids, logprobs = _tokens(choice)
    return Reply(
        text=choice.get("text") or message.get("content") or "",
        token_ids=token_ids,
        logprobs=logprobs,
        finish=choice.get("finish_reason"),
        stop=choice.get("stop_reason"),
        # A completion has them in its choice, a chat beside it.
        prompt_ids=choice.get("prompt_token_ids") or body.get("prompt_token_ids"),
        prompt_tokens=usage.get("prompt_tokens"),
        cached_tokens=details.get("cached_tokens") or 0,
    )


@_in_our_form()
def echoed(body: dict[str, Any], path: list[int]) -> list[float | None] | None:
    """The log-probabilities of a path, in nats, where all but its last token were echoed and the
    last was asked for by its id. The first is None. None for all of them where the server echoed
    something else. Raises LostError for a reply of another form."""
    logprobs = body["choices"][0]["logprobs"] or {}
    names, values = logprobs.get("tokens") or [], logprobs.get("token_logprobs") or []
    if _named(names[:-1]) != path[:-1] or len(values) != len(path):
        return None
    last = logprobs["top_logprobs"][-1].get(f"{_TOKEN_ID}{path[-1]}")
    return None if last is None else [*values[:-1], last]


def _tokens(choice: dict[str, Any]) -> tuple[list[int] | None, list[float]]:
    """Ids by vLLM's ``token_ids``, its older ``token_id:5`` in the place of text, or llama.cpp's
    ``id``; log-probabilities in the form of completions or of chats."""
    logprobs = choice.get("logprobs") or {}
    content = logprobs.get("content") or []
    if content:
        values = [float(entry["logprob"]) for entry in content]
        names = [entry["token"] for entry in content]
        ids = [entry["id"] for entry in content] if all("id" in e for e in content) else None
    else:
        values = [float(value) for value in logprobs.get("token_logprobs") or []]
        names, ids = logprobs.get("tokens") or [], None
    if choice.get("token_ids") is not None:
        ids = choice["token_ids"]
    elif ids is None:
        ids = _named(names)
    if ids is not None and values and len(ids) != len(values):
        raise ValueError(f"{len(values)} log-probabilities for {len(ids)} tokens")
    return ids, values


def _named(names: Sequence[str]) -> list[int] | None:
    if not names or not all(name.startswith(_TOKEN_ID) for name in names):
        return None
    return [int(name.removeprefix(_TOKEN_ID)) for name in names]


def check_prompt(reply: Reply, prompt_ids: list[int]) -> None:
    """Raises UserError where the server ran other tokens than ours."""
    others = reply.prompt_ids is not None and reply.prompt_ids != prompt_ids
    if others or reply.prompt_tokens not in (None, len(prompt_ids)):
        ran = len(reply.prompt_ids) if reply.prompt_ids else reply.prompt_tokens
        raise UserError(
            f"the server ran {ran} tokens that are not the {len(prompt_ids)} of the path: its "
            "tokenizer or chat template is another one than that of model.name, or it cut the "
            "prompt; serve the same model, or use engine.mode: completions"
        )


class Pieces:
    """Tokens of a stream. Where the server gives none, each piece of its text is tokenised, once:
    servers send about a token at a time, so this finds nearly always what was sampled."""

    def __init__(self, tokenizer: Any, gives_ids: bool) -> None:
        self._tokenizer = tokenizer
        self._gives_ids = gives_ids
        self._text = ""
        self._token_ids: list[int] = []
        self._pending: list[float] = []

    def take(self, reply: Reply) -> tuple[list[int], list[float]]:
        """The next tokens and a log-probability for each. A piece of text that becomes another
        number of tokens than the server's has their sum at its first token."""
        if self._gives_ids:
            sampled = reply.token_ids or []
            if len(reply.logprobs) != len(sampled):
                raise UserError("the server left out log-probabilities of sampled tokens")
            return sampled, list(reply.logprobs)
        self._pending.extend(reply.logprobs)
        if not reply.text:
            return [], []  # part of a character, or EOS
        self._text += reply.text
        token_ids: list[int] = text_tokens(self._tokenizer, reply.text).tolist()
        self._token_ids.extend(token_ids)
        logprobs = self._pending
        if len(logprobs) != len(token_ids):
            logprobs = [sum(logprobs), *[0.0] * (len(token_ids) - 1)]
        self._pending = []
        return token_ids, logprobs

    def pending(self) -> float:
        """The log-probability of what made no text: of EOS; 0 where the server does not tell."""
        return sum(self._pending)

    def check(self) -> None:
        """Raises UserError where pieces of a text, tokenised, do not make up that text."""
        if Detokenizer(self._tokenizer).decode(self._token_ids) != self._text:
            raise UserError(
                f"the tokenizer of {self._tokenizer.name_or_path} does not keep pieces of a "
                "text as they are: it needs a server that gives token ids (vLLM does)"
            )


@dataclass(frozen=True)
class Served:
    """How a server answers.

    Attributes:
        path: where completions or chats are asked for.
        extended: whether it takes vLLM's further parameters.
        gives_ids: whether it says which tokens it sampled.
        is_vllm: whether it understood ``return_token_ids``, and so keeps stop strings in its text.
        of_the_policy: whether log-probabilities are those after temperature, top-k and top-p.
    """

    path: str
    extended: bool
    gives_ids: bool = False
    is_vllm: bool = False
    of_the_policy: bool = False

    def sampled(self, sampling: Sampling) -> dict[str, Any]:
        """The parameters of sampling, all of them: a server has defaults of its own, which come
        from the model's generation settings."""
        body: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
        body |= {"presence_penalty": 0.0, "frequency_penalty": 0.0}
        if self.extended:
            body |= {"top_k": sampling.top_k, "min_p": 0.0, "repetition_penalty": 1.0}
            body |= {"watermarking": False, "return_token_ids": True}
        elif sampling.top_k:
            body["top_k"] = sampling.top_k
        return body


async def context(server: RemoteServer, name: str) -> int | None:
    """Tokens of the model's context, from the server's list of models; None where it has no list or
    does not say. Raises UserError where the list does not have the model."""
    try:
        reply = await server.again(partial(server.json, "/models"))
    except RefusedError as error:
        if error.status in (401, 403):
            raise
        return None
    listed = {str(model.get("id")): model for model in reply.get("data") or []}
    if listed and name not in listed:
        raise UserError(
            f"the server at {server.url} has no model {name!r} but "
            f"{', '.join(sorted(listed)[:5])}: set engine.served_model"
        )
    limit = listed.get(name, {}).get("max_model_len")
    return limit if isinstance(limit, int) else None


async def probe(server: RemoteServer, name: str, paths: Sequence[str], prefix: Prefix) -> Served:
    """Asks a model's server in every way that these paths allow, the fullest first, with the tokens
    of a prompt. Raises the server's refusal of the last."""
    for path, extended in product(paths, (True, False)):
        try:
            return await _probe(server, name, path, extended, prefix)
        except RefusedError as error:
            if error.status in (401, 403) or (path, extended) == (paths[-1], False):
                raise
    raise AssertionError("some way is allowed")


async def _probe(
    server: RemoteServer, name: str, path: str, extended: bool, prefix: Prefix
) -> Served:
    # A prompt that says nothing, so that no model is certain of what follows; where the filters
    # leave one token, only log-probabilities of the policy are zero.
    served = Served(path, extended)
    body = served.sampled(Sampling(top_k=int(extended))) | {"max_tokens": PROBED, "seed": 0}
    if path == COMPLETIONS:
        body |= {"prompt": prefix.token_ids[::-1].tolist(), "logprobs": 1}
    else:
        body |= {"messages": [{"role": "user", "content": "?!"}], "logprobs": True}
    body["model"] = name
    reply = read(await server.again(partial(server.json, path, body)))
    if not reply.logprobs:
        raise UserError(
            f"the server at {server.url} gives no log-probabilities of its tokens: they are a "
            "part of every search tree"
        )
    return replace(
        served,
        gives_ids=reply.token_ids is not None,
        is_vllm=reply.prompt_ids is not None,
        of_the_policy=extended and min(reply.logprobs) > CERTAIN,
    )

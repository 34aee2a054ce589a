"""What servers say in OpenAI's protocol, each in its own way, read into one form."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from butwait.engines.policy_tokens import PolicyTokens
from butwait.engines.remote_server import LostError
from butwait.records import UserError

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


def read(body: dict[str, Any]) -> Reply:
    """A reply, or an event of a stream. Raises LostError where it is none, and UserError where
    the server takes the thought out of the text."""
    try:
        return _read(body)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise LostError(f"a reply has another form ({error!r})") from error


def echoed(body: dict[str, Any], path: list[int]) -> list[float | None] | None:
    """The log-probabilities of a path, in nats, where all but its last token were echoed and the
    last was asked for by its id. The first is None. None for all of them where the server echoed
    something else. Raises LostError for a reply of another form."""
    try:
        logprobs = body["choices"][0]["logprobs"] or {}
        names, values = logprobs.get("tokens") or [], logprobs.get("token_logprobs") or []
        if _named(names[:-1]) != path[:-1] or len(values) != len(path):
            return None
        last = logprobs["top_logprobs"][-1].get(f"{_TOKEN_ID}{path[-1]}")
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise LostError(f"a reply has another form ({error!r})") from error
    return None if last is None else [*values[:-1], last]


def _read(body: dict[str, Any]) -> Reply:
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

    def __init__(self, tokens: PolicyTokens, gives_ids: bool) -> None:
        self._tokens = tokens
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
        token_ids: list[int] = self._tokens.encode(reply.text).tolist()
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
        if self._tokens.detokenizer.decode(self._token_ids) != self._text:
            raise UserError(
                f"the tokenizer of {self._tokens.tokenizer.name_or_path} does not keep pieces of a "
                "text as they are: it needs a server that gives token ids (vLLM does)"
            )

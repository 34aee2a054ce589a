"""OpenAI's protocol, which each server speaks in its own way: what they say, read into one form."""

import asyncio
import math
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from butwait.engines.detokenizer import UNFINISHED, Detokenizer, text_tokens
from butwait.engines.servers.remote_server import LEFTOVERS_S, LostError, RefusedError, RemoteServer
from butwait.records import UserError

Mode = Literal["auto", "completions", "chat"]
COMPLETIONS, CHAT = "/completions", "/chat/completions"
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
"""What asks for a reply in pieces, with a count of its tokens at the end."""
USAGE_S = 1.0
"""The longest that ``usage``, the count of tokens, is waited for behind the reason to end."""
PADDED = 1024
"""Ids beyond the tokenizer's that a model may have: vocabularies are padded to round numbers."""
ABOVE_ZERO = 0.1
"""Nats that rounding in bfloat16 may lift a log-probability above 0."""
_TOO_LONG = re.compile(
    r"context[ _](length|size|window)|(maximum|max)[ _](\w+[ _])?length|too many tokens"
    r"|(prompt|inputs?|request|sequence)\b.{0,40}\b(too long|exceeds|longer than|less than \d)",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"model_not_found|no (such )?model\b|(unknown|invalid) model|not have access"
    r"|model\b.{0,100}\b(not (exist|found|available|loaded)|is unknown)",
    re.IGNORECASE,
)
_TOKEN_ID = "token_id:"
_PASS = "surrogatepass"
_FINISHES = {
    **dict.fromkeys(("stop", "stop_sequence", "eos", "eos_token", "end_turn"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "max_length", "model_length"), "length"),
}
"""What servers call an end of the completion, and one that a limit of theirs made."""


class LeftOutError(Exception):
    """A stream left out tokens of its text.

    Attributes:
        most: tokens that there may be.
        ours: what its tokens say.
        theirs: its text.
    """

    def __init__(self, most: int, ours: str, theirs: str) -> None:
        super().__init__()
        self.most, self.ours, self.theirs = most, ours[:100], theirs[:100]


@dataclass(frozen=True)
class Reply:
    """A whole reply, or the next piece of a stream.

    Attributes:
        text: what is new.
        token_ids: its tokens, with EOS where the server counts it in; None: it does not say.
        logprobs: nats, one for each of the server's tokens, NaN where it is null; empty where the
            server gives none.
        finish: the server's reason to end, ``stop`` or ``length`` where it ended as it should;
            None: it goes on.
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

    def check_end(self) -> None:
        """Raises LostError for a reply that did not end as it should."""
        if self.finish is None:
            raise LostError("a reply has no end")
        if self.finish not in ("stop", "length"):
            raise LostError(f"a reply ended with {self.finish!r}")


@contextmanager
def _in_our_form() -> Iterator[None]:
    try:
        yield
    except (LookupError, AttributeError, TypeError, ValueError, OverflowError) as error:
        raise LostError(f"a reply has another form ({error!r})") from error


@_in_our_form()
def read(body: dict[str, Any]) -> Reply:
    """A reply, or an event of a stream. Raises LostError where it is none, and UserError where
    the server takes the thought out of the text."""
    usage = mapping(body.get("usage"))
    choices = body.get("choices") if usage else body["choices"]
    choice: Any = next((c for c in choices or () if c.get("index") in (0, None)), {})
    message = choice.get("delta") or choice.get("message") or {}
    if message.get("reasoning_content") or message.get("reasoning"):
        raise UserError(
            "the server takes the thought out of the text: start it without a reasoning parser, "
            "or set engine.mode: completions"
        )
    token_ids, logprobs = _tokens(choice)
    finish: Any = choice.get("finish_reason") or None
    stop: Any = choice.get("stop_reason")
    # A completion has them in its choice, a chat beside it.
    prompt_ids = choice.get("prompt_token_ids") or body.get("prompt_token_ids")
    cached: Any = mapping(usage.get("prompt_tokens_details")).get("cached_tokens")
    return Reply(
        text=_text(choice.get("text") or message.get("content") or ""),
        token_ids=token_ids,
        logprobs=logprobs,
        finish=_FINISHES.get(finish, finish),
        stop=stop if is_int(stop) or (isinstance(stop, str) and stop) else None,
        prompt_ids=prompt_ids,
        prompt_tokens=usage.get("prompt_tokens"),
        cached_tokens=cached if is_int(cached) and cached > 0 else 0,
    )


async def replies(
    server: RemoteServer, path: str, body: dict[str, Any]
) -> AsyncGenerator[Reply, None]:
    """The pieces of a reply as they come. It is whole with its reason to end: behind that, the
    count of tokens and the end of the stream are waited for a short time, and no error counts.
    Raises LostError and RefusedError, and UserError as ``read`` does."""
    deadline = None
    async with aclosing(server.events(path, body)) as events:
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    event = await anext(events, None)
                reply = None if event is None else read(event)
            except (TimeoutError, LostError, RefusedError):
                if deadline is None:
                    raise
                return
            if reply is None:
                return
            now = asyncio.get_running_loop().time()
            if deadline is None and reply.finish is not None:
                deadline = now + USAGE_S
            if deadline is not None and reply.prompt_tokens is not None:
                deadline = min(deadline, now + LEFTOVERS_S)
            yield reply


def about_the_context(error: RefusedError) -> bool:
    """Whether a server says that a request is too long for the model."""
    return error.status == 413 or bool(_TOO_LONG.search(error.said))


def about_the_model(error: RefusedError) -> bool:
    """Whether a server says that it has no such model."""
    return bool(_NO_MODEL.search(error.said))


@_in_our_form()
def echoed(body: dict[str, Any], path: list[int]) -> list[float] | None:
    """The log-probabilities of a path, in nats, where all but its last token were echoed and the
    last was asked for by its id; NaN where there is none, as for the first. None for all of them
    where the server echoed something else. Raises LostError for a reply of another form."""
    logprobs = body["choices"][0]["logprobs"] or {}
    names, values = logprobs.get("tokens") or [], logprobs.get("token_logprobs") or []
    if _named(names[:-1]) != path[:-1] or len(values) != len(path):
        return None
    last = logprobs["top_logprobs"][-1].get(f"{_TOKEN_ID}{path[-1]}")
    return None if last is None else [*map(_number, values[:-1]), _number(last)]


def no_numbers(url: str, logprobs: Sequence[float], *, maybe_impossible: bool = False) -> str:
    """What is wrong with log-probabilities of tokens; "" where nothing is.

    Args:
        url: of the server that gave them.
        logprobs: nats, NaN where they are missing.
        maybe_impossible: whether the tokens may be such as the model cannot take.
    """
    wrong = sum(
        not (value <= ABOVE_ZERO and (maybe_impossible or value > -math.inf)) for value in logprobs
    )
    if not wrong:
        return ""
    return (
        f"the server at {url} left out {wrong} of {len(logprobs)} log-probabilities of tokens, or "
        "gave for them what is none: the model's logits are no numbers (NaN), as its weights or "
        "this precision do not hold (serve it in another one), or the server cannot give them"
    )


def mapping(value: Any) -> dict[str, Any]:
    """A mapping as it is, and an empty one for all else: what only counts tokens stops no run."""
    return value if isinstance(value, dict) else {}


def is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _text(value: Any) -> str:
    """A text, or one in parts."""
    if isinstance(value, list):
        value = "".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise TypeError(f"a text is {type(value).__name__}")
    return value


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _tokens(choice: dict[str, Any]) -> tuple[list[int] | None, list[float]]:
    """Ids by vLLM's ``token_ids``, its older ``token_id:5`` in the place of text, or llama.cpp's
    ``id``; log-probabilities in the form of completions or of chats."""
    logprobs = choice.get("logprobs") or {}
    content = logprobs.get("content") or []
    if content:
        values = [_number(entry.get("logprob")) for entry in content]
        names = [entry.get("token") or "" for entry in content]
        ids = [entry["id"] for entry in content] if all("id" in e for e in content) else None
    else:
        values = [_number(value) for value in logprobs.get("token_logprobs") or []]
        names, ids = logprobs.get("tokens") or [], None
    if choice.get("token_ids") is not None:
        ids = choice["token_ids"]
    elif ids is None:
        ids = _named(names)
    if ids is not None:
        if not all(is_int(token) and 0 <= token < 2**31 for token in ids):
            raise ValueError("a token id is none")
        if values and len(ids) != len(values):
            raise ValueError(f"{len(values)} log-probabilities for {len(ids)} tokens")
    return ids, values


def _named(names: Sequence[str]) -> list[int] | None:
    if not names or not all(name.startswith(_TOKEN_ID) for name in names):
        return None
    return [int(name.removeprefix(_TOKEN_ID)) for name in names]


class Pieces:
    """Tokens of a stream. Where the server gives none, each piece of its text is tokenised, once:
    servers send about a token at a time, so this finds nearly always what was sampled.

    Args:
        tokenizer: of the model.
        gives_ids: whether the server says which tokens it sampled.
        maybe_fewer: whether it may leave some of them out.

    Attributes:
        empty: whether nothing was sampled so far, for all that the server says.
    """

    def __init__(self, tokenizer: Any, gives_ids: bool, maybe_fewer: bool = False) -> None:
        self.empty = True
        self._tokenizer = tokenizer
        self._gives_ids, self._maybe_fewer = gives_ids, maybe_fewer
        self._text = ""
        self._token_ids: list[int] = []
        self._half = ""
        self._pending: list[float] = []
        self._numbered = False

    def take(self, reply: Reply) -> tuple[list[int], list[float]]:
        """The next tokens and a log-probability for each, NaN where it is missing. A piece of text
        that becomes another number of tokens than the server's has their sum at its first token.
        Raises LostError for tokens and texts that are none."""
        self.empty = self.empty and not (reply.text or reply.token_ids or reply.logprobs)
        if self._gives_ids:
            return self._given(reply)
        self._pending.extend(reply.logprobs)
        self._numbered = self._numbered or bool(reply.logprobs)
        text = self._whole_characters(reply.text)
        token_ids: list[int] = text_tokens(self._tokenizer, text).tolist() if text else []
        if not token_ids:
            return [], []  # part of a character, or EOS
        self._text += text
        self._token_ids.extend(token_ids)
        logprobs, self._pending = self._pending, []
        if not logprobs and (reply.finish is None or not self._numbered):
            # At the end a server may show text that it held back, and had counted before.
            logprobs = [math.nan]
        if len(logprobs) != len(token_ids):
            logprobs = [sum(logprobs), *[0.0] * (len(token_ids) - 1)]
        return token_ids, logprobs

    def pending(self) -> float:
        """The log-probability of what made no text: of EOS; 0 where the server does not tell."""
        return sum(self._pending)

    def check(self, *, whole: bool) -> None:
        """Raises UserError where pieces of a text, tokenised, do not make up that text, and
        LeftOutError where the server's tokens do not; of a ``whole`` reply, where they hold half a
        character that its text does not."""
        if self._gives_ids and not self._maybe_fewer:
            return
        decoded = Detokenizer(self._tokenizer).decode(self._token_ids)
        if self._gives_ids:
            # A decoder may strip the space of the first token.
            theirs, ours = (text.rstrip(UNFINISHED).lstrip() for text in (self._text, decoded))
            broken = UNFINISHED in ours and UNFINISHED not in theirs
            if broken or (theirs != ours and not whole):
                most = len(self._text.encode(errors="replace")) + 1
                raise LeftOutError(most, ours, theirs)
        elif decoded != self._text:
            raise UserError(
                f"the tokenizer of {self._tokenizer.name_or_path} does not keep pieces of a "
                "text as they are: it needs a server that gives token ids (vLLM does)"
            )

    def _given(self, reply: Reply) -> tuple[list[int], list[float]]:
        if reply.token_ids is None and (reply.text or reply.logprobs):
            raise LostError("a reply leaves out token ids")
        sampled = reply.token_ids or []
        for token in sampled:
            if token >= len(self._tokenizer) + PADDED:
                raise LostError(
                    f"it sampled token {token}, and {self._tokenizer.name_or_path} has "
                    f"{len(self._tokenizer)}: is it the model of model.name?"
                )
        self._text += reply.text
        self._token_ids.extend(sampled)
        return sampled, list(reply.logprobs) or [math.nan] * len(sampled)

    def _whole_characters(self, text: str) -> str:
        """The text with what was kept of the last one, and without half a character at its end:
        JSON has large ones as two surrogates, and some servers cut between them."""
        text = (self._half + text).encode("utf-16-le", "surrogatepass").decode("utf-16-le", _PASS)
        self._half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        text = text.removesuffix(self._half)
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise LostError("a reply's text is no Unicode")
        return text

"""What goes over the wire: OpenAI's bodies, as far as they are honoured, its answers and errors.

Imports neither torch nor FastAPI.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from butwait.server.work import Answer, Refused

IGNORED = frozenset(
    {"metadata", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention"}
    | {"safety_identifier", "service_tier", "user"}
)
"""Fields that say nothing of the answer; they are left aside."""
REFUSED: Mapping[str, Sequence[Any]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none",),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
}
"""Fields of OpenAI's that are not honoured, and the values (beside null) that ask for nothing."""


SENT_BACK = frozenset(
    {"annotations", "audio", "function_call", "refusal", "tool_call_id", "tool_calls"}
)
"""What a message of OpenAI's has besides its text."""


class ApiError(Exception):
    """An answer that is an error.

    Attributes:
        status: of HTTP.
        code: OpenAI's, or of its kind; None: there is no more to say.
        param: the field that is meant.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """As OpenAI has it."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, kind)
        told = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": told}


def refusal(found: Refused, prompt: str) -> ApiError:
    """What no search can be made of, for another reason than time; ``prompt``: the field that has
    it."""
    code = "context_length_exceeded" if found.why == "long" else "invalid_value"
    params = {"stop": "stop", "sampling": "temperature", "method": "model"}
    return ApiError(400, found.sentence, code, params.get(found.why, prompt))


def unavailable() -> ApiError:
    """The server ends."""
    told = "the server is shutting down; ask again in a moment"
    return ApiError(503, told, "shutting_down", headers={"Retry-After": "5"})


class Body(BaseModel):
    """What all bodies have in common: values are of their own type, as JSON has them."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Part(Body):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(Body):
    """A turn of a chat. What an answer's message has besides, and is empty, is left aside: clients
    send it back."""

    role: Annotated[str, Field(pattern="^[a-z_]{1,64}$")]  # templates write it as it stands
    content: str | list[Part]
    name: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_what_is_empty(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {key: value for key, value in given.items() if value or key not in SENT_BACK}

    @property
    def text(self) -> str:
        """Its parts, one after the other."""
        whole = isinstance(self.content, str)
        return str(self.content) if whole else "".join(part.text for part in self.content)  # type: ignore[union-attr]


class StreamOptions(Body):
    """Of a stream."""

    include_usage: bool = False
    include_obfuscation: bool = False


class SearchOptions(Body):
    """The search behind the answer."""

    method: Annotated[str, Field(max_length=200)] | None = None
    particles: Annotated[int, Field(gt=0)] | None = None
    budget: Annotated[int, Field(gt=0)] | None = None
    timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    on_timeout: Literal["error", "answer"] = "error"


Stop = Annotated[str, Field(min_length=1, max_length=256)]
Tokens = Annotated[int, Field(gt=0)]


class Request(Body):
    """What both kinds of request honour."""

    model: Annotated[str, Field(min_length=1, max_length=1000)]
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    max_tokens: Tokens | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    butwait: SearchOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Each once."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(dict.fromkeys(given))

    @property
    def most_tokens(self) -> int | None:
        """Of a path."""
        return self.max_tokens

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(Request):
    """The body of a chat completion."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Tokens | None = None

    @property
    def most_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class CompletionRequest(Request):
    """The body of a completion."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]

    @property
    def text(self) -> str:
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]


def parsed(kind: type[Request], raw: bytes) -> Any:
    """The request of a body. Raises ApiError 400 for what is none."""
    content = _json(raw)
    if not isinstance(content, dict):
        raise ApiError(400, "the body is a JSON object", "invalid_json")
    for name, harmless in REFUSED.items():
        given = content.pop(name, None)
        if given is not None and not any(given == value for value in harmless):
            told = f"{name} is not honoured by this server; leave it out"
            raise ApiError(400, told, "unsupported_parameter", name)
    content = {name: value for name, value in content.items() if name not in IGNORED}
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise _told(error) from None


def _json(raw: bytes) -> Any:
    try:
        return from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        told = str(error)[:200]
        raise ApiError(400, f"the body is no valid JSON: {told}", "invalid_json") from None


def _told(error: ValidationError) -> ApiError:
    """The first mistake, without what was given: it may be anybody's words."""
    first = min(error.errors(include_url=False, include_input=False), key=_rank)
    place = [str(part) for part in first["loc"] if not _is_branch(part)]
    param = ".".join(place)[:200]
    if first["type"] == "extra_forbidden":
        told = f"{param!r} is no parameter of this server; leave it out"
        return ApiError(400, told, "unknown_parameter", param)
    if first["type"] == "missing":
        return ApiError(400, f"{param} is missing", "missing_required_parameter", param)
    message = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return ApiError(400, f"{param}: it should be {message}"[:500], "invalid_value", param)


def _rank(error: Mapping[str, Any]) -> tuple[bool, int]:
    """Unknown names first, then what is deepest: of a union, the branch that fits best."""
    return error["type"] != "extra_forbidden", -len(error["loc"])


def _is_branch(part: Any) -> bool:
    """Whether a part of a place names a member of a union, and nothing of the body."""
    return isinstance(part, str) and ("[" in part or part in ("str", "int", "constrained-str"))


def new_id(chat: bool) -> str:
    return f"{'chatcmpl' if chat else 'cmpl'}-{uuid4().hex}"


class Reply:
    """Writes the answers to one request.

    Args:
        chat: whether it is a chat's.
        name: of the model, as it was asked for.
        searched: the method and its paths, told in the answer.
        fingerprint: of the system.
    """

    def __init__(self, chat: bool, name: str, searched: dict[str, Any], fingerprint: str) -> None:
        self.chat, self.id = chat, new_id(chat)
        self._head = {
            "id": self.id,
            "object": "chat.completion" if chat else "text_completion",
            "created": int(time.time()),
            "model": name,
            "system_fingerprint": fingerprint,
        }
        self._searched = searched

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The answer that is no stream."""
        choices = []
        for index, answer in enumerate(answers):
            message = {"role": "assistant", "content": answer.text, "refusal": None}
            said = {"message": message} if self.chat else {"text": answer.text}
            choices.append({"index": index, **said, "logprobs": None, **_ending(answer)})
        return {
            **self._head,
            "choices": choices,
            "usage": usage(answers),
            "butwait": self._searched,
        }

    def chunk(self, index: int, text: str, answer: Answer | None = None) -> dict[str, Any]:
        """A piece of a stream; with ``answer``, the last one of a choice."""
        ending = {"finish_reason": None} if answer is None else _ending(answer)
        said: dict[str, Any] = {"text": text}
        if self.chat:
            said = {"delta": {"content": text} if text or answer is None else {}}
        return self._chunk([{"index": index, **said, "logprobs": None, **ending}])

    def opening(self, index: int) -> dict[str, Any]:
        """The first piece of a choice of a chat."""
        delta = {"role": "assistant", "content": ""}
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        return self._chunk([choice])

    def closing(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The piece with the usage."""
        return self._chunk([]) | {"usage": usage(answers)}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        kind = {"object": "chat.completion.chunk"} if self.chat else {}
        return {**self._head, **kind, "choices": choices, "butwait": self._searched}


def _ending(answer: Answer) -> dict[str, Any]:
    found = {
        "answer": answer.answer,
        "weight": answer.weight,
        "answers": [list(pair) for pair in answer.answers],
        "seed": answer.seed,
        "timed_out": answer.timed_out,
    }
    done = answer.finished and not (answer.timed_out and answer.answer is None)
    return {"finish_reason": "stop" if done else "length", "butwait": found}


def usage(answers: Sequence[Answer]) -> dict[str, Any]:
    """Of all paths of all searches, the dead ones too. The prompt counts once, as in OpenAI's."""
    prompt = answers[0].prompt_tokens
    sampled = sum(answer.policy_tokens for answer in answers)
    prefilled = sum(answer.prefilled_tokens for answer in answers)
    shown = sum(answer.shown_tokens for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": sampled,
        "total_tokens": prompt + sampled,
        "prompt_tokens_details": {
            "cached_tokens": max(0, prompt - prefilled),
            "prefilled_tokens": prefilled,
        },
        "completion_tokens_details": {
            "reasoning_tokens": max(0, sampled - shown),
            "reward_model_tokens": sum(answer.reward_tokens for answer in answers),
        },
    }

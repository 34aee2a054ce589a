"""What servers answer in the place of what they were asked for, in tables."""

import gzip
import json
import math
from typing import Any

from engine_contract import whole
from openai_toy import Verbatim
from test_openai_engine import PROBLEM, ids

RULE = whole(30)
DONE = "data: [DONE]\n\n"


def event(text: Any, logprobs: Any = (-0.5,), finish: Any = None, **choice: Any) -> dict[str, Any]:
    """A piece of a completion from a server that tells no ids."""
    given = None
    if logprobs is not None:
        given = {"tokens": ["x"] * len(logprobs), "token_logprobs": list(logprobs)}
    whole_choice = {"text": text, "finish_reason": finish, "logprobs": given} | choice
    return {"choices": [whole_choice]}


def of_ids(token_ids: Any, logprobs: Any, finish: Any = None, **more: Any) -> dict[str, Any]:
    """A piece of a completion from vLLM."""
    return event("", logprobs, finish, token_ids=token_ids, **more)


A, B = event("It is"), event(" 7", (-0.25,), "stop")
WHOLE = event("It is 7", (-0.5, -0.25), "stop")
USAGE = {"choices": [], "usage": {"prompt_tokens": len(ids(PROBLEM.question))}}


def sse(*events: Any, done: str = DONE, ends: str = "\n\n", name: str = "data: ") -> bytes:
    said = [
        e if isinstance(e, str) else f"{name}{json.dumps(e, ensure_ascii=False)}" for e in events
    ]
    return ("".join(s + ends for s in said) + done).encode("utf-8", "surrogatepass")


def with_usage(usage: Any) -> bytes:
    return sse(A, B | {"usage": usage}, {"choices": [], "usage": usage})


RIGHT: dict[str, bytes | Verbatim] = {
    "as it should be": sse(A, B, USAGE),
    "CR LF": sse(A, B, USAGE, ends="\r\n\r\n"),
    "CR": sse(A, B, USAGE, ends="\r\r", done="data: [DONE]\r\r"),
    "no space": sse(A, B, name="data:", done="data:[DONE]\n\n"),
    "byte order mark": b"\xef\xbb\xbf" + sse(A, B),
    "comments": sse(": hello", A, ": PROCESSING", B, ":"),
    "other fields": sse("id: 3\nretry: 10", A, B),
    "named events": sse(A, B, name="event: message\ndata: "),
    "events of a name of their own": sse(A, B, name="event: chunk\ndata: "),
    "pings": sse('event: ping\ndata: {"type": "ping"}', A, "event: ping\ndata: now", B),
    "no empty lines": sse(A, B, ends="\n"),
    "several lines of data": sse(A, "data: " + json.dumps(B, indent=1).replace("\n", "\ndata: ")),
    "no [DONE]": sse(A, B, done=""),
    "no [DONE] and half of an event of usage": sse(A, B, done='data: {"choices": [], "us'),
    "no empty line at the end": sse(A, B, done="data: [DONE]"),
    "something behind the end": sse(A, B, done=DONE + "data: {}\n\ndata: <html>\n\n"),
    "a refusal behind the reason to end": sse(A, B, {"error": {"message": "no", "code": 400}}),
    "a piece behind the reason to end": sse(A, B, event(" 8", (-0.5,))),
    "an error behind the reason to end": sse(A, B, {"error": {"message": "late"}}),
    "no usage": with_usage(None),
    "usage of text": with_usage("7 tokens"),
    "usage of nothing": with_usage({"prompt_tokens": None, "prompt_tokens_details": None}),
    "usage that is wrong": with_usage({"prompt_tokens": 10**9}),
    "usage below zero": with_usage({"prompt_tokens": -1, "prompt_tokens_details": [3]}),
    "more from the cache than there is": with_usage(
        {"prompt_tokens_details": {"cached_tokens": 10**6}}
    ),
    "cached by text": with_usage({"prompt_tokens_details": {"cached_tokens": "many"}}),
    "a role first": sse(event("", (), role="assistant"), A, B),
    "no logprobs where there is no text": sse(event("", None), A, B),
    "events without choices": sse({"choices": []}, A, {"choices": None, "usage": {}}, B),
    "a second choice": sse(A, {"choices": [event("no", index=1)["choices"][0]]}, B),
    "the second choice first": sse(
        {"choices": [event("no", index=1)["choices"][0], A["choices"][0] | {"index": 0}]}, B
    ),
    "text in parts": sse(event([{"type": "text", "text": "It is"}]), B),
    "the word of TGI": sse(A, event(" 7", (-0.25,), "eos_token")),
    "the reason to end alone": sse(A, event(" 7", (-0.25,)), event("", (), "stop")),
    "a stop that is none": sse(A, event(" 7", (-0.25,), "stop", stop_reason="")),
    "an error that is none": sse(A | {"error": None}, B | {"error": {}}),
    "a whole reply": json.dumps(WHOLE).encode(),
    "a whole reply on lines": json.dumps(WHOLE, indent=2).encode(),
    "a whole reply that says what it is": (
        200,
        {"Content-Type": "application/json"},
        json.dumps(WHOLE | {"usage": {"prompt_tokens": 1}}).encode(),
    ),
    "compressed": (200, {"Content-Encoding": "gzip"}, gzip.compress(sse(A, B))),
    "another type": (200, {"Content-Type": "text/plain; charset=latin-1"}, sse(A, B)),
}
"""Each is the step "It is 7" of two pieces."""

LOST: dict[str, tuple[bytes | Verbatim, str]] = {
    "nothing": (b"", "broke off"),
    "comments": (b": alive\n\n: alive\n\n", "broke off"),
    "half of an event": (sse(A, done='data: {"choices'), "no JSON"),
    "no end": (sse(A, done=""), "broke off"),
    "no reason to end": (sse(A), "has no end"),
    "a reason without text": (sse(A, event("", (), "")), "has no end"),
    "a page": (b"<!DOCTYPE html><html>\n<h1>Sign in</h1>", "no JSON but '<!DOCTYPE html>"),
    "a list": (b"[1, 2]", "no JSON object"),
    "null": (b"null", "no JSON but 'null'"),
    "an error for a reply": (
        b'{"error": {"message": "out of\\nmemory"}}',
        r"\(out of memory; 2 at",
    ),
    "an error in words": (b'{"error": "out of memory"}', r"\(out of memory; 2 at"),
    "an old error of vLLM": (
        b'{"object": "error", "message": "out of memory", "code": 500}',
        r"\(out of memory; 2 at",
    ),
    "an event of an error": (sse(A, "event: error\ndata: overloaded"), r"\(overloaded; 2 at"),
    "an event of an error in JSON": (
        sse("event: error\ndata: " + json.dumps({"message": "too busy", "code": 503})),
        r"\(too busy; 2 at",
    ),
    "an error of a rate": (sse(A, {"error": {"message": "slow down", "code": "429"}}), "slow down"),
    "a server that died": (
        sse(A, {"error": {"message": "EngineCore encountered an issue", "code": 500}}),
        "EngineCore encountered an issue",
    ),
    "an error without a code": (sse(A, {"error": {"message": "out of memory"}}), "out of memory"),
    "an error beside a choice": (
        sse(A, event("", (), "stop") | {"error": {"message": "upstream", "code": 502}}),
        "upstream",
    ),
    "an error of FastAPI": (sse(A, {"detail": "Internal Server Error"}), "another form"),
    "an error in plain words": (sse(A, "data: upstream failed"), "no JSON but 'upstream failed'"),
    "no reason to end, and [DONE]": (sse(A, event(" 7", (-0.25,)), USAGE), "has no end"),
    "aborted": (sse(event("", (), "abort")), "ended with 'abort'"),
    "aborted midway": (sse(A, event(" 7", (-0.25,), "abort")), "ended with 'abort'"),
    "filtered": (sse(event("", (), "content_filter")), "ended with 'content_filter'"),
    "an error for a reason": (sse(A, event("", (), "error")), "ended with 'error'"),
    "a tool": (sse(event("", (), "tool_calls")), "ended with 'tool_calls'"),
    "a reason of another form": (sse(A, event("", (), {"type": "stop"})), "another form"),
    "an empty path at its limit": (sse(event("", (), "length")), "no token, and ended with 'len"),
    "an empty path that ended": (sse(event("", (), "stop")), "no token, and ended with 'stop'"),
    "no choices at all": (sse({"id": 1}), "another form"),
    "choices of text": (sse({"choices": ["It is 7"]}), "another form"),
    "a choice by name": (sse({"choices": {"text": "It is 7"}}), "another form"),
    "a text of a number": (sse(event(7, finish="stop")), "another form"),
    "parts of numbers": (sse(event([1, 2], finish="stop")), "another form"),
    "log-probabilities of text": (sse(event("7", ["much"], "stop")), "another form"),
    "a number beyond all": (sse(event("7", [10**400], "stop")), "another form"),
    "a number of 5,000 digits": (sse(f'data: {{"a": {"9" * 5000}}}'), "no JSON"),
    "a deep nest": (b"[" * 100_000, "no JSON"),
    "half a character": (sse(f"data: {json.dumps(event(chr(0xD83D) + 'b'))}", B), "no Unicode"),
    "bytes that are no text": (sse(event("a?"), B).replace(b"?", b"\xff"), "no Unicode"),
    "not compressed": ((200, {"Content-Encoding": "gzip"}, sse(A, B)), "does not answer"),
    "half of it compressed": (
        (200, {"Content-Encoding": "gzip"}, gzip.compress(sse(A, B))[:60]),
        "does not answer",
    ),
    "no content": ((204, {"Connection": "close"}, b""), "broke off"),
    "busy": ((429, {"Retry-After": "soon"}, b"{}"), "status 429"),
    "a page of a proxy": ((502, {}, b"<html>Bad Gateway</html>"), "502: <html>Bad Gateway</html>"),
}
"""What is no reply of a server without ids, and what is said of it."""
LOST_IDS: dict[str, tuple[bytes, str]] = {
    "an id below zero": (sse(of_ids([-1], [-0.5], "length")), "another form"),
    "an id of 41 bits": (sse(of_ids([2**40], [-0.5], "length")), "another form"),
    "an id of text": (sse(of_ids(["5"], [-0.5], "length")), "another form"),
    "an id that is true": (sse(of_ids([True], [-0.5], "length")), "another form"),
    "ids of a number": (sse(of_ids(5, [-0.5], "length")), "another form"),
    "an id of another model": (
        sse(of_ids([90_000], [-0.5], "stop")),
        r"90000, and random has \d+: is",
    ),
    "fewer numbers than ids": (sse(of_ids([5, 6], [-0.5], "length")), "another form"),
    "no ids": (sse(of_ids(None, [-0.5], "length")), "leaves out token ids"),
    "text without ids": (sse(event("7", None, "length")), "leaves out token ids"),
    "aborted": (sse(of_ids([], [], "abort")), "ended with 'abort'"),
    "empty": (sse(of_ids([], [], "length")), "no token, and ended with 'length'"),
}
"""The same for one that gives ids."""

NO_NUMBERS: dict[str, bytes] = {
    "NaN": sse(event("It is", [math.nan]), B),
    "null": sse(event("It is", [None]), B),
    "minus infinity": sse(event("It is", [-math.inf]), B),
    "infinity": sse(A, event(" 7", [math.inf], "stop")),
    "a probability": sse(event("It is", [0.9]), B),
    "none for a piece": sse(event("It is", None), B),
    "none at all": sse(event("It is", None, "stop")),
    "null in a whole reply": json.dumps(event("It is 7", [-0.5, None], "stop")).encode(),
}
"""Steps of which a log-probability is none."""

MODELS: dict[str, tuple[Verbatim, int | None]] = {
    "none": ((404, {}, b""), None),
    "not allowed": ((405, {}, b"{}"), None),
    "broken": ((500, {}, b"{}"), None),
    "sent on": ((308, {"Location": "/models/"}, b""), None),
    "a page": ((200, {}, b"<html>"), None),
    "nothing": ((200, {}, b""), None),
    "an error": ((200, {}, b'{"error": "no"}'), None),
    "no data": ((200, {}, b'{"object": "list", "data": null}'), None),
    "empty": ((200, {}, b'{"data": []}'), None),
    "a list": ((200, {}, b'[{"id": "toy", "max_model_len": 18}]'), 18),
    "one": ((200, {}, b'{"id": "toy", "object": "model", "max_model_len": 18}'), 18),
    "one in data": ((200, {}, b'{"data": {"id": "toy", "object": "model"}}'), None),
    "names": ((200, {}, b'{"data": ["other", "toy"]}'), None),
    "by Ollama": ((200, {}, b'{"models": [{"name": "toy", "model": "toy:latest"}]}'), None),
    "by llama.cpp": (
        (200, {}, b'{"data": [{"id": "m.gguf", "aliases": ["toy"], "meta": {"n_ctx": 18}}]}'),
        18,
    ),
    "odd ids": ((200, {}, b'{"data": [{"id": null}, 5, null, {"id": 7}]}'), None),
    "a length of text": ((200, {}, b'{"data": [{"id": "toy", "max_model_len": "18"}]}'), None),
    "a length of nothing": ((200, {}, b'{"data": [{"id": "toy", "max_model_len": 0}]}'), None),
}
"""Lists of models, and the context that they tell of."""

HEAD = b"HTTP/1.1 200 OK\r\n"
NO_HTTP = [
    b"",
    b"no HTTP\r\n\r\n",
    b"\x15\x03\x01\x00\x02\x02\x16",
    b"HTTP/1.1 200",
    b"HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    HEAD + b"Content-Length: -1\r\n\r\n{}",
    HEAD + b"Content-Length: 9\r\n\r\n{",
    HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n9\r\n{}",
    HEAD + b"Transfer-Encoding: gzip\r\n\r\n{}",
    HEAD + b"Content-Encoding: " + b", ".join([b"gzip"] * 9) + b"\r\n\r\n{}",
    HEAD + b"Content-Encoding: br\r\n\r\n\x00\x01",
    HEAD + b"Content-Encoding: deflate\r\n\r\n{}",
    HEAD + b"Content-Type: text/event-stream; charset=\xff\r\n\r\n<",
    HEAD + b"A: \x00\r\n\r\n<",
    HEAD + b"A: " + b"a" * 200_000 + b"\r\n\r\n<",
    HEAD + b"Set-Cookie: =; expires=\xff; max-age=x\r\nSet-Cookie: \xe9\r\n\r\n<",
]
"""What is no reply of HTTP."""

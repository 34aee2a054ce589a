"""What servers answer in the place of what they were asked for: the right step, or one sentence;
never a traceback, and no path that nobody wrote."""

import asyncio
import gzip
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from engine_contract import GREEDY, KEY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai_toy import Toy, Verbatim, next_logprobs, serving
from random_models import EOS, VOCABULARY
from test_openai_engine import PLAIN, PROBLEM, TURNS, Run, engine_of, ids, steps, whole

from butwait.engines import remote_server
from butwait.engines.kinds.openai import OpenAISettings
from butwait.engines.remote_server import RemoteServer
from butwait.records import UserError

RULE = whole(30)
DONE = "data: [DONE]\n\n"


@pytest.fixture
def run() -> Iterator[Run]:
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_server, "LONGEST_PAUSE_S", 0.01)


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


@pytest.mark.parametrize("piece", [7, 10**6], ids=["in pieces", "at once"])
def test_one_reply_in_every_notation(piece: int, run: Run) -> None:
    """The same step of "It is 7" each time, asked for once."""
    toy = Toy(dialect="text", piece=piece)
    with serving(toy):
        engine = engine_of(toy)
        for name, reply in RIGHT.items():
            toy.verbatim = [reply if isinstance(reply, tuple) else (200, {}, reply)]
            toy.asked.clear()
            [step] = run(engine.extend([engine.start(PROBLEM)], RULE, GREEDY, [KEY]))
            assert (step.text, step.finish, len(toy.asked)) == ("It is 7", "eos", 1), name
            assert step.token_ids.tolist() == [*ids("It is"), *ids(" 7"), EOS], name
            assert float(step.logprobs.sum()) == -0.75, name
            assert 0 <= step.prefilled_tokens <= len(ids(PROBLEM.question)), name
        run(engine.close())


@pytest.mark.parametrize("character", ["\u2028", "\x85", "\u2029", "\x0c", "\x1e", "½", "😀"])
def test_a_character_is_text_however_it_is_sent(character: str, run: Run) -> None:
    """Raw, cut between its bytes, escaped, or as two halves in two events."""
    text = f"a{character}b"
    halves = character.encode("utf-16-be").decode("utf-16-be", "surrogatepass")
    escaped = json.dumps(event(text, finish="stop"))
    bodies = [sse(event(text, finish="stop")), sse(f"data: {escaped}")]
    if len(character.encode("utf-16-le")) == 4:
        high, low = (json.loads(half) for half in ('"\\ud83d"', '"\\ude00"'))
        assert (high + low).encode("utf-16", "surrogatepass").decode("utf-16") == halves
        bodies.append(sse(event("a" + high), event(low + "b", finish="stop")))
        cut = [json.dumps(e) for e in (event("a" + high), event(low + "b", finish="stop"))]
        bodies[-1] = sse(*(f"data: {piece}" for piece in cut))
    toy = Toy(dialect="text", piece=1, verbatim=[(200, {}, body) for body in bodies])
    with serving(toy):
        for _ in bodies:
            _, [step] = steps(toy, run, RULE)
            assert step.text == text


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


@pytest.mark.parametrize("dialect", ["text", "vllm"])
def test_what_is_no_reply_is_asked_for_again_and_then_one_sentence(dialect: str, run: Run) -> None:
    table: Any = LOST if dialect == "text" else LOST_IDS
    toy = Toy(dialect=dialect)
    with serving(toy):
        engine = engine_of(toy, retries=1)
        for name, (reply, sentence) in table.items():
            bad: Verbatim = reply if isinstance(reply, tuple) else (200, {}, reply)
            for times in (1, 2):  # it is asked twice
                toy.verbatim, toy.asked[:] = [bad] * times, []
                toy.script = ["It is 7"]
                asked = engine.extend([engine.start(PROBLEM)], RULE, GREEDY, [KEY])
                if times == 1:
                    [step] = run(asked)
                    assert (step.text, step.finish) == ("It is 7", "eos"), name
                else:
                    with pytest.raises(UserError, match=sentence) as error:
                        run(asked)
                    assert toy.url in str(error.value), name
                    assert str(error.value).isprintable(), name
                assert len(toy.asked) == 2, name
        run(engine.close())


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


def test_log_probabilities_that_are_none_stop_a_run_at_once(run: Run) -> None:
    toy = Toy(dialect="text")
    with serving(toy):
        engine = engine_of(toy)
        for name, body in NO_NUMBERS.items():
            toy.verbatim, toy.asked[:] = [(200, {}, body)], []
            with pytest.raises(UserError, match=r"1 of \d .*logits are no numbers \(NaN\)"):
                run(engine.extend([engine.start(PROBLEM)], RULE, GREEDY, [KEY]))
            assert len(toy.asked) == 1, name
        run(engine.close())


def test_log_probabilities_behind_a_steps_end_do_not_matter(run: Run) -> None:
    """And what rounding lifts above zero is taken."""
    box = ids("\\boxed{7}")
    body = sse(of_ids([*box, 5, 6], [0.003] * len(box) + [math.nan, None], "length"))
    with serving(Toy(verbatim=[(200, {}, body)])) as toy:
        _, [step] = steps(toy, run, RULE.model_copy(update={"stop_at_box": True}))
    assert (step.text, step.finish, step.overshoot_tokens) == ("\\boxed{7}", "box", 2)


def test_padded_ids_are_no_text(run: Run) -> None:
    body = sse(of_ids([VOCABULARY + 3, *ids("7"), EOS], [-0.5] * 3, "stop"))
    with serving(Toy(verbatim=[(200, {}, body)])) as toy:
        _, [step] = steps(toy, run, RULE)
    assert (step.text, step.finish, step.token_ids[0]) == ("7", "eos", VOCABULARY + 3)


def test_tokens_that_a_stream_leaves_out_are_asked_for_at_once(run: Run) -> None:
    """llama.cpp streams none that ends within a character: its text is whole, its tokens are not.
    They are not made up from the text."""
    with serving(Toy(dialect="llama.cpp")) as toy:
        _, [expected] = steps(toy, run, RULE)
        whole_requests = len(toy.headers)
        toy.drops = True
        _, [step] = steps(toy, run, RULE)
    assert step.token_ids.tolist() == expected.token_ids.tolist()
    np.testing.assert_allclose(step.logprobs, expected.logprobs, atol=1e-6)
    assert len(toy.headers) == 2 * whole_requests + 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_names_its_target(status: int, run: Run) -> None:
    place = {"Location": "https://other.example/v1/completions"}
    with serving(Toy(verbatim=[(status, place, b"")])) as toy:
        with pytest.raises(UserError, match=r"engine\.base_url to https://other\.example/v1$"):
            steps(toy, run, RULE)
        assert len(toy.asked) == 1


@pytest.mark.parametrize("place", ["mailto:x", "http://[", "//", "\xe9", "http://a b", ""])
def test_a_redirect_to_nowhere_is_one_sentence(place: str, run: Run) -> None:
    with serving(Toy(verbatim=[(301, {"Location": place}, b"")] * 3)) as toy:
        with pytest.raises(UserError):
            steps(toy, run, RULE)


def test_a_refusal_in_a_stream_is_not_asked_again(run: Run) -> None:
    body = sse(A, {"error": {"message": "too long", "code": 400}})
    with serving(Toy(dialect="text", verbatim=[(200, {}, body)])) as toy:
        with pytest.raises(UserError, match="refused a request: too long"):
            steps(toy, run, RULE)
    assert len(toy.asked) == 1


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


def test_the_list_of_models_is_optional_and_has_several_shapes(run: Run) -> None:
    prompt = len(ids(PROBLEM.question))
    with serving(Toy()) as toy:
        engine = engine_of(toy)
        for name, (reply, context) in MODELS.items():
            engine._served = engine._capacity = None
            toy.models, toy.script, toy.asked[:] = reply, ["7"], []
            [step] = run(engine.extend([engine.start(PROBLEM)], RULE, GREEDY, [KEY]))
            room = 30 if context is None else context - prompt
            assert (step.text, toy.asked[0]["max_tokens"]) == ("7", room), name
        run(engine.close())


@pytest.mark.parametrize("body", [b'["other"]', b'{"models": [{"name": "other"}]}'])
def test_a_model_that_is_in_no_list_is_named(body: bytes, run: Run) -> None:
    with serving(Toy(models=(200, {}, body))) as toy:
        with pytest.raises(UserError, match=r"no model 'toy' but other: set engine.served_model"):
            steps(toy, run)


def test_a_prompt_beyond_the_servers_context_is_no_empty_path(run: Run) -> None:
    with serving(Toy(context=5)) as toy:
        with pytest.raises(UserError, match=r"has 13 tokens, and the server at .* takes 5,"):
            steps(toy, run, RULE)
    assert not toy.asked


@pytest.mark.parametrize(
    "toy",
    [
        Toy(dialect="text", silent="completions"),
        Toy(dialect="vllm", silent="completions"),
        *(
            Toy(dialect="text", no_token_prompts=status)
            for status in (400, 404, 405, 422, 500, 501)
        ),
    ],
)
def test_auto_takes_chats_where_completions_do_not_give_what_is_needed(toy: Toy, run: Run) -> None:
    toy.script = ["It is 7"]
    with serving(toy):
        _, [step] = steps(toy, run, RULE, TURNS)
        assert (step.text, "messages" in toy.asked[0]) == ("It is 7", True)
        with pytest.raises(UserError, match=r"log-probabilities|a prompt is a string"):
            steps(toy, run, RULE, PLAIN, mode="completions")


def test_a_lost_echo_is_asked_for_again(run: Run) -> None:
    """And log-probabilities that are no numbers are no scores."""

    class Rest:
        def __init__(self, server: RemoteServer) -> None:
            self.json, self.spoilt = server.json, [{}, {"choices": []}]
            server.json = self  # type: ignore[method-assign, assignment]

        async def __call__(self, path: str, body: Any = None) -> Any:
            reply = await self.json(path, body)
            if not (body or {}).get("echo"):
                return reply
            if self.spoilt:
                return self.spoilt.pop()
            return reply

    with serving(Toy()) as toy:
        engine = engine_of(toy)
        Rest(engine._server)
        start = engine.start(PROBLEM)
        [scored] = run(engine.score([start], [np.array([5], np.int32)]))
        assert scored[0] == pytest.approx(next_logprobs(start.token_ids)[5], abs=1e-5)
        run(engine.close())


def key_of(value: str | None, toy: Toy, run: Run, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """The header that a key becomes."""
    monkeypatch.delenv("TOY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("TOY_KEY", value)
    toy.headers.clear()
    steps(toy, run, whole(2), api_key_env="TOY_KEY")
    [header] = {h.get("Authorization") for h in toy.headers}
    return header


@pytest.mark.parametrize(
    ("value", "header"),
    [
        (None, None),
        ("", None),
        (" \n", None),
        ("sesame\n", "Bearer sesame"),
        ("\t sesame \r\n", "Bearer sesame"),
        ("open sesame", "Bearer open sesame"),
    ],
)
def test_a_key_is_stripped(
    value: str | None, header: str | None, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Toy()) as toy:
        assert key_of(value, toy, run, monkeypatch) == header


@pytest.mark.parametrize(
    "value", ["ses\name", "sésame", "sesame\x1b", "ses\r\nX: y", "ses\u2028ame"]
)
def test_a_key_that_no_header_holds_is_one_sentence_without_it(
    value: str, run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with serving(Toy()) as toy, pytest.raises(UserError, match="the key in TOY_KEY") as error:
        key_of(value, toy, run, monkeypatch)
    assert value not in str(error.value) + caplog.text
    assert "ses" not in str(error.value)


def test_a_key_that_a_server_tells_back_is_left_out(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_KEY", "sesame")
    for reply in (
        (401, {}, b'{"error": {"message": "wrong key sesame"}}'),
        (403, {}, b"sesame may not"),
        (400, {}, b"sesame\x1b[31m is wrong"),
        (302, {"Location": "/login?key=sesame"}, b""),
        (500, {}, b"sesame"),
        (200, {}, b'{"error": "sesame"}'),
        (200, {}, b"sesame"),
    ):
        with serving(Toy(verbatim=[reply] * 3)) as toy:
            with pytest.raises(UserError, match=r"\*\*\*") as error:
                steps(toy, run, RULE, api_key_env="TOY_KEY")
        assert "sesame" not in str(error.value)
        assert str(error.value).isprintable()


def test_a_password_in_the_address_is_sent_and_not_shown(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving(Toy(verbatim=[(400, {}, b"no sesame")])) as toy:
        toy.url = toy.url.replace("//", "//me:sesame@")
        with pytest.raises(UserError, match="refused") as error:
            steps(toy, run, RULE)
        assert {h.get("Authorization") for h in toy.headers} == {"Basic bWU6c2VzYW1l"}
    assert "sesame" not in str(error.value) + caplog.text


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:8000/v1", "ftp://host/v1", "http://", "http:///v1", "https://me:sesame@"),
        *("http://host:99999/v1", "http://host:x/v1", "http://a..b/v1", "http://me:sesame@:x/"),
        *("http://" + "a" * 64 + ".example/v1", "http://[::1/v1", "", "unix:///socket"),
    ],
)
def test_an_address_that_is_none_is_one_sentence_at_once(url: str) -> None:
    with pytest.raises(UserError, match=r"engine\.base_url: .* is no address") as error:
        engine_of(Toy(url=url))
    assert "sesame" not in str(error.value)


PROXIES = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize(
    "proxy",
    [
        *("socks://me:sesame@127.0.0.1:1", "socks4://127.0.0.1:1", "ftp://127.0.0.1", "http://:x"),
        *("http://[", "http://127.0.0.1:99999", "http://" + "a" * 64 + ".example:1", "://", "%"),
        *("http://127.0.0.1:1", "socks5://127.0.0.1:1"),
    ],
)
@pytest.mark.usefixtures("no_proxies")
def test_a_proxy_that_is_none_is_one_sentence(
    proxy: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none at all where the server is exempt from it."""
    monkeypatch.setenv("ALL_PROXY", proxy)
    with serving(Toy()) as toy:
        with pytest.raises(UserError, match=r"ALL_PROXY|does not answer") as error:
            steps(toy, run, whole(2), retries=0)
        assert "sesame" not in str(error.value)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        _, [step] = steps(toy, run, whole(2))
    assert len(step.token_ids) > 0


@asynccontextmanager
async def listening(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    scheme: str = "http",
    **chosen: Any,
) -> AsyncIterator[RemoteServer]:
    """A server that says what it likes over bare connections, which are closed in the end."""
    writers = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await talk(reader, writer)

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as made:
        url = f"{scheme}://127.0.0.1:{made.sockets[0].getsockname()[1]}"
        how = OpenAISettings(kind="openai", base_url=url, **chosen)
        server = RemoteServer(how, url, 1, "engine.base_url")
        try:
            yield server
        finally:
            await server.close()
            for writer in writers:
                writer.close()


def test_signs_of_life_are_no_answer(run: Run) -> None:
    """Comments keep a connection alive for ever; the time without an answer is bounded."""

    async def go() -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
            while not writer.is_closing():
                writer.write(b": alive\n\n")
                await asyncio.sleep(0.01)

        async with listening(talk, timeout_s=0.1) as server:
            for ask in (lambda: anext(server.events("/x", {})), lambda: server.json("/x")):
                with pytest.raises(remote_server.LostError, match=r"signs of life for 0\.1 s"):
                    await asyncio.wait_for(ask(), 20)

    run(go())


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


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_is_no_http_is_a_lost_reply(scheme: str, run: Run) -> None:
    async def go() -> None:
        replies: list[bytes] = []

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10**6)
            writer.write(replies[-1])
            writer.close()

        async with listening(talk, scheme) as server:
            for reply in NO_HTTP if scheme == "http" else NO_HTTP[:3]:
                replies.append(reply)
                for ask in (lambda: anext(server.events("/x", {})), lambda: server.json("/x")):
                    with pytest.raises(remote_server.LostError):
                        await asyncio.wait_for(ask(), 20)

    run(go())


def test_a_stream_that_stays_open_behind_its_end_is_closed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_server, "LEFTOVERS_S", 0.05)

    async def go() -> list[Any]:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + sse(A, B))

        async with listening(talk) as server:
            return [event async for event in server.events("/x", {})]

    assert run(asyncio.wait_for(go(), 30)) == [A, B]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        *(("1.5", 1.5), ("-5", None), ("", None), ("²", None), ("9" * 400, math.inf)),
        ("Wed, 21 Oct 99999 07:28:00 GMT", None),
        ("Wed, 99 Oct 2015 99:28:00 +9999", None),
    ],
)
def test_a_time_to_wait_that_is_none_is_not_waited_for(header: str, seconds: Any) -> None:
    assert remote_server._retry_after(header) == seconds


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


@st.composite
def spoilt_events(draw: st.DrawFn) -> bytes:
    """Events like those of a server, with a value anywhere replaced by another one."""
    made = draw(st.sampled_from((A, B, WHOLE, USAGE, of_ids([5, 6], [-0.5, -1.0], "length"))))
    made = json.loads(json.dumps(made))
    inside: Any = made
    while draw(st.booleans()):
        inner = inside.get("choices") or inside.get("logprobs") or {}
        inner = inner[0] if isinstance(inner, list) else inner
        if not isinstance(inner, dict) or not inner:
            break
        inside = inner
    known = ["choices", "usage", "error", "text", "finish_reason", "stop_reason", "logprobs"]
    known += ["token_ids", "tokens", "token_logprobs", "delta", "index", "content", "object"]
    if draw(st.booleans()):
        inside[draw(st.sampled_from([*inside, *known]))] = draw(VALUES)
    text = json.dumps(made, ensure_ascii=draw(st.booleans()))
    return b"data: " + text.encode("utf-8", "surrogatepass") + draw(ENDS)


ENDS = st.sampled_from((b"\n\n", b"\r\n\r\n", b"\r\r", b"\n", b""))
OTHERS = st.binary(max_size=20) | st.sampled_from(
    (
        b"data: [DONE]\n\n",
        b": alive\n\n",
        b"event: error\n",
        b"<html>",
        b'{"error": "x"}',
        b"\xf0\x9f",
    )
)
BODIES = st.lists(spoilt_events() | OTHERS, max_size=5).map(b"".join)
STATUSES = st.sampled_from(
    (200,) * 12 + (201, 204, 206, 299, 301, 304, 400, 404, 418, 429, 500, 599)
)


def attack(dialect: str, examples: int, run: Run) -> None:
    toy = Toy(dialect=dialect)
    with serving(toy):
        engine = engine_of(toy, retries=0)
        start = engine.start(PROBLEM)

        async def ask() -> Any:
            return await asyncio.wait_for(engine.extend([start], RULE, GREEDY, [KEY]), 10)

        expected = run(ask())[0].token_ids.tolist()

        @settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(BODIES, STATUSES, st.integers(1, 60))
        def once(body: bytes, status: int, piece: int) -> None:
            toy.piece = piece
            # A path may go on for many requests; whatever is behind the bad reply is none.
            toy.verbatim = [(status, {}, body)] + [(400, {}, b"the end")] * 3
            said, made = "", []
            try:
                made = run(ask())
            except UserError as error:
                said = str(error)
            assert said.isprintable()
            assert made or toy.url in said or "random" in said, said
            for step in made:
                assert len(step.token_ids) > 0
                assert np.isfinite(step.logprobs).all()
                assert step.finish in ("eos", "length")
            toy.verbatim = []

        once()
        assert run(ask())[0].token_ids.tolist() == expected  # it goes on as if nothing had been
        run(engine.close())


@pytest.mark.parametrize("dialect", ["text", "vllm"])
def test_generated_replies_are_a_step_or_one_sentence(dialect: str, run: Run) -> None:
    attack(dialect, 30, run)


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["text", "vllm", "llama.cpp"])
def test_many_generated_replies_are_a_step_or_one_sentence(dialect: str, run: Run) -> None:
    attack(dialect, 800, run)


def attack_probe(examples: int, run: Run) -> None:
    """Whatever a server answers when it is asked what it can: it is known how to ask it, or one
    sentence says why not."""
    listed = st.fixed_dictionaries({"id": st.just("toy") | VALUES, "max_model_len": VALUES})
    models = VALUES | st.fixed_dictionaries({"data": st.lists(listed) | VALUES})
    answers = spoilt_events().map(lambda event: json.loads(event.strip()[6:])) | VALUES
    with serving(Toy()) as toy:
        engine: Any = engine_of(toy, TURNS, retries=0)
        start = engine.start(PROBLEM)

        @settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(models, st.lists(answers, min_size=4, max_size=4))
        def once(models: Any, said: list[Any]) -> None:
            left = list(said)

            async def json_of(path: str, body: Any = None) -> Any:
                return models if body is None else left.pop()

            engine._server.json = json_of
            engine._served = engine._capacity = None
            sentence = ""
            try:
                run(engine._how(start))
            except UserError as error:
                sentence = str(error)
            assert sentence.isprintable()
            assert bool(sentence) == (engine._served is None)

        once()


def test_generated_answers_of_a_probe(run: Run) -> None:
    attack_probe(30, run)


@pytest.mark.slow
def test_many_generated_answers_of_a_probe(run: Run) -> None:
    attack_probe(1500, run)

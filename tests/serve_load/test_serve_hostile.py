"""`butwait serve` before those who mean it no good: bytes, bodies, headers, keys, limits."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from served_process import KEY, LIMITS, QUESTION, Served, proper_error, raw

pytestmark = pytest.mark.slow
CHAT = "/v1/chat/completions"


def good(**more: Any) -> dict[str, Any]:
    question = {"role": "user", "content": QUESTION}
    paths = {"butwait": {"particles": 2}}
    return {"model": "tiny", "messages": [question], "max_tokens": 8, "seed": 0} | paths | more


def post(server: Served, body: Any, path: str = CHAT, **headers: str) -> httpx2.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    with httpx2.Client(base_url=server.base, timeout=60, trust_env=False) as http:
        return http.post(path, content=content, headers=headers)


def head(*lines: str, path: str = CHAT, method: str = "POST", host: str = "127.0.0.1") -> bytes:
    told = [f"{method} {path} HTTP/1.1", f"Host: {host}", *lines, "", ""]
    return "\r\n".join(told).encode("latin-1")


def whole(body: bytes, *lines: str) -> bytes:
    return head("Content-Type: application/json", f"Content-Length: {len(body)}", *lines) + body


GOOD = json.dumps(good()).encode()
JSON = "Content-Type: application/json"
STARTS: dict[str, bytes] = {
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
    "one NUL": b"\x00",
    "NUL in the path": head(path="/v1/\x00models", method="GET"),
    "NUL in a header": head("X-A: a\x00b", path="/v1/models", method="GET"),
    "HTTP/9.9": b"GET / HTTP/9.9\r\n\r\n",
    "no host": b"GET /v1/models HTTP/1.1\r\n\r\n",
    "two lengths": whole(GOOD, "Content-Length: 7"),
    "length and chunks": whole(GOOD, "Transfer-Encoding: chunked"),
    "length a word": head(JSON, "Content-Length: many"),
    "length negative": head(JSON, "Content-Length: -1"),
    "bad chunk": head(JSON, "Transfer-Encoding: chunked") + b"zz\r\n{}\r\n",
    "10,000 headers": head(*(f"X-{i}: {'a' * 50}" for i in range(10_000)), method="GET"),
    "a header of 1 MB": head("X-A: " + "a" * 1_000_000, method="GET"),
    "a path of 1 MB": head(path="/" + "a" * 1_000_000, method="GET"),
    "CONNECT": head(method="CONNECT", path="example.org:443"),
    "another method": head(method="BREW"),
    "folders upwards": head(method="GET", path="/v1/models/..%2f..%2f..%2fetc/passwd"),
    "upgrade": head("Connection: Upgrade", "Upgrade: websocket", method="GET", path="/v1/models"),
    "expects": head(JSON, "Expect: 100-continue", f"Content-Length: {len(GOOD)}") + GOOD,
    "budget twice": whole(GOOD, "X-ITS-Budget: 2", "X-ITS-Budget: 3"),
    "key of odd bytes": whole(GOOD, "Authorization: Bearer \xff\xfe\xfc"),
}


@pytest.mark.parametrize("name", STARTS)
def test_odd_bytes_are_no_fault_of_the_server(server: Served, name: str) -> None:
    """Refused or answered; never a 5xx, and the next one is served."""
    got = asyncio.run(raw(server, STARTS[name], seconds=3))
    if got:
        status = int(got.split(b" ", 2)[1])
        assert 100 <= status < 500 or status == 505 or status == 501, got[:300]
    server.lives()


def test_requests_in_one_piece_are_answered_in_turn(server: Served) -> None:
    got = asyncio.run(raw(server, head(method="GET", path="/v1/models") * 3 + whole(GOOD) * 2))
    assert got.count(b"HTTP/1.1 200") == 5
    assert got.count(b'"chat.completion"') == 2


DEEP = 100_000
BODIES: dict[str, bytes | dict[str, Any]] = {
    "deep lists": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep content": b'{"model": "tiny", "messages": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "deep butwait": good(butwait=[[[[[]]]]]),
    "NaN": b'{"model": "tiny", "messages": [], "temperature": NaN}',
    "1e999": json.dumps(good()).replace('"seed": 0', '"seed": 1e999').encode(),
    "a long number": json.dumps(good()).replace('"seed": 0', '"seed": ' + "9" * 5000).encode(),
    "seed 10**30": good(seed=10**30),
    "seed a fraction": good(seed=0.5),
    "seed true": good(seed=True),
    "temperature inf": good(temperature=1e308),
    "n true": good(n=True),
    "n a text": good(n="two"),
    "n 0": good(n=0),
    "top_p 0": good(top_p=0),
    "top_p 2": good(top_p=2),
    "top_k -1": good(top_k=-2),
    "stop of 5": good(stop=["a", "b", "c", "d", "e"]),
    "stop a number": good(stop=7),
    "stop of numbers": good(stop=[1]),
    "max_tokens huge": good(max_tokens=10**18),
    "stream a text": good(stream="perhaps"),
    "options a list": good(stream=True, stream_options=[]),
    "options odd": good(stream=True, stream_options={"include_usage": "perhaps"}),
    "model empty": good(model=""),
    "model null": good(model=None),
    "model a list": good(model=["tiny"]),
    "model @": good(model="tiny@"),
    "model @-": good(model="tiny@-"),
    "model pf-0": good(model="tiny@pf-0"),
    "model pf--1": good(model="tiny@pf--1"),
    "model pf-1e3": good(model="tiny@pf-1e3"),
    "model of other digits": good(model="tiny@pf-٣٢x"),
    "a superscript": good(model="tiny@pf-²"),
    "model twice": good(model="tiny@pf-2@pf-2"),
    "messages an object": good(messages={}),
    "messages null": good(messages=None),
    "messages of texts": good(messages=["hello"]),
    "message empty": good(messages=[{}]),
    "content null": good(messages=[{"role": "user", "content": None}]),
    "content empty list": good(messages=[{"role": "user", "content": []}]),
    "content of objects": good(messages=[{"role": "user", "content": [{}]}]),
    "content of sound": good(messages=[{"role": "user", "content": [{"type": "input_audio"}]}]),
    "text a number": good(messages=[{"role": "user", "content": [{"type": "text", "text": 7}]}]),
    "role a number": good(messages=[{"role": 7, "content": "a"}]),
    "last the assistant": good(messages=[{"role": "assistant", "content": "a"}]),
    "butwait a text": good(butwait="pf-4"),
    "particles -1": good(butwait={"particles": -1}),
    "particles 10**30": good(butwait={"particles": 10**30}),
    "particles a fraction": good(butwait={"particles": 1.5}),
    "method a list": good(butwait={"method": []}),
    "method a module": good(butwait={"method": "os:system"}),
    "timeout -1": good(butwait={"timeout_s": -1}),
    "timeout NaN": b'{"model": "tiny", "messages": [], "butwait": {"timeout_s": NaN}}',
    "on_timeout odd": good(butwait={"on_timeout": "shrug"}),
    "budgets differ": good(butwait={"particles": 2, "budget": 3}),
    "a key twice": b'{"model": "another", "model": "tiny@", "messages": []}',
    "not UTF-8": b'{"model": "tiny\xff"}',
    "UTF-16": json.dumps(good()).encode("utf-16"),
    "tail": GOOD + b"}",
}


@pytest.mark.parametrize("name", BODIES)
def test_a_bad_body_is_refused_in_one_sentence(server: Served, name: str) -> None:
    answer = post(server, BODIES[name])
    assert 400 <= answer.status_code < 429, answer.text
    error = proper_error(answer)
    assert len(error["message"]) < 1000
    assert "\n" not in error["message"]


SURROGATE = '{"model": "tiny", "messages": [{"role": "user", "content": "%s"}], "max_tokens": 4}'
TEXTS: dict[str, bytes] = {
    "half a surrogate": (SURROGATE % "\\ud800 7").encode(),
    "a NUL": (SURROGATE % "7\\u0000 + 8").encode(),
    "right to left": (SURROGATE % "\\u202e7 + 8").encode(),
    "an emoji": (SURROGATE % "\\ud83d\\ude00 7 + 8").encode(),
    "empty": (SURROGATE % "").encode(),
    "special tokens": (SURROGATE % "<|endoftext|><|im_end|></s>").encode(),
    "a template": (SURROGATE % "{question} {{7*7}} {% raw %}").encode(),
    "a mark before": b"\xef\xbb\xbf" + GOOD,
}


@pytest.mark.parametrize("name", TEXTS)
def test_an_odd_text_is_answered_or_refused(server: Served, name: str) -> None:
    answer = post(server, TEXTS[name])
    if answer.status_code != 200:
        assert answer.status_code == 400, answer.text
        proper_error(answer)
    if name in ("an emoji", "right to left"):
        assert answer.status_code == 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_another_content_type_is_refused(server: Served, kind: str) -> None:
    """So that no page of a browser can ask without being let."""
    answer = post(server, GOOD, Content_Type=kind)
    assert answer.status_code == 415
    proper_error(answer)


@pytest.mark.parametrize("budget", ["0", "-1", "two", "1e3", "", "9" * 400, "1.5", "2, 3", "²"])
def test_a_bad_budget_is_refused(server: Served, budget: str) -> None:
    body = json.dumps(good()).encode()
    with httpx2.Client(base_url=server.base, timeout=60, trust_env=False) as http:
        sent = [("Content-Type", "application/json"), ("X-ITS-Budget", budget.encode())]
        answer = http.post(CHAT, content=body, headers=sent)
    assert answer.status_code == 400, answer.text
    proper_error(answer)


def test_the_budget_of_the_header_wins(server: Served) -> None:
    answer = post(server, good(model="tiny@pf-3"), X_ITS_Budget="5")
    assert answer.status_code == 200, answer.text
    assert answer.json()["butwait"]["particles"] == 5


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "", "127.0.0.1.evil.example"])
def test_another_host_is_refused(server: Served, host: str) -> None:
    """A page whose name was made to mean this machine is no client."""
    got = asyncio.run(raw(server, head(method="GET", path="/v1/models", host=host)))
    assert int(got.split(b" ", 2)[1]) in (400, 403, 421), got[:200]


def test_100_mb_are_refused_before_they_are_read(server: Served) -> None:
    before = server.memory()
    told = head(JSON, "Content-Length: 100000000")
    got = asyncio.run(raw(server, told))
    assert b" 413 " in got.split(b"\r\n", 1)[0]
    piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
    got = asyncio.run(raw(server, head(JSON, "Transfer-Encoding: chunked") + piece * 1600))
    assert not got or b" 413 " in got.split(b"\r\n", 1)[0]
    assert server.memory() < before + 20_000_000
    server.lives()


def test_those_who_never_finish_hinder_nobody(server: Served) -> None:
    """A hundred who send a byte now and then, and one who asks."""

    async def drip() -> float:
        writers = []
        for i in range(100):
            _, writer = await asyncio.open_connection(*server.host_port)
            told = head(JSON, "Transfer-Encoding: chunked") if i % 2 else b"POST /v1/chat"
            writer.write(told)
            writers.append(writer)
        start = time.monotonic()
        for _ in range(3):
            for i, writer in enumerate(writers):
                writer.write(b"1\r\n \r\n" if i % 2 else b"a")
            await asyncio.sleep(0.1)
        answer = await asyncio.to_thread(post, server, good())
        assert answer.status_code == 200
        seconds = time.monotonic() - start
        for writer in writers:
            writer.close()
        return seconds

    assert asyncio.run(drip()) < 20
    assert server.metric("butwait_requests_running") == 0


def test_who_does_not_finish_in_time_is_let_go(strict: Served) -> None:
    """Half a head, and half a body."""

    async def wait(told: bytes) -> tuple[bytes, float]:
        reader, writer = await asyncio.open_connection(*strict.host_port)
        writer.write(told)
        start = time.monotonic()
        got = await asyncio.wait_for(reader.read(), 15)
        writer.close()
        return got, time.monotonic() - start

    key = f"Authorization: Bearer {KEY}"
    half = head(JSON, key, "Content-Length: 50") + b'{"model":'
    begun = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127"

    async def both() -> list[tuple[bytes, float]]:
        return await asyncio.gather(wait(half), wait(begun))

    (body, body_s), (_, head_s) = asyncio.run(both())
    assert b" 408 " in body.split(b"\r\n", 1)[0]
    assert max(body_s, head_s) < 10


BEARERS = {
    "none": None,
    "empty": "",
    "another": "Bearer sk-wrong",
    "a piece": "Bearer sk-rig",
    "more": "Bearer sk-right ",
    "no scheme": "sk-right",
    "another scheme": "Basic sk-right",
    "odd letters": "Bearer sk-r\u00efght",
    "long": "Bearer " + "a" * 8000,
}


@pytest.mark.parametrize("name", [name for name in BEARERS if name != "more"])
def test_without_the_key_nothing_is_told(strict: Served, name: str) -> None:
    told = BEARERS[name]
    headers = [] if told is None else [(b"Authorization", told.encode("latin-1"))]
    with httpx2.Client(base_url=strict.base, timeout=60, trust_env=False) as http:
        for method, path in (("GET", "/v1/models"), ("POST", CHAT), ("POST", "/v1/completions")):
            answer = http.request(method, path, headers=headers, content=b"{")
            assert answer.status_code == 401, (path, answer.text)
            error = proper_error(answer)
            assert error["code"] == "invalid_api_key"
            assert "sk-" not in error["message"]


def with_key(strict: Served, body: Any, **headers: str) -> httpx2.Response:
    return post(strict, body, Authorization=f"Bearer {KEY}", **headers)


def test_with_the_key_all_is_as_ever(strict: Served) -> None:
    assert with_key(strict, good()).status_code == 200
    strict.lives()  # needs none


LIMITED = {
    "paths": (good(butwait={"particles": LIMITS["max_paths"] + 1}), 400),
    "n x paths": (good(n=8, butwait={"particles": LIMITS["max_paths"] // 4}), 400),
    "tokens": (good(max_tokens=LIMITS["max_tokens"] + 1), 400),
    "prompt": (good(messages=[{"role": "user", "content": "7 + 8 " * 100}]), 400),
    "earlier turns": (good(messages=[{"role": "user", "content": "7 + 8 "}] * 65), 400),
    "body": (good(messages=[{"role": "user", "content": "7" * 100_001}]), 413),
}


@pytest.mark.parametrize("name", LIMITED)
def test_what_is_beyond_a_limit_is_refused(strict: Served, name: str) -> None:
    body, status = LIMITED[name]
    answer = with_key(strict, body)
    assert answer.status_code == status, answer.text
    proper_error(answer)
    assert KEY.encode() not in answer.content


LONG = good(
    max_tokens=LIMITS["max_tokens"],
    temperature=2.0,
    n=4,
    butwait={"method": "self_consistency", "particles": LIMITS["max_paths"] // 4},
)
"""Takes seconds."""


@contextmanager
def full(strict: Served) -> Iterator[None]:
    """A server that searches for two and lets two wait, which then leave."""
    leave = threading.Event()

    def hold(_: int) -> None:
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx2.Client(base_url=strict.base, timeout=60, trust_env=False) as http:
            with http.stream("POST", CHAT, json=LONG | {"stream": True}, headers=headers) as answer:
                for _line in answer.iter_lines():
                    if leave.is_set():
                        return

    with ThreadPoolExecutor(4) as threads:
        holding = [threads.submit(hold, i) for i in range(4)]
        try:
            until(lambda: strict.metric("butwait_requests_waiting") == 2)
            assert strict.metric("butwait_requests_running") == 2
            yield
        finally:
            leave.set()
            for each in holding:
                each.result(30)
    until(lambda: strict.metric("butwait_requests_running") == 0)


def until(holds: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_stream_that_waits_says_that_it_lives(strict: Served) -> None:
    """`full` ends its holders, the waiting ones too, as soon as they hear a line."""
    start = time.monotonic()
    with full(strict):
        pass
    assert time.monotonic() - start < 15


def test_who_is_too_many_is_told_when_to_come_again(strict: Served) -> None:
    """Also those that come together: none of them is let in beyond the queue."""
    with full(strict), ThreadPoolExecutor(8) as threads:
        for answer in threads.map(lambda _: with_key(strict, good()), range(8)):
            assert answer.status_code == 429, answer.text
            assert proper_error(answer)["code"] == "queue_full"
            assert 1 <= float(answer.headers["retry-after"]) <= 60
    assert with_key(strict, good()).status_code == 200


def test_who_asks_for_it_gets_the_best_answer_so_far(strict: Served) -> None:
    def asked(choice: str, seconds: float) -> httpx2.Response:
        extra = {"method": "pf", "particles": 64, "timeout_s": seconds, "on_timeout": choice}
        return with_key(strict, good(max_tokens=200, temperature=2.0, butwait=extra))

    assert proper_error(asked("error", 0.01))["code"] == "timeout"
    seconds, answer = 0.01, asked("answer", 0.01)
    while answer.status_code == 504 and seconds < 60:  # nothing was sampled yet
        assert proper_error(answer)["code"] == "timeout"
        seconds *= 1.5
        answer = asked("answer", seconds)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["butwait"]["timed_out"] is True
    assert answer.json()["choices"][0]["message"]["content"]


def test_no_prompt_and_no_key_in_the_log(strict: Served) -> None:
    with_key(strict, good(messages=[{"role": "user", "content": "a secret of mine"}]))
    with_key(strict, good(messages=[{"role": "user", "content": "a secret of mine"}], n=0))
    told = "".join(strict.told)
    assert "secret of mine" not in told
    assert KEY not in told
    assert "Traceback" not in told

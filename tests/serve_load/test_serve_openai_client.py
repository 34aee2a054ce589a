"""OpenAI's own client before `butwait serve`, unchanged."""

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator

import pytest
from served_process import QUESTION, Served

pytestmark = pytest.mark.slow
openai = pytest.importorskip("openai")
MESSAGES = [{"role": "user", "content": QUESTION}]
SHORT = {"model": "tiny@sc-4", "max_tokens": 16, "seed": 0}


@pytest.fixture
def client(server: Served) -> Iterator["openai.OpenAI"]:
    with openai.OpenAI(base_url=f"{server.base}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_chat(client: "openai.OpenAI") -> None:
    told = client.chat.completions.create(messages=MESSAGES, **SHORT)
    assert told.object == "chat.completion"
    assert told.id.startswith("chatcmpl-")
    assert told.choices[0].finish_reason in ("stop", "length")
    usage = told.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    shown = usage.completion_tokens - usage.completion_tokens_details.reasoning_tokens
    assert 0 < shown <= 17  # the answer's own, and perhaps the end's
    assert usage.prompt_tokens_details.cached_tokens >= 0
    assert usage.completion_tokens_details.reward_model_tokens == 0  # self-consistency has none


def test_a_stream_says_what_the_answer_says(client: "openai.OpenAI") -> None:
    whole = client.chat.completions.create(messages=MESSAGES, **SHORT)
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(
            messages=MESSAGES, stream=True, stream_options=options, **SHORT
        )
    )
    pieces = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    (ending,) = [
        c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason
    ]
    assert ending == whole.choices[0].finish_reason
    without = list(client.chat.completions.create(messages=MESSAGES, stream=True, **SHORT))
    assert all(chunk.choices for chunk in without)


@pytest.mark.parametrize("method", ["particle_filter", "beam_search", "best_of_n"])
def test_a_stream_of_each_method_says_what_the_answer_says(
    client: "openai.OpenAI", method: str
) -> None:
    """What was sent early is never taken back."""
    for seed in range(4):
        asked = SHORT | {"model": f"tiny@{method}-4", "seed": seed, "n": 2, "max_tokens": 48}
        whole = client.chat.completions.create(messages=MESSAGES, **asked)
        texts = ["", ""]
        for chunk in client.chat.completions.create(messages=MESSAGES, stream=True, **asked):
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
        assert texts == [choice.message.content for choice in whole.choices]


def test_stop_is_kept_and_not_shown(client: "openai.OpenAI") -> None:
    for seed in range(3):
        asked = SHORT | {"seed": seed, "model": "tiny@pf-4", "max_tokens": 48}
        whole = client.chat.completions.create(messages=MESSAGES, **asked)
        text = whole.choices[0].message.content
        stop = text[len(text) // 2 :][:1]
        cut = client.chat.completions.create(messages=MESSAGES, stop=stop, **asked)
        assert stop not in cut.choices[0].message.content
        parts = client.chat.completions.create(messages=MESSAGES, stop=stop, stream=True, **asked)
        streamed = "".join(p.choices[0].delta.content or "" for p in parts)
        assert streamed == cut.choices[0].message.content
        assert cut.choices[0].finish_reason == "stop"


def test_a_choice_of_n_is_the_search_of_its_seed(client: "openai.OpenAI") -> None:
    both = client.chat.completions.create(messages=MESSAGES, **SHORT | {"n": 2})
    alone = [
        client.chat.completions.create(messages=MESSAGES, **SHORT | {"seed": seed})
        for seed in (0, 1)
    ]
    assert [c.message.content for c in both.choices] == [
        one.choices[0].message.content for one in alone
    ]
    assert both.usage.completion_tokens == sum(one.usage.completion_tokens for one in alone)
    assert both.usage.prompt_tokens == alone[0].usage.prompt_tokens


def test_an_answer_is_sent_back_as_a_turn(client: "openai.OpenAI") -> None:
    """As the client's users write a conversation."""
    told = client.chat.completions.create(messages=MESSAGES, **SHORT)
    turns = [*MESSAGES, told.choices[0].message, {"role": "user", "content": "Calculate 2 + 3."}]
    again = client.chat.completions.create(messages=turns, **SHORT)
    assert again.usage.prompt_tokens > told.usage.prompt_tokens


@pytest.mark.parametrize("seed", [-1, 2**63 - 1, -(2**63), 0, None])
def test_seeds_of_every_size(client: "openai.OpenAI", seed: int | None) -> None:
    asked = SHORT | {"seed": seed, "n": 2}
    told = client.chat.completions.create(messages=MESSAGES, **asked)
    again = client.chat.completions.create(
        messages=MESSAGES, **asked | {"seed": told.choices[0].butwait["seed"]}
    )
    assert again.choices[0].message.content == told.choices[0].message.content


@pytest.mark.parametrize("method", ["pf", "sc", "best_of_n", "beam_search", "particle_gibbs"])
def test_without_temperature_every_method_answers(client: "openai.OpenAI", method: str) -> None:
    asked = SHORT | {"model": f"tiny@{method}-4", "temperature": 0}
    first, second = (
        client.chat.completions.create(messages=MESSAGES, **asked | {"seed": seed})
        for seed in (1, 2)
    )
    assert first.choices[0].message.content == second.choices[0].message.content


def test_completions(client: "openai.OpenAI") -> None:
    told = client.completions.create(prompt=QUESTION, **SHORT)
    assert told.object == "text_completion"
    chunks = list(client.completions.create(prompt=QUESTION, stream=True, **SHORT))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == told.choices[0].text


def test_models(client: "openai.OpenAI") -> None:
    ids = [model.id for model in client.models.list()]
    assert "tiny" in ids
    for name in ids:
        assert client.models.retrieve(name).id == name
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


def test_errors_are_the_clients_own(client: "openai.OpenAI") -> None:
    def ask(**more: object) -> None:
        client.chat.completions.create(**{"messages": MESSAGES} | SHORT | more)

    with pytest.raises(openai.NotFoundError) as missing:
        ask(model="another")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        ask(temperature=3)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as refused:
        ask(logprobs=True)
    assert refused.value.code == "unsupported_parameter"
    assert refused.value.param == "logprobs"
    with pytest.raises(openai.BadRequestError):
        ask(extra_body={"butwait": {"particles": 0}})
    with pytest.raises(openai.BadRequestError):
        list(client.chat.completions.create(messages=[], stream=True, **SHORT))


def test_the_async_client_at_once(server: Served) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.base}/v1", api_key="none") as client:
            answers = await asyncio.gather(
                *(
                    client.chat.completions.create(messages=MESSAGES, **SHORT | {"seed": i % 2})
                    for i in range(8)
                )
            )
        return [answer.choices[0].message.content for answer in answers]

    texts = asyncio.run(ask())
    assert texts[::2] == [texts[0]] * 4
    assert texts[1::2] == [texts[1]] * 4


def test_the_client_comes_again_when_it_is_told(server: Served) -> None:
    """A server that is busy first: what `butwait serve` says then is what the client obeys. The
    answer with 429 is a real one, played back by a server in front."""
    busy = {
        "error": {
            "message": "the queue is full",
            "type": "rate_limit_error",
            "param": None,
            "code": "queue_full",
        }
    }
    asked: list[int] = []

    class Busy(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(1)
            self.rfile.read(int(self.headers["Content-Length"]))
            if len(asked) == 1:
                self.answer(429, json.dumps(busy).encode(), ("Retry-After", "1"))
            else:
                self.answer(307, b"", ("Location", server.base + self.path))

        def answer(self, status: int, body: bytes, header: tuple[str, str]) -> None:
            self.send_response(status)
            self.send_header(*header)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy) as front:
        threading.Thread(target=front.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{front.server_port}/v1"
        with openai.OpenAI(base_url=base, api_key="none", max_retries=1) as client:
            told = client.chat.completions.create(messages=MESSAGES, **SHORT)
        front.shutdown()
    assert told.object == "chat.completion"
    assert len(asked) == 2

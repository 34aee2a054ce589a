"""Requests that get no answer: errors of OpenAI's form, limits, clients that leave, time-outs."""

import asyncio
from typing import Any

import pytest

from butwait.engines.engine import (
    GoingOnUnsupportedError,
    PromptTooLongError,
    PromptUnsupportedError,
    SamplingUnsupportedError,
    ScoringUnsupportedError,
)
from butwait.engines.scripted import ScriptedEngine
from butwait.engines.steps import StepEndError

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from serve_cases import LINES, ask, chat, scripted, served

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


def refused(content: Any, *, path: str = CHAT, headers: Any = None, **settings: Any) -> Any:
    async def asked() -> Any:
        async with served(**settings) as it:
            return await ask(it.app, path, content, headers=headers)

    return asyncio.run(asked())


@pytest.mark.parametrize(
    ("content", "code", "param"),
    [
        (b"{", "invalid_json", None),
        (b"[1]", "invalid_json", None),
        (b'{"model": NaN}', "invalid_json", None),
        (b"[" * 100_000, "invalid_json", None),
        (b'{"model": "tiny", "messages": "\\ud800"}', "invalid_json", None),
        (b"\xff", "invalid_json", None),
        ({"model": "tiny"}, "missing_required_parameter", "messages"),
        (chat(temperature="hot"), "invalid_value", "temperature"),
        (chat(temperature=3), "invalid_value", "temperature"),
        (chat(seed=1.5), "invalid_value", "seed"),
        (chat(n=0), "invalid_value", "n"),
        (chat(max_tokens=10_000), "invalid_value", "max_tokens"),
        (chat(stop=["a"] * 5), "invalid_value", "stop"),
        (chat(model="tiny@but_wait-2", stop="wait"), "invalid_value", "stop"),
        (chat(butwait={"method": "but_wait"}, stop=["\n\n"]), "invalid_value", "stop"),
        (chat(foo=1), "unknown_parameter", "foo"),
        (chat(butwait={"paths": 3}), "unknown_parameter", "butwait.paths"),
        (chat(butwait={"particles": 3, "budget": 4}), "invalid_value", "butwait.budget"),
        (chat(butwait={"method": "os:system"}), "invalid_value", "butwait.method"),
        (chat(butwait={"particles": 9999}), "invalid_value", "butwait.particles"),
        (chat(model="tiny@beam_search-3"), "invalid_value", "butwait"),
        (chat(tools=[{"type": "function"}]), "unsupported_parameter", "tools"),
        (chat(logprobs=True), "unsupported_parameter", "logprobs"),
        (chat(presence_penalty=0.5), "unsupported_parameter", "presence_penalty"),
        (chat(" "), "invalid_value", "messages"),
        (
            chat() | {"messages": [{"role": "user<|im_end|>", "content": "?"}]},
            "invalid_value",
            "messages.0.role",
        ),
        (
            chat() | {"messages": [{"role": "assistant", "content": "I"}]},
            "invalid_value",
            "messages",
        ),
        (
            chat() | {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "invalid_value",
            "messages.0.content.0.type",
        ),
    ],
)
def test_what_is_wrong_with_a_body_is_told(content: Any, code: str, param: str | None) -> None:
    said = refused(content)
    assert said.status == 400
    assert said.error["code"] == code
    assert said.error["param"] == param
    assert said.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "model", ["other", "tiny@", "tiny@nothing", "tiny@pf-x", "@pf", "tiny@a:b"]
)
def test_models_that_are_not_there(model: str) -> None:
    said = refused(chat(model=model))
    assert (said.status, said.error["code"]) == (404, "model_not_found")


def test_harmless_values_of_what_is_not_honoured_are_taken() -> None:
    said = refused(
        chat(
            tools=[],
            logprobs=False,
            presence_penalty=0,
            response_format={"type": "text"},
            user="me",
            seed=None,
            store=False,
            top_k=-1,
            stream=False,
        )
    )
    assert said.status == 200


def test_limits_of_size() -> None:
    long = refused(chat("word " * 100), max_prompt_tokens=50)
    assert (long.status, long.error["code"]) == (400, "context_length_exceeded")
    longer = refused(chat("word " * 1000), max_prompt_tokens=50)
    assert (longer.status, longer.error["code"]) == (400, "context_length_exceeded")
    assert longer.error["param"] == "messages"
    text = {"model": "tiny", "prompt": "word " * 100}
    assert refused(text, path=COMPLETION, max_prompt_tokens=50).error["param"] == "prompt"
    large = refused(chat("word " * 1000), max_body_bytes=1000)
    assert (large.status, large.error["code"]) == (413, "request_too_large")
    kind = refused(chat(), headers={"content-type": "text/plain"})
    assert kind.status == 415
    assert kind.error


def test_addresses_and_methods_that_are_not_there() -> None:
    async def asked() -> Any:
        async with served() as it:
            nowhere = await ask(it.app, "/v1/embeddings", {})
            wrong = await ask(it.app, CHAT, method="GET")
            return nowhere, wrong, await ask(it.app, "/healthz", method="GET")

    nowhere, wrong, health = asyncio.run(asked())
    assert (nowhere.status, nowhere.error["code"]) == (404, "not_found")
    assert (wrong.status, wrong.error["code"]) == (405, "method_not_allowed")
    assert health.json == {"status": "ok"}


def test_keys() -> None:
    async def asked() -> list[int]:
        async with served(keys=("one", "two2")) as it:
            given = [
                None,
                "Bearer two",
                "Basic one",
                "Bearer \xff\xfe",
                "Bearer one",
                "bearer two2",
            ]
            headers = [{} if g is None else {"authorization": g} for g in given]
            said = [await ask(it.app, CHAT, chat(), headers=h) for h in headers]
            assert said[0].error["code"] == "invalid_api_key"
            listed = await ask(it.app, "/v1/models", method="GET")
            return [*(each.status for each in said), listed.status]

    assert asyncio.run(asked()) == [401, 401, 401, 401, 200, 200, 401]


def test_a_page_of_elsewhere_whose_name_leads_here_is_refused() -> None:
    async def asked() -> list[int]:
        names = ["evil.example", "127.0.0.1.evil.example:80", "", "localhost:8", "[::1]:8"]
        async with served() as it:
            said = [await ask(it.app, CHAT, chat(), headers={"host": name}) for name in names]
        assert said[0].error["message"]
        return [each.status for each in said]

    assert asyncio.run(asked()) == [403, 403, 403, 200, 200]


def test_an_answer_is_sent_back_as_a_turn() -> None:
    turn = {"role": "assistant", "content": "2", "refusal": None, "tool_calls": None, "audio": None}
    messages = [{"role": "user", "content": "1 + 1?"}, turn, {"role": "user", "content": "So?"}]
    assert refused(chat() | {"messages": messages}).status == 200


def test_one_more_than_the_queue_is_told_when_to_come_again() -> None:
    async def asked() -> Any:
        async with served(scripted(delay=0.02), concurrency=1, queue=1) as it:
            said = await asyncio.gather(*(ask(it.app, CHAT, chat(seed=1)) for _ in range(4)))
            return said, it.service.jobs

    said, jobs = asyncio.run(asked())
    assert sorted(each.status for each in said) == [200, 200, 429, 429]
    full = next(each for each in said if each.status == 429)
    assert full.error["type"] == "rate_limit_error"
    assert int(full.headers["retry-after"]) >= 1
    assert (jobs.running, jobs.waiting) == (0, 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_search(stream: bool) -> None:
    async def asked() -> Any:
        async with served(scripted(delay=0.2)) as it:
            before = asyncio.all_tasks()
            await ask(it.app, CHAT, chat(stream=stream), leave_after=0.05)
            sampled = it.engine.counters.policy_tokens
            await asyncio.sleep(0.3)
            text = (await ask(it.app, "/metrics", method="GET")).body.decode()
            left = asyncio.all_tasks() - before
            return sampled, it.engine.counters.policy_tokens, it.engine.held, text, left

    sampled, later, held, text, left = asyncio.run(asked())
    assert sampled == later == 0
    assert held == 0
    assert "butwait_requests_cancelled_total 1.0" in text
    assert not left


def test_a_search_out_of_time_is_an_error_or_the_best_answer_so_far() -> None:
    class Stuck(ScriptedEngine):
        """Gives two steps of a search and no third one."""

        async def extend(self, prefixes: Any, *given: Any) -> Any:
            if prefixes[0].text.count("\n") == 2:
                await asyncio.sleep(60)
            return await super().extend(prefixes, *given)

    async def asked(on_timeout: str) -> Any:
        async with served(Stuck(LINES)) as it:
            own = {"timeout_s": 0.5, "on_timeout": on_timeout}
            return await ask(it.app, CHAT, chat(butwait=own, seed=1))

    late = asyncio.run(asked("error"))
    assert (late.status, late.error["code"]) == (504, "timeout")
    assert late.headers["x-should-retry"] == "false"
    so_far = asyncio.run(asked("answer")).json["choices"][0]
    assert so_far["message"]["content"].startswith("It is easy.\nSo ")
    assert so_far["finish_reason"] == "length"
    assert so_far["butwait"]["timed_out"] is True


def test_an_engine_that_fails_is_told_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(ScriptedEngine):
        async def extend(self, *given: Any) -> Any:
            from butwait.records import UserError

            raise UserError("the server at http://secret is away")

    async def asked() -> Any:
        async with served(Broken(LINES)) as it:
            return await ask(it.app, CHAT, chat()), await ask(it.app, CHAT, chat(stream=True))

    whole, stream = asyncio.run(asked())
    assert (whole.status, whole.error["code"]) == (502, "engine_error")
    assert "secret" not in whole.error["message"]
    assert "secret" in caplog.text
    assert stream.status == 200
    assert stream.events[-1]["error"]["code"] == "engine_error"


SHAPED = "tokens can be drawn here at temperature 1 or 0, with top_p 1 and top_k 0 alone"
LACKING = "the server behind this one cannot; ask for another method, such as self_consistency"
NO_ROOM = "the prompt leaves no room"


@pytest.mark.parametrize(
    ("error", "more", "code", "param", "told"),
    [
        (SamplingUnsupportedError, {"temperature": 0.7}, "invalid_value", "temperature", SHAPED),
        (SamplingUnsupportedError, {"top_k": 5}, "invalid_value", "temperature", SHAPED),
        (SamplingUnsupportedError, {"model": "tiny@power-4"}, "invalid_value", "model", LACKING),
        (ScoringUnsupportedError, {"model": "tiny@pg-4"}, "invalid_value", "model", LACKING),
        (GoingOnUnsupportedError, {}, "invalid_value", "model", LACKING),
        (PromptTooLongError, {}, "context_length_exceeded", "messages", NO_ROOM),
    ],
)
def test_what_the_server_behind_this_one_cannot_do_is_the_clients_to_change(
    error: type[Exception],
    more: dict[str, Any],
    code: str,
    param: str,
    told: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Other(ScriptedEngine):
        async def extend(self, *given: Any) -> Any:
            raise error("the server at http://secret cannot do this")

    async def asked() -> Any:
        async with served(Other(LINES)) as it:
            return await ask(it.app, CHAT, chat(**more))

    said = asyncio.run(asked())
    assert (said.status, said.error["code"], said.error["param"]) == (400, code, param)
    assert told in said.error["message"]
    assert "secret" not in said.error["message"]
    assert "secret" in caplog.text


@pytest.mark.parametrize("known", [True, False], ids=["at once", "at the first step"])
def test_a_text_is_refused_where_the_server_behind_takes_chats_alone(
    known: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Chats(ScriptedEngine):
        def start(self, problem: Any) -> Any:
            self.plain = problem.plain
            if known and problem.plain:
                raise PromptUnsupportedError("the server at http://secret takes chats")
            return super().start(problem)

        async def extend(self, *given: Any) -> Any:
            if self.plain:
                raise PromptUnsupportedError("the server at http://secret takes chats")
            return await super().extend(*given)

    async def asked() -> Any:
        async with served(Chats(LINES)) as it:
            text = {"model": "tiny", "prompt": "What is it?"}
            said = await ask(it.app, COMPLETION, text)
            return said, it.engine.counters.policy_tokens, await ask(it.app, CHAT, chat())

    said, sampled, other = asyncio.run(asked())
    error = said.error
    assert (said.status, error["code"], error["param"]) == (400, "invalid_value", "prompt")
    assert error["message"].endswith("ask by a chat (/v1/chat/completions)")
    assert "secret" not in error["message"]
    assert "secret" in caplog.text
    assert (sampled, other.status) == (0, 200)


@pytest.mark.parametrize(("stop", "status"), [("<|x|>", 400), ("END", 502)])
def test_a_stop_is_not_blamed_for_the_owners_own_delimiters(stop: str, status: int) -> None:
    class Special(ScriptedEngine):
        async def extend(self, *given: Any) -> Any:
            raise StepEndError("<|x|>", "<|x|>")

    async def asked() -> Any:
        async with served(Special(LINES)) as it:
            return await ask(it.app, CHAT, chat(stop=stop))

    assert asyncio.run(asked()).status == status


def test_a_server_that_ends_finishes_what_is_under_way_or_says_so() -> None:
    async def asked(seconds: float) -> Any:
        async with served(scripted(delay=0.05)) as it:
            task = asyncio.create_task(ask(it.app, CHAT, chat(seed=1)))
            await asyncio.sleep(0.02)
            await it.service.jobs.drain(seconds)
            return await task, await ask(it.app, CHAT, chat())

    done, later = asyncio.run(asked(5.0))
    assert done.status == 200
    assert (later.status, later.error["code"]) == (503, "shutting_down")
    ended, _ = asyncio.run(asked(0.0))
    assert (ended.status, ended.error["code"]) == (503, "shutting_down")

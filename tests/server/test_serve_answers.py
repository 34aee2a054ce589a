"""Answers of the server: those of ``butwait.solve``, their usage, and what is honoured."""

import asyncio
from typing import Any

import pytest

import butwait
from butwait.engines.scripted import ScriptedEngine

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from serve_cases import ask, chat, scripted, served

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
STEP = {"delimiters": ["\n"], "max_tokens": 64}


def run(work: Any) -> Any:
    return asyncio.run(work)


async def one(content: Any, path: str = CHAT, **settings: Any) -> Any:
    async with served(**settings) as it:
        return (await ask(it.app, path, content)).json


@pytest.mark.parametrize("method", ["particle_filter", "self_consistency", "beam_search"])
def test_the_answer_is_that_of_solve_with_the_same_seed(method: str) -> None:
    solved = butwait.solve(
        "What is it?", method=method, particles=4, seed=7, engine=scripted(), step=STEP
    )
    said = run(one(chat(model=f"tiny@{method}-4", seed=7)))
    (choice,) = said["choices"]
    assert choice["message"] == {"role": "assistant", "content": solved.text, "refusal": None}
    assert choice["butwait"]["answer"] == solved.answer
    assert choice["butwait"]["weight"] == pytest.approx(solved.weight)
    assert choice["butwait"]["seed"] == 7
    assert choice["finish_reason"] == "stop"
    used = said["usage"]
    assert used["completion_tokens"] == solved.usage.policy_tokens
    assert used["prompt_tokens"] == len(solved.tree.prompt_ids)
    assert used["total_tokens"] == used["prompt_tokens"] + used["completion_tokens"]
    assert used["prompt_tokens_details"]["prefilled_tokens"] == solved.usage.prefilled_tokens
    details = used["completion_tokens_details"]
    assert details["reasoning_tokens"] == solved.usage.policy_tokens - 3


def test_several_choices_are_the_searches_of_the_next_seeds() -> None:
    said = run(one(chat(seed=5, n=3)))
    solved = [
        butwait.solve("What is it?", particles=4, seed=seed, engine=scripted(), step=STEP)
        for seed in (5, 6, 7)
    ]
    texts = [choice["message"]["content"] for choice in said["choices"]]
    assert texts == [each.text for each in solved]
    assert said["usage"]["completion_tokens"] == sum(s.usage.policy_tokens for s in solved)
    assert said["usage"]["prompt_tokens"] == len(solved[0].tree.prompt_ids)


def test_the_number_of_paths_header_before_body_before_name() -> None:
    async def paths(body: Any, **headers: str) -> int:
        async with served() as it:
            said = await ask(it.app, CHAT, body, headers=headers)
            return said.json["butwait"]["particles"]

    assert run(paths(chat())) == 4
    assert run(paths(chat(model="tiny@pf-3"))) == 3
    assert run(paths(chat(model="tiny@pf-3", butwait={"particles": 5}))) == 5
    assert run(paths(chat(model="tiny@pf-3", butwait={"budget": 6}), **{"X-ITS-Budget": "7"})) == 7


def test_methods_by_names_of_ones_own() -> None:
    many = {"many": {"kind": "self_consistency", "samples": 9}}
    said = run(one(chat(model="tiny@many"), methods=many))
    assert said["butwait"] == {"method": "many", "particles": 9}
    said = run(one(chat(butwait={"method": "many", "particles": 2}), methods=many))
    assert said["butwait"] == {"method": "many", "particles": 2}


def test_a_stop_ends_the_paths_and_is_no_part_of_the_answer() -> None:
    said = run(one(chat(stop=["So"], n=2, seed=0)))
    assert [c["message"]["content"] for c in said["choices"]] == ["It is easy.\n"] * 2
    assert [c["finish_reason"] for c in said["choices"]] == ["stop"] * 2
    # Two steps of four paths each, and no third one.
    assert said["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize("method", ["pf", "sc"])
@pytest.mark.parametrize(
    ("stop", "text", "tokens"),
    [
        ("END", "hm\n</t>One.", 4),
        ("two", "hm\n</t>One.END ", 5),
        ("</t>On", "hm\n", 3),
        ("m", "h", 1),
    ],
)
def test_a_stop_ends_the_answer_behind_a_thought_too(
    method: str, stop: str, text: str, tokens: int
) -> None:
    """And what would follow is not sampled."""
    pieces = ["hm\n", "</t>", "One.", "END", " two", "\n", "\\boxed{2}"]
    table = {"".join(pieces[:i]): {piece: 1.0} for i, piece in enumerate(pieces)}
    body = chat(model=f"tiny@{method}-4", stop=[stop])
    step = {"delimiters": ["\n"], "max_tokens": 64, "think_end": "</t>"}
    said = run(one(body, engine=ScriptedEngine(table), step=step))
    (choice,) = said["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (text, "stop")
    assert said["usage"]["completion_tokens"] == 4 * tokens


def test_a_stop_with_the_last_token_completes_a_path() -> None:
    table = {"": {"\\boxed{2}": 1.0}, "\\boxed{2}": {" END": 1.0}}
    step = {"delimiters": ["\n"], "stop_at_box": False}
    said = run(one(chat(stop="END", max_tokens=2), engine=ScriptedEngine(table), step=step))
    assert said["choices"][0]["butwait"]["answer"] == "2"


def test_without_temperature_all_choices_are_the_same_and_each_is_counted() -> None:
    one_of, three = (run(one(chat(seed=0, temperature=0, n=n))) for n in (1, 3))
    texts = {choice["message"]["content"] for choice in three["choices"]}
    assert texts == {one_of["choices"][0]["message"]["content"]}
    assert three["usage"]["completion_tokens"] == 3 * one_of["usage"]["completion_tokens"]


@pytest.mark.parametrize("method", ["pf", "sc", "bon", "pg"])
def test_what_stands_behind_a_stop_is_no_answer(method: str) -> None:
    table = {"": {"\\boxed{2}END \\boxed{3}": 1.0}}
    said = run(one(chat(model=f"tiny@{method}-4", stop="END"), engine=ScriptedEngine(table)))
    (choice,) = said["choices"]
    assert choice["message"]["content"] == "\\boxed{2}"
    assert [answer for answer, _ in choice["butwait"]["answers"]] == ["2"]
    assert choice["butwait"]["answer"] == "2"
    table = {"": {"So END \\boxed{3}": 1.0}}
    said = run(one(chat(model=f"tiny@{method}-4", stop="END"), engine=ScriptedEngine(table)))
    (choice,) = said["choices"]
    assert choice["message"]["content"] == "So "
    assert choice["butwait"]["answers"] == []
    assert choice["butwait"]["answer"] is None


def test_a_path_ends_at_its_most_tokens() -> None:
    said = run(one(chat(max_tokens=2, seed=0)))
    assert said["choices"][0]["finish_reason"] == "length"
    assert said["choices"][0]["butwait"]["answer"] is None
    assert said["usage"]["completion_tokens"] == 8


def test_a_completion_goes_on_with_a_text() -> None:
    said = run(one({"model": "tiny", "prompt": "What is it?", "seed": 1}, COMPLETION))
    assert said["object"] == "text_completion"
    assert said["choices"][0]["text"].startswith("It is easy.\n")
    assert said["usage"]["prompt_tokens"] == len("What is it?")


def test_a_conversation_and_texts_in_parts() -> None:
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Yes."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Two"}, {"type": "text", "text": "?"}],
        },
    ]

    async def asked() -> Any:
        async with served() as it:
            request = chat() | {"messages": turns}
            from butwait.server.wire import ChatRequest

            chosen = it.service.methods.chosen(ChatRequest.model_validate(request), {})
            return chosen.asks[0].problem

    problem = run(asked())
    assert problem.question == "Two?"
    assert problem.before == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Yes."},
    )


def test_a_stream_is_the_answer_in_pieces_with_its_usage_at_the_end() -> None:
    async def both() -> Any:
        async with served() as it:
            options = {"include_usage": True}
            streamed = await ask(it.app, CHAT, chat(seed=3, stream=True, stream_options=options))
            whole = await ask(it.app, CHAT, chat(seed=3))
            return streamed, whole.json

    streamed, whole = run(both())
    assert streamed.headers["content-type"].startswith("text/event-stream")
    opening, *pieces, closing, done = streamed.events
    assert done == "[DONE]"
    assert opening["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    texts = [p["choices"][0]["delta"].get("content", "") for p in pieces]
    assert "".join(texts) == whole["choices"][0]["message"]["content"]
    assert pieces[-1]["choices"][0]["finish_reason"] == "stop"
    assert closing["choices"] == []
    assert closing["usage"] == whole["usage"]
    assert {p["object"] for p in pieces} == {"chat.completion.chunk"}


def test_what_all_paths_share_is_sent_before_the_search_ends() -> None:
    async def pieces() -> list[bytes]:
        async with served(scripted(delay=0.02)) as it:
            return (await ask(it.app, CHAT, chat(seed=3, stream=True))).pieces

    found = run(pieces())
    first = next(i for i, piece in enumerate(found) if b"It is easy" in piece)
    box = next(i for i, piece in enumerate(found) if b"boxed" in piece)
    assert first < box


def test_usage_is_the_engines_count_and_figures_tell_it() -> None:
    async def counted() -> Any:
        async with served() as it:
            said = await asyncio.gather(
                *(ask(it.app, CHAT, chat(seed=i, n=1 + i % 2)) for i in range(12))
            )
            used = sum(each.json["usage"]["completion_tokens"] for each in said)
            text = (await ask(it.app, "/metrics", method="GET")).body.decode()
            return used, it.engine.counters.policy_tokens, text, it.engine.held

    used, sampled, text, held = run(counted())
    assert used == sampled
    assert f"butwait_engine_policy_tokens_total {float(sampled)}" in text
    assert f'butwait_tokens_total{{kind="policy"}} {float(sampled)}' in text
    named = 'butwait_requests_total{route="/v1/chat/completions",status="200"} 12.0'
    assert named in text
    assert held == 0


def test_models() -> None:
    async def listed() -> Any:
        async with served(methods={"mine": "best_of_n"}) as it:
            found = (await ask(it.app, "/v1/models", method="GET")).json
            one = await ask(it.app, "/v1/models/tiny@pf-64", method="GET")
            none = await ask(it.app, "/v1/models/tiny@nothing", method="GET")
            return found, one.json, none

    found, one, none = run(listed())
    names = [model["id"] for model in found["data"]]
    assert names[:2] == ["tiny", "tiny@mine"]
    assert "tiny@particle_filter" in names
    assert one["id"] == "tiny@pf-64"
    assert none.status == 404
    assert none.error["code"] == "model_not_found"

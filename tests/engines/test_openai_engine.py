"""The engine behind a server, in every dialect, and what it does when things go wrong."""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from engine_contract import CHECKS, GREEDY, KEY, EngineCase, scores_are_the_models, whole
from openai_toy import MODEL, Toy, next_logprobs, serving, tokenizer_with_chat
from random_models import EOS

from butwait.engines.engine import (
    Continuation,
    Engine,
    GoingOnUnsupportedError,
    Prefix,
    PromptUnsupportedError,
    SamplingUnsupportedError,
    ScoringUnsupportedError,
)
from butwait.engines.kinds.openai import OpenAISettings, start_openai
from butwait.engines.openai import OpenAIEngine
from butwait.engines.servers import remote_server
from butwait.engines.settings import ModelSettings, Sampling, StepRule, StoppedRule
from butwait.problems.settings import PromptSettings
from butwait.records import Problem, UserError

PLAIN = PromptSettings(style="plain", template="{question}")
TURNS = PromptSettings(template="{question}")
PROBLEM = Problem("p", "What is 3 + 4 - 5?", None)
STEPS = StepRule(max_tokens=40)
Run = Callable[[Any], Any]


pytestmark = pytest.mark.usefixtures("short_pauses")


def ids(text: str) -> list[int]:
    return tokenizer_with_chat().encode(text, add_special_tokens=False)


def begin_of(script: str, text: str) -> list[int]:
    """The tokens of a script that make up the text it begins with."""
    tokens = ids(script)
    lengths = range(len(tokens) + 1)
    return next(tokens[:n] for n in lengths if tokenizer_with_chat().decode(tokens[:n]) == text)


def engine_of(toy: Toy, prompt: PromptSettings = PLAIN, **settings: Any) -> OpenAIEngine:
    chosen = OpenAISettings(
        **{"kind": "openai", "base_url": toy.url, "served_model": MODEL, "retries": 2} | settings
    )
    model = ModelSettings(name="tiny")
    engine: Any = start_openai(model, tokenizer_with_chat(), chosen, prompt)
    engine._eos_ids = frozenset([EOS])  # tiny has another vocabulary
    return engine


def steps(
    toy: Toy,
    run: Run,
    rule: StepRule = STEPS,
    prompt: PromptSettings = PLAIN,
    n: int = 1,
    sampling: Sampling = GREEDY,
    **settings: Any,
) -> tuple[OpenAIEngine, list[Continuation]]:
    engine = engine_of(toy, prompt, **settings)

    async def go() -> list[Continuation]:
        try:
            starts = [engine.start(PROBLEM)] * n
            keys = [KEY.at(particle=i) for i in range(n)]
            return await engine.extend(starts, rule, sampling, keys)
        finally:
            await engine.close()

    return engine, run(go())


def case_of(engine: OpenAIEngine, run: Run) -> EngineCase:
    return EngineCase(
        engine=engine,
        problem=PROBLEM,
        next_logprobs=next_logprobs,
        decode=lambda token_ids: tokenizer_with_chat().decode(token_ids, skip_special_tokens=True),
        eos_ids=frozenset([EOS]),
        keyed=False,
        capacity=engine._capacity,
        exact_prefill=False,
        run=run,
    )


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Callable[[EngineCase], None], run: Run) -> None:
    with serving(Toy()) as toy:
        engine = engine_of(toy, capacity=96)
        assert isinstance(engine, Engine)
        check(case_of(engine, run))
        run(engine.close())


@pytest.mark.parametrize("dialect", ["vllm", "llama.cpp", "text", "strict"])
@pytest.mark.parametrize("completions", [True, False], ids=["completions", "chat"])
def test_a_step_in_every_dialect(dialect: str, completions: bool, run: Run) -> None:
    """Tokens, text and log-probabilities of a scripted reply; it is cut behind the delimiter."""
    script = "So ½ 3 + 4 = 7.\n\nThe"
    expected = begin_of(script, "So ½ 3 + 4 = 7.\n\n")
    toy = Toy(dialect=dialect, completions=completions, script=[script])
    with serving(toy):
        engine, [result] = steps(toy, run, prompt=TURNS)
    assert (result.text, result.finish) == ("So ½ 3 + 4 = 7.\n\n", "step")
    assert tokenizer_with_chat().decode(result.token_ids) == result.text
    assert result.logprobs.sum() == pytest.approx(-0.5 * len(expected))
    if dialect in ("vllm", "llama.cpp"):
        assert result.token_ids.tolist() == expected
    assert result.prefix.text == result.text
    asked = toy.asked[0]
    assert ("messages" in asked) == (not completions)
    assert asked["seed"] == KEY.at(particle=0).seed32()
    assert asked.get("stop") == (["\n\n"] if dialect == "vllm" else None)
    assert engine.counters.policy_tokens == len(result.token_ids) + result.overshoot_tokens


@pytest.mark.parametrize("dialect", ["vllm", "llama.cpp", "text"])
def test_eos_ends_a_path(dialect: str, run: Run) -> None:
    with serving(Toy(dialect=dialect, script=["It is 7"])) as toy:
        _, [result] = steps(toy, run)
    assert (result.text, result.finish) == ("It is 7", "eos")
    assert result.token_ids.tolist()[-1] == EOS
    assert result.logprobs.sum() == pytest.approx(-0.5 * (len(ids("It is 7")) + 1))


def test_an_empty_completion_is_an_eos(run: Run) -> None:
    for dialect in ("vllm", "text"):
        with serving(Toy(dialect=dialect, script=[""])) as toy:
            _, [result] = steps(toy, run)
        assert (result.text, result.finish) == ("", "eos")
        assert result.token_ids.tolist() == [EOS]
        assert result.logprobs.tolist() == [-0.5]


def test_a_box_is_cut_and_nothing_behind_it_is_counted_twice(run: Run) -> None:
    with serving(Toy(script=["\\boxed{7} and so on and so on"])) as toy:
        engine, [result] = steps(toy, run)
    assert (result.text, result.finish) == ("\\boxed{7}", "box")
    assert result.token_ids.tolist() == ids("\\boxed{7}")
    assert engine.counters.policy_tokens == len(result.token_ids) + result.overshoot_tokens


def test_a_server_that_gives_few_tokens_at_a_time_is_asked_again(run: Run) -> None:
    """The later request starts behind the first one's tokens, with another seed."""
    toy = Toy(limit=3, cached=2)
    with serving(toy):
        engine, [result] = steps(toy, run, whole(8))
    toy.limit = 10**6
    with serving(toy):
        _, [expected] = steps(toy, run, whole(8))
    np.testing.assert_array_equal(result.token_ids, expected.token_ids)
    np.testing.assert_allclose(result.logprobs, expected.logprobs, atol=1e-6)
    parts, n = toy.asked[:-1], result.prefix.prompt_length
    assert [len(part["prompt"]) for part in parts] == [n, n + 3, n + 6]
    assert [part["max_tokens"] for part in parts] == [8, 5, 2]
    assert len({part["seed"] for part in parts}) == 3
    assert result.prefilled_tokens == engine.counters.prefilled_tokens == 3 * n + 9 - 6


def test_seeds_can_be_left_out(run: Run) -> None:
    for seeds in (True, False):
        with serving(Toy()) as toy:
            steps(toy, run, whole(6), n=2, sampling=Sampling(), seeds=seeds)
        sampled = [body for body in toy.asked if body["max_tokens"] == 6]
        assert [("seed" in body) for body in sampled] == [seeds, seeds]


def test_the_servers_context_bounds_a_path(run: Run) -> None:
    n = len(ids(PROBLEM.question))
    with serving(Toy(context=n + 5)) as toy:
        _, [result] = steps(toy, run, whole(30))
    assert (result.finish, len(result.token_ids)) == ("length", 5)
    assert toy.asked[0]["max_tokens"] == 5


def test_a_chat_goes_on_with_the_assistants_turn(run: Run) -> None:
    toy = Toy(completions=False, script=["One.\n\n", "Two.\n\n"])
    with serving(toy):
        engine = engine_of(toy, TURNS)
        [first] = run(engine.extend([engine.start(PROBLEM)], STEPS, GREEDY, [KEY]))
        [second] = run(engine.extend([first.prefix], STEPS, GREEDY, [KEY]))
        run(engine.close())
    assert second.prefix.text == "One.\n\nTwo.\n\n"
    assert "continue_final_message" not in toy.asked[0]
    assert toy.asked[1]["messages"][-1] == {"role": "assistant", "content": "One.\n\n"}
    assert toy.asked[1]["continue_final_message"] is True
    assert toy.asked[1]["add_generation_prompt"] is False


def test_a_template_that_edits_the_turn_is_refused(run: Run) -> None:
    trimming = "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}"
    trimming += "{% if add_generation_prompt %}assistant: {% endif %}"
    toy = Toy(completions=False, script=["One.\n\n"])
    with serving(toy):
        engine = engine_of(toy, TURNS)
        [first] = run(engine.extend([engine.start(PROBLEM)], STEPS, GREEDY, [KEY]))
        engine._tokenizer.chat_template = trimming
        with pytest.raises(GoingOnUnsupportedError, match="edits a turn that is to be continued"):
            run(engine.extend([first.prefix], STEPS, GREEDY, [KEY]))
        run(engine.close())


def test_a_server_that_runs_other_tokens_is_refused(run: Run) -> None:
    n = len(ids(PROBLEM.question))
    with serving(Toy(other_prompt=True, script=["It is 7"])) as toy:
        with pytest.raises(UserError, match=f"ran {n + 1} tokens that are not the {n} of the path"):
            steps(toy, run, whole(30))


@pytest.mark.parametrize("dialect", ["vllm", "text"])
def test_a_server_that_counts_another_prompt_is_a_warning(
    dialect: str, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """Once: many servers count in a way of their own, so that a count stops nothing."""
    n = len(ids(PROBLEM.question))
    toy = Toy(dialect=dialect, extra_prompt_tokens=1, script=["It is 7"] * 2)
    with serving(toy):
        _, results = steps(toy, run, whole(30), n=2)
    assert [result.text for result in results] == ["It is 7"] * 2
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f"says that it ran {n + 1} tokens where the path has {n}" in warning


def test_a_chat_of_an_unknown_prompt_is_refused(run: Run) -> None:
    with serving(Toy(completions=False)) as toy:
        engine = engine_of(toy, TURNS)
        stranger = Prefix(np.array([1, 2], np.int32), 2)
        with pytest.raises(PromptUnsupportedError, match=r"the messages of the run's problems"):
            run(engine.extend([stranger], STEPS, GREEDY, [KEY]))
        run(engine.close())


@pytest.mark.parametrize(
    "fault",
    [
        ("status", 429, {"Retry-After": "0"}),
        ("status", 500, {}),
        ("hung up", 0, {}),
        ("no JSON", 0, {}),
        ("broken off", 3, {}),
        ("error event", 500, {}),
        ("silence", 3, {}),
    ],
    ids=lambda fault: f"{fault[0]} {fault[1]}",
)
def test_a_lost_reply_is_asked_for_again(fault: Any, run: Run) -> None:
    """With the same seed; only the reply that was used is counted."""
    rule, sampling = whole(8), Sampling()
    with serving(Toy()) as toy:
        _, [expected] = steps(toy, run, rule, sampling=sampling)
    with serving(Toy(faults=[fault, fault])) as toy:
        patience = 1.0 if fault[0] == "silence" else 60.0
        engine, [result] = steps(toy, run, rule, sampling=sampling, timeout_s=patience)
    np.testing.assert_array_equal(result.token_ids, expected.token_ids)
    assert engine.counters.policy_tokens == len(expected.token_ids)
    assert len(toy.asked) == 3
    assert toy.asked[0] == toy.asked[1] == toy.asked[2]


def test_a_server_stays_lost_after_the_retries(run: Run) -> None:
    with serving(Toy(faults=[("status", 503, {})] * 3)) as toy:
        with pytest.raises(UserError, match=r"status 503: too busy; 3 attempts.* stays"):
            steps(toy, run)
    assert len(toy.asked) == 3


def test_no_server_is_one_sentence(run: Run) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        toy = Toy(url=f"http://127.0.0.1:{probe.getsockname()[1]}/v1")
    with pytest.raises(UserError, match=r"does not answer .* engine\.base_url"):
        steps(toy, run)


def test_a_refusal_is_not_asked_again(run: Run) -> None:
    with serving(Toy(faults=[("status", 400, {})])) as toy:
        with pytest.raises(UserError, match=r"refused a request with status 400: too busy"):
            steps(toy, run)
    assert len(toy.asked) == 1


def test_an_unknown_model_is_named(run: Run) -> None:
    with serving(Toy(names=("other",))) as toy:
        with pytest.raises(UserError, match=r"no model 'toy' but other: set engine.served_model"):
            steps(toy, run)


def test_an_address_that_is_none_is_one_sentence(run: Run) -> None:
    with pytest.raises(UserError, match=r"engine\.base_url: 'localhost:8000/v1' is no address"):
        steps(Toy(url="localhost:8000/v1"), run)


def test_log_probabilities_before_the_filters_are_taken_only_if_allowed(run: Run) -> None:
    hot = Sampling(temperature=0.7)
    with serving(Toy(raw=True)) as toy:
        with pytest.raises(SamplingUnsupportedError, match="processed_logprobs"):
            steps(toy, run, whole(4), sampling=hot)
        _, [result] = steps(toy, run, whole(4), sampling=hot, any_logprobs=True)
        assert len(steps(toy, run, whole(4), sampling=Sampling())[1][0].token_ids) == 4
    path = result.prefix.token_ids[: result.prefix.prompt_length]
    assert result.logprobs[0] == pytest.approx(next_logprobs(path)[result.token_ids[0]], abs=1e-5)


def test_a_server_without_log_probabilities_is_refused(run: Run) -> None:
    with serving(Toy(silent=True)) as toy:
        with pytest.raises(UserError, match="gives no log-probabilities"):
            steps(toy, run)


@pytest.mark.parametrize("toy", [Toy(dialect="llama.cpp"), Toy(completions=False)])
def test_a_server_that_cannot_score_says_so(toy: Toy, run: Run) -> None:
    with serving(toy):
        engine = engine_of(toy, TURNS)
        with pytest.raises(ScoringUnsupportedError):
            run(engine.score([engine.start(PROBLEM)], [np.array([5], np.int32)]))
        run(engine.close())


def test_defaults_of_the_server_do_not_shape_the_policy(run: Run) -> None:
    """Generation settings of a model hold penalties and filters; all of them are set."""
    with serving(Toy()) as toy:
        steps(toy, run, whole(2), sampling=Sampling())
    neutral = {"temperature": 1, "top_p": 1, "top_k": 0, "min_p": 0, "repetition_penalty": 1}
    neutral |= {"presence_penalty": 0, "frequency_penalty": 0}
    assert {name: toy.asked[0][name] for name in neutral} == neutral


def test_the_key_goes_into_a_header_and_nowhere_else(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with serving(Toy(faults=[("status", 401, {})])) as toy:
        monkeypatch.setenv("TOY_KEY", "sesame")
        with pytest.raises(UserError, match="key is read from TOY_KEY") as error:
            steps(toy, run, api_key_env="TOY_KEY")
        assert {h.get("Authorization", h.get("authorization")) for h in toy.headers} == {
            "Bearer sesame"
        }
        monkeypatch.delenv("TOY_KEY")
        toy.headers.clear()
        steps(toy, run, whole(2), api_key_env="TOY_KEY")
        assert not any("uthorization" in name for h in toy.headers for name in h)
    assert "sesame" not in str(error.value) + caplog.text


def test_a_failure_ends_the_other_requests(run: Run) -> None:
    with serving(Toy(faults=[("status", 400, {}), *[("silence", 5, {})] * 3])) as toy:

        async def go() -> None:
            engine = engine_of(toy)
            with pytest.raises(UserError, match="refused"):
                await engine.extend([engine.start(PROBLEM)] * 4, STEPS, GREEDY, [KEY] * 4)
            await engine.close()

        run(asyncio.wait_for(go(), 3))


def test_a_prompt_without_room_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match=r"the prompt of problem p has .* engine\.capacity"):
        engine_of(Toy(url="http://x/v1"), capacity=4).start(PROBLEM)


def test_chat_mode_needs_a_chat_prompt() -> None:
    with pytest.raises(UserError, match=r"needs prompt\.style: chat"):
        engine_of(Toy(url="http://x/v1"), PLAIN, mode="chat")


def test_chats_cannot_go_on_with_a_text_as_it_stands() -> None:
    engine = engine_of(Toy(url="http://x/v1"), TURNS, mode="chat")
    with pytest.raises(PromptUnsupportedError, match="ask by a chat"):
        engine.start(replace(PROBLEM, plain=True))
    assert engine.start(PROBLEM).token_ids.size


def test_a_server_that_turns_out_to_take_chats_alone_is_asked_for_no_text(run: Run) -> None:
    """Nothing is sampled for it, and the chat of the same tokens beside it goes on."""
    with serving(Toy(completions=False, script=["One.\n\n"])) as toy:
        engine = engine_of(toy, TURNS)
        chat = engine.start(PROBLEM)
        text = tokenizer_with_chat().decode(chat.token_ids)
        same = engine.start(Problem("t", text, None, plain=True))
        other = engine.start(replace(PROBLEM, plain=True))
        with pytest.raises(PromptUnsupportedError):
            run(engine.extend([other], STEPS, GREEDY, [KEY]))
        assert toy.asked == []
        assert same.token_ids.tolist() == chat.token_ids.tolist()
        [step] = run(engine.extend([chat], STEPS, GREEDY, [KEY]))
        assert step.text == "One.\n\n"
        run(engine.close())


def test_another_event_loop_is_refused() -> None:
    with serving(Toy()) as toy, asyncio.Runner() as runner:
        engine = engine_of(toy)
        case = case_of(engine, runner.run)
        scores_are_the_models(case)
        with pytest.raises(RuntimeError, match="one event loop"):
            asyncio.run(engine.extend([case.prefix()], whole(3), GREEDY, [KEY]))
        runner.run(engine.close())


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("3", 3.0), (None, None), ("soon", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)],
)
def test_retry_after_gives_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert remote_server._retry_after(header) == seconds


def test_a_stop_ends_the_answer_behind_a_thought(run: Run) -> None:
    """The server is told to stop there too."""
    rule = StoppedRule(think_end="</think>", max_tokens=60, stop=("END",))
    with serving(Toy(script=["a</think>", "So\n\nEND of it all, and more"])) as toy:
        engine = engine_of(toy)
        [thought] = run(engine.extend([engine.start(PROBLEM)], rule, GREEDY, [KEY]))
        [answer] = run(engine.extend([thought.prefix], rule, GREEDY, [KEY]))
        run(engine.close())
    assert thought.text == "a</think>"
    assert answer.text.startswith("So\n\nEND")
    assert "more" not in answer.text
    assert [asked["stop"] for asked in toy.asked] == [["\n\n", "</think>", "END"], ["END"]]

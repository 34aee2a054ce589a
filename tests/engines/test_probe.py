"""How it is found out how a server answers: by streams, as steps ask for them, and by nothing that
says more of the moment than of the server."""

import asyncio
import json
import math
from itertools import cycle
from typing import Any

import pytest
from engine_contract import GREEDY, KEY
from hostile_replies import RULE
from openai_toy import Toy, Verbatim, serving
from test_openai_engine import PLAIN, PROBLEM, TURNS, Run, engine_of, ids, steps

from butwait.engines.engine import PromptTooLongError
from butwait.engines.servers.openai_protocol import CHAT, COMPLETIONS
from butwait.records import UserError

pytestmark = pytest.mark.usefixtures("short_pauses")


def error(status: int, message: str = "no") -> Verbatim:
    return status, {}, json.dumps({"error": {"message": message}}).encode()


def ways(toy: Toy) -> list[str]:
    """The paths that were asked in a probe."""
    return [body["path"].removeprefix("/v1") for body in toy.probes]


def test_a_probe_asks_as_a_step_does(run: Run) -> None:
    for prompt, completions in ((PLAIN, True), (TURNS, False)):
        for seeds in (True, False):
            with serving(Toy(dialect="text", completions=completions, script=["It is 7"])) as toy:
                steps(toy, run, RULE, prompt, seeds=seeds)
            *_, probe = toy.probes
            [step] = toy.asked
            other = {"seed", "max_tokens", "temperature", "top_k", "prompt", "messages", "path"}
            assert probe.keys() - {"path"} == step.keys()
            assert {k: probe[k] for k in probe.keys() - other} == {
                k: step[k] for k in step.keys() - other
            }


@pytest.mark.parametrize("dialect", ["vllm", "llama.cpp", "text"])
def test_what_whole_replies_hold_says_nothing_of_streams(dialect: str, run: Run) -> None:
    """LiteLLM leaves ids and log-probabilities out of streams of completions alone."""
    with serving(Toy(dialect=dialect, whole_only=True, script=["It is 7"])) as toy:
        engine, [step] = steps(toy, run, RULE, TURNS)
        assert (step.text, step.finish, engine._served.path) == ("It is 7", "eos", CHAT)
        assert engine._served.gives_ids == (dialect != "text")
        with pytest.raises(UserError, match="no log-probabilities of its tokens in streams of /co"):
            steps(toy, run, RULE, TURNS, mode="completions")


def test_a_server_that_does_not_know_what_vllm_is_asked_for_is_read_by_its_text(run: Run) -> None:
    with serving(Toy(dialect="text", script=["It is 7"])) as toy:
        engine, [step] = steps(toy, run, RULE)
    served = engine._served
    assert (served.extended, served.gives_ids, served.is_vllm) == (True, False, False)
    assert step.text == "It is 7"
    assert "stop" not in toy.asked[0]


NO_WAY: dict[str, tuple[Verbatim, str]] = {
    "a long prompt (vLLM)": (
        error(400, "This model's maximum context length is 8 tokens. However, you requested 12"),
        "maximum context length is 8",
    ),
    "a long prompt (llama.cpp)": (
        error(400, "the request (12 tokens) exceeds the available context size (8 tokens)"),
        "exceeds the available context size",
    ),
    "a long prompt (OpenAI)": (
        error(400, "context_length_exceeded"),
        "context_length_exceeded",
    ),
    "a long prompt (TGI)": (
        error(422, "Input validation error: `inputs` must have less than 8 tokens. Given: 12"),
        "less than 8 tokens",
    ),
    "a large request": (error(413), "status 413"),
    "no key": (error(401), "key is read from OPENAI_API_KEY, which is empty"),
    "not allowed": (error(403), "key is read from"),
    "no money": (error(402, "pay first"), "status 402: pay first"),
    "no model (vLLM)": (
        error(404, "The model `toy` does not exist."),
        "does not exist.: set engine.served_model",
    ),
    "no model (Ollama)": (
        error(404, 'model "toy" not found, try pulling it first'),
        "set engine.served_model",
    ),
    "no model (LiteLLM)": (
        error(400, "Invalid model name passed in model=toy"),
        "set engine.served_model",
    ),
    "sent on": ((307, {"Location": "https://x.example/v1/completions"}, b""), "x.example/v1"),
    "busy": (error(429, "slow down"), r"slow down; 3 attempts"),
    "starting": (error(503, "loading model"), r"loading model; 3 attempts"),
    "a proxy's own": (error(524, "a timeout occurred"), r"a timeout occurred; 3 attempts"),
}


@pytest.mark.parametrize("name", NO_WAY)
def test_trouble_that_is_not_the_way_of_asking_chooses_no_way(name: str, run: Run) -> None:
    """Though chats would do: the next run must not take another way than this one."""
    fault, sentence = NO_WAY[name]
    with serving(Toy(probe_faults=[fault] * 9)) as toy:
        with pytest.raises(UserError, match=sentence):
            steps(toy, run, RULE, TURNS)
        assert set(ways(toy)) == {COMPLETIONS}
        assert not toy.asked


OF_THE_WAY = {
    "no prompt of ids": error(400, "prompt must be a string"),
    "an unknown field": error(422, "Unexpected fields in the request: {'top_k'}"),
    "no completions": error(404, "Not Found"),
    "a chat model (OpenAI)": error(
        404, "This is a chat model and not supported in the v1/completions endpoint."
    ),
    "not implemented": error(501, "no token ids"),
}


@pytest.mark.parametrize("name", OF_THE_WAY)
def test_what_another_way_may_mend_is_asked_in_it(name: str, run: Run) -> None:
    times = 8 if name == "not implemented" else 2
    faults = [OF_THE_WAY[name]] * times
    if times == 8:  # twice in each way, and again when chats are found to do
        faults[4:4] = [None]  # type: ignore[list-item]
    with serving(Toy(probe_faults=[*faults], script=["It is 7"])) as toy:
        engine, [step] = steps(toy, run, RULE, TURNS)
    assert (engine._served.path, step.text) == (CHAT, "It is 7")


def test_an_error_that_passes_chooses_no_way(run: Run) -> None:
    """A server in trouble fails in one way and then does in another, as it has come to itself."""
    with serving(Toy(probe_faults=[error(500, "out of memory")] * 4, script=["It is 7"])) as toy:
        engine, _ = steps(toy, run, RULE, TURNS)
    assert engine._served.path == COMPLETIONS
    assert ways(toy) == [*[COMPLETIONS] * 4, CHAT, COMPLETIONS]


def test_an_address_where_nothing_is_says_how_one_looks(run: Run) -> None:
    with serving(Toy(models=(404, {}, b""))) as toy:
        toy.probe_faults = [error(404, "Not Found")] * 4
        with pytest.raises(UserError, match=r"Not Found: engine.base_url goes up to and with /v1"):
            steps(toy, run, RULE, TURNS)


def test_a_probe_fits_beside_a_prompt_that_fills_the_context(run: Run) -> None:
    """It asks behind a few tokens of the prompt, not behind all of it."""
    with serving(Toy(context=len(ids(PROBLEM.question)) + 1)) as toy:
        _, [step] = steps(toy, run, RULE)
    assert (len(step.token_ids), step.finish) == (1, "length")
    assert len(toy.probes[0]["prompt"]) <= 8


def test_a_path_that_outgrows_an_unknown_context_says_what_to_set(run: Run) -> None:
    refusal = error(400, "This model's maximum context length is 64 tokens")
    with serving(Toy(verbatim=[refusal])) as toy:
        with pytest.raises(PromptTooLongError, match=r"64 tokens: set engine\.capacity to the s"):
            steps(toy, run, RULE)
    assert len(toy.asked) == 1


def test_steps_wait_for_one_probe(run: Run) -> None:
    async def go(engine: Any) -> None:
        start = engine.start(PROBLEM)
        extends = [engine.extend([start], RULE, GREEDY, [key]) for key in keys]
        await asyncio.gather(*extends)
        await engine.close()

    keys = [KEY.at(particle=i) for i in range(3)]
    with serving(Toy()) as toy:
        run(go(engine_of(toy)))
    assert len(toy.probes) == 1


@pytest.mark.parametrize(
    ("logprobs", "of_the_policy"),
    [
        ([0.0, 0.0, -0.0, 0.0], True),
        ([0.0, -0.6931472, 0.0, -1.0986123], True),  # logits of 16 bits: two tied, three tied
        ([-0.6931, 0.0, 0.0, 0.0], False),
        ([0.0, -0.3, 0.0, 0.0], False),
        ([-1.0, -2.0, -0.5, -0.1], False),
        ([-math.log(9), 0.0, 0.0, 0.0], False),
        ([-900.0, 0.0, 0.0, 0.0], False),
    ],
)
def test_tokens_that_share_the_first_place_are_of_the_policy(
    run: Run, monkeypatch: pytest.MonkeyPatch, logprobs: list[float], of_the_policy: bool
) -> None:
    """vLLM's ``top_k: 1`` keeps all of the same logit, which are not rare in bfloat16."""
    drawn = Toy._sample

    def tied(toy: Toy, path: Any, body: dict[str, Any], rng: Any) -> tuple[int, float]:
        token, logprob = drawn(toy, path, body, rng)
        return token, next(given) if body.get("top_k") == 1 else logprob

    given = cycle(logprobs)
    monkeypatch.setattr(Toy, "_sample", tied)
    with serving(Toy(script=["It is 7"])) as toy:
        engine, _ = steps(toy, run, RULE)
    assert engine._served.of_the_policy == of_the_policy

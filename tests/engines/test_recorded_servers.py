"""What real servers said, as it was recorded, through the engine: tokens, texts, ends and numbers
are those of the model that they served, which is here too.

``scripts/record_server.py`` wrote ``recorded/*.jsonl`` and says how: the engine's own requests
along some paths (``PATHS``), and others (``REQUESTS``). ``llama_cpp`` served the model in a GGUF
file (``scripts/make_tiny_gguf.py``), and keeps keys and values in float16; ``litellm`` is a gateway
before it.
"""

import asyncio
import importlib.util
import re
import sys
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from engine_contract import EngineCase
from replayed_server import recorded, replaying

from butwait.engines.engine import Continuation
from butwait.engines.kinds.openai import OpenAISettings
from butwait.engines.models import load_causal_lm, load_tokenizer
from butwait.engines.servers import remote_server
from butwait.engines.servers.openai_protocol import CHAT, Reply, read, replies
from butwait.engines.servers.remote_server import RefusedError, RemoteServer
from butwait.engines.settings import ModelSettings, Sampling
from butwait.reward_models.kinds.pooling import PoolingSettings
from butwait.reward_models.kinds.qwen_math_prm import QwenMathPrmSettings
from butwait.reward_models.load import load_reward_model

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "record_server.py"
TINY = ModelSettings(name="tiny", device="cpu")
AT_ONCE, IN_PIECES = 2**20, 7
"""Bytes of a reply that arrive at a time: all of them, or such as cut lines and numbers."""
TOLERANCE = {"vllm": 1e-3, "llama_cpp": 5e-3, "litellm": 5e-3}
"""Of log-probabilities, in nats."""

WHOLE = "7 + 8 = 5\n5 - 6 = -1\n\\boxed{-1}"
GROWN = {
    "steps": [("7 + 8 = 5\n", "step"), ("5 - 6 = -1\n", "step"), ("\\boxed{-1}", "box")],
    "whole": [(WHOLE, "eos")],
    "turns": [("7 + 8", "step_limit"), (" = 5\n", "length")],
    "sampled": [("7 + 8 = 5\n", "length")],
    "shaped": [("7 + 8 = 5\n", "length")],
    "full": [("8 + 8 = ", "length")],
}
"""Text and end of each step."""
PREFILLED = {
    ("vllm", "steps"): [15, 21, 27],
    ("vllm", "whole"): [15],
    ("llama_cpp", "steps"): [15, 21, 27],
    ("llama_cpp", "whole"): [15],
}
"""Tokens that count as run for each step: a prompt of 15 and what followed. llama.cpp's cache had
most of them, but it says so behind the step's end, where nobody listens any more."""
SILENT = "gives no log-probabilities of its tokens"
TOLD = "status 400: prompt must be a string"
SENTENCES = {
    ("vllm", "too_long"): "a prompt has 268 tokens, and the server at .* takes 256",
    ("vllm", "unknown"): "has no model 'nobody' but tiny: set engine.served_model",
    ("llama_cpp", "shaped"): "gives log-probabilities before temperature, top-k and top-p",
    ("llama_cpp", "too_long"): "a prompt has 268 tokens, and the server at .* takes 256",
    ("llama_cpp", "unknown"): "has no model 'nobody' but tiny: set engine.served_model",
    ("transformers", "steps"): SILENT,
    ("transformers", "whole"): TOLD,
    ("transformers", "turns"): SILENT,
    ("transformers", "too_long"): TOLD,
    ("transformers", "unknown"): "Server is pinned to 'tiny'; requested 'nobody'",
}


@cache
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record_server", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["record_server"] = module  # where its dataclasses look for it
    spec.loader.exec_module(module)
    return module


def random_prm() -> ModuleType:
    """The test module that makes a random reward model; it lies in another folder."""
    sys.path.append(str(Path(__file__).parents[1] / "reward_models"))
    try:
        return importlib.import_module("test_qwen_prm")
    finally:
        sys.path.pop()


@cache
def model() -> Any:
    return load_causal_lm(TINY)


def next_logprobs(path: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        logits = model()(torch.from_numpy(np.asarray(path, np.int64))[None]).logits[0, -1]
    return logits.float().log_softmax(-1).numpy()


@dataclass(frozen=True)
class Grown:
    """A path that the engine grew out of recorded replies; see ``grown`` in the script."""

    walk: Any
    engine: Any
    steps: list[Continuation]
    score: np.ndarray | None
    error: str | None


def grow(server: str, case: str, piece: int = AT_ONCE) -> Grown:
    walk = script().PATHS[case]
    with replaying(recorded(server)[case], piece) as url:
        engine = script().made(url, walk)
        return Grown(walk, engine, *asyncio.run(script().grown(engine, walk)))


def policy(path: np.ndarray, sampling: Sampling) -> np.ndarray:
    case = EngineCase(None, None, next_logprobs, decode=str, eos_ids=frozenset())
    return case.policy(path, sampling)


def check_tokens(grown: Grown, tolerance: float) -> None:
    """Tokens make up the texts; they are the model's likeliest where they are greedy, and have
    its log-probabilities."""
    tokenizer, sampling = load_tokenizer(TINY), grown.walk.sampling
    for step in grown.steps:
        assert tokenizer.decode(step.token_ids, skip_special_tokens=True) == step.text
        begin = len(step.prefix.token_ids) - len(step.token_ids)
        for i, (token, logprob) in enumerate(zip(step.token_ids, step.logprobs, strict=True)):
            expected = policy(step.prefix.token_ids[: begin + i], sampling)
            assert logprob == pytest.approx(expected[token], abs=tolerance)
            assert sampling.temperature or token == expected.argmax()


@pytest.mark.parametrize("piece", [AT_ONCE, IN_PIECES], ids=["at_once", "in_pieces"])
@pytest.mark.parametrize(
    ("server", "case"),
    [
        *(("vllm", case) for case in GROWN if case != "sampled"),
        *(("llama_cpp", case) for case in GROWN if case != "shaped"),
    ],
)
def test_a_path_is_the_models(server: str, case: str, piece: int) -> None:
    grown = grow(server, case, piece)
    assert [(step.text, step.finish) for step in grown.steps] == GROWN[case]
    check_tokens(grown, TOLERANCE[server])
    sampled = sum(len(step.token_ids) + step.overshoot_tokens for step in grown.steps)
    assert grown.engine.counters.policy_tokens == sampled
    prefilled = [step.prefilled_tokens for step in grown.steps]
    assert prefilled == PREFILLED.get((server, case), prefilled)
    ended = grown.steps[-1].finish == "eos"
    assert (grown.steps[-1].token_ids[-1] == 2) == ended


DIED = {
    "vllm": "EngineCore encountered an issue",
    "llama_cpp": "peer closed connection without sending complete message body",
    "litellm": "litellm.APIConnectionError",
}
"""What is heard of a server that is killed after the first tokens of a path: of vLLM its engine, of
LiteLLM the llama.cpp behind it."""


@pytest.mark.parametrize("server", DIED)
def test_a_path_that_breaks_off_is_none(server: str) -> None:
    walk = script().DIES
    with replaying(recorded(server)["dies"]) as url:
        steps, _, error = asyncio.run(script().grown(script().made(url, walk), walk))
    assert steps == []
    assert f"does not answer ({DIED[server]}" in error


@pytest.mark.parametrize("server", ["vllm", "llama_cpp"])
def test_a_path_that_breaks_off_is_asked_for_again(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_server, "LONGEST_PAUSE_S", 0.01)
    settings = {"mode": "completions", "retries": 1}
    walk = replace(script().PATHS["whole"], settings=settings, scored=False)
    broken = [line for line in recorded(server)["dies"] if (line["body"] or {}).get("seed")]
    with replaying(recorded(server)["whole"], once=broken) as url:
        engine = script().made(url, walk)
        steps, _, error = asyncio.run(script().grown(engine, walk))
    assert (error, broken) == (None, [])
    check_tokens(Grown(walk, engine, steps, None, None), TOLERANCE[server])
    assert [(step.text, step.finish) for step in steps] == GROWN["whole"]
    assert engine.counters.policy_tokens == len(steps[0].token_ids)


def test_a_gateway_that_leaves_numbers_out_of_streams_of_completions_is_asked_by_chats() -> None:
    """Its whole replies have them, so that only a stream shows what a stream holds."""
    walk = script().DIES
    with replaying(recorded("litellm")["dies"]) as url:
        engine = script().made(url, walk)
        asyncio.run(script().grown(engine, walk))
    served = engine._served
    assert (served.path, served.gives_ids, served.is_vllm) == (CHAT, True, False)


def test_half_a_character_that_llama_cpp_leaves_out_is_missed() -> None:
    """It made the two tokens of ½, and gives the second alone, in a stream and at once. So the
    log-probability of the first is not to be had, and what is left is no path."""
    [whole], streamed = ask("llama_cpp", "half"), ask("llama_cpp", "half stream")
    for told in ([whole], streamed):
        assert "".join(reply.text for reply in told) == "½7"
        assert [token for reply in told for token in reply.token_ids or []] == [124, 25, 2]
    exchanges = recorded("llama_cpp")
    said = [*exchanges["whole"], *exchanges["request: half"], *exchanges["request: half stream"]]
    walk = replace(script().PATHS["whole"], question="Calculate 7 + 8.", scored=False)
    with replaying(said) as url:
        steps, _, error = asyncio.run(script().grown(script().made(url, walk), walk))
    if error is None:
        [step] = steps
        assert step.text == "½7"
        assert step.token_ids.tolist() == [*load_tokenizer(TINY).encode("½7"), 2]
        assert not np.isfinite(step.logprobs[:2]).all()


def test_a_path_is_scored_by_vllm_alone() -> None:
    grown = grow("vllm", "whole")
    assert grown.error is None
    np.testing.assert_allclose(grown.score, grown.steps[0].logprobs, atol=1e-5)
    assert "no log-probabilities of given tokens" in grow("llama_cpp", "whole").error


@pytest.mark.parametrize(("server", "case"), SENTENCES)
def test_what_a_server_cannot_is_one_sentence(server: str, case: str) -> None:
    grown = grow(server, case)
    assert grown.steps == []
    assert "\n" not in grown.error
    assert len(grown.error) < 500
    assert re.search(SENTENCES[server, case], grown.error), grown.error


SAYS = "4 + 8 = "
"""Four greedy tokens after ``IDS``, ``TEXT`` and ``SAID`` of the script: 13 tokens."""
ALIKE = ("text", "ids", "ids stream", "chat", "chat stream", "chat silent", "chat silent stream")
REFUSED = {
    ("vllm", "unknown"): (404, "The model `nobody` does not exist"),
    ("vllm", "too long"): (400, "maximum context length is 256 tokens"),
    ("vllm", "beyond"): (400, "Token id 1000000 is out of vocabulary"),
    ("vllm", "negative"): (400, "Input should be greater than or equal to 0"),
    ("vllm", "nothing"): (400, "You must pass at least one prompt"),
    ("vllm", "hot"): (400, "temperature must be non-negative, got -1.0"),
    ("vllm", "nowhere"): (404, "Not Found"),
    ("llama_cpp", "two"): (400, "Field 'n': Value must be between 1 <= value <= 1, but got 2"),
    ("llama_cpp", "too long"): (400, r"\(260 tokens\) exceeds the available context size"),
    ("llama_cpp", "beyond"): (400, "Prompt contains invalid tokens"),
    ("llama_cpp", "negative"): (400, "Prompt contains invalid tokens"),
    ("llama_cpp", "nothing"): (400, '"prompt" must not be empty'),
    ("llama_cpp", "nowhere"): (404, "File Not Found"),
    ("litellm", "unknown"): (400, "Invalid model name passed in model=nobody"),
    ("litellm", "negative"): (400, "Prompt contains invalid tokens"),
    ("transformers", "ids"): (400, "prompt must be a string"),
    ("transformers", "ids stream"): (400, "prompt must be a string"),
    ("transformers", "begun"): (422, "Unexpected fields in the request: .*continue_final_message"),
    ("transformers", "nowhere"): (404, "Not Found"),
}
"""Status and sentence."""


def ask(server: str, name: str, piece: int = AT_ONCE) -> list[Reply]:
    """The answer to a plain request: the events of a stream, or one reply."""
    path, body = script().REQUESTS[name]

    async def go(url: str) -> list[Reply]:
        settings = OpenAISettings(kind="openai", base_url=url, retries=0)
        remote = RemoteServer(settings, url, 1, "engine.base_url")
        try:
            if not body.get("stream"):
                return [read(await remote.json(path, body))]
            async with aclosing(replies(remote, path, body)) as pieces:
                return [piece async for piece in pieces]
        finally:
            await remote.close()

    with replaying(recorded(server)[f"request: {name}"], piece) as url:
        return asyncio.run(go(url))


def likelihoods(path: Sequence[int], token_ids: Sequence[int]) -> list[float]:
    """The model's log-probabilities, in nats, of these tokens after a path."""
    whole = np.array([*path, *token_ids])
    return [next_logprobs(whole[:n])[whole[n]] for n in range(len(path), len(whole))]


@pytest.mark.parametrize("piece", [AT_ONCE, IN_PIECES], ids=["at_once", "in_pieces"])
@pytest.mark.parametrize(
    ("server", "name"),
    [
        *(
            pair
            for pair in product(("vllm", "llama_cpp", "transformers"), ALIKE)
            if pair not in REFUSED
        ),
        ("litellm", "ids"),
        ("litellm", "chat stream"),
    ],
)
def test_a_reply_is_read_in_every_form(server: str, name: str, piece: int) -> None:
    """A completion of text or ids and a chat, streamed and whole."""
    replies = ask(server, name, piece)
    assert "".join(reply.text for reply in replies) == SAYS
    assert [reply.finish for reply in replies if reply.finish] == ["length"]
    assert {reply.prompt_tokens for reply in replies} <= {None, 13}
    logprobs = [value for reply in replies for value in reply.logprobs]
    if "silent" in name or server == "transformers":
        assert logprobs == []
    else:
        expected = likelihoods(script().IDS, load_tokenizer(TINY).encode(SAYS))
        assert logprobs == pytest.approx(expected, abs=TOLERANCE[server])
    ids = [token for reply in replies for token in reply.token_ids or []]
    told = server in ("llama_cpp", "litellm") and "silent" not in name
    assert ids == (load_tokenizer(TINY).encode(SAYS) if told else [])


@pytest.mark.parametrize(("server", "again"), [("vllm", ""), ("llama_cpp", "7 + 8 = ")])
def test_a_turn_that_had_begun_goes_on(server: str, again: str) -> None:
    """llama.cpp says the beginning again, in a reply that is no stream."""
    [reply] = ask(server, "begun")
    assert (reply.text, reply.prompt_tokens) == (f"{again}15\n1", 17)
    begun = load_tokenizer(TINY).encode("7 + 8 = ")
    expected = likelihoods([*script().IDS, *begun], load_tokenizer(TINY).encode("15\n1"))
    assert reply.logprobs == pytest.approx(expected, abs=TOLERANCE[server])


def test_only_vllm_says_at_which_string_it_stopped() -> None:
    [reply] = ask("vllm", "stop")
    assert (reply.text, reply.finish, reply.stop) == ("4 + 8", "stop", " = ")
    [reply] = ask("llama_cpp", "stop")
    assert (reply.text, reply.finish, reply.stop) == ("4 + 8", "stop", None)


def test_a_gateway_leaves_out_of_a_stream_what_it_gives_at_once() -> None:
    """So that a server has to be asked for a stream before it is known what it gives in one."""
    [reply] = ask("litellm", "ids")
    assert reply.token_ids == load_tokenizer(TINY).encode(SAYS)
    replies = ask("litellm", "ids stream")
    assert "".join(reply.text for reply in replies) == SAYS
    assert [(reply.token_ids, list(reply.logprobs)) for reply in replies] == [(None, [])] * 5


def test_the_first_of_two_choices_is_read() -> None:
    [reply] = ask("vllm", "two")
    assert (reply.text, reply.finish) == ("8 + 8 = ", "length")


def test_llama_cpp_takes_any_name_and_any_temperature() -> None:
    """So that no server can be trusted to refuse what is wrong."""
    for name in ("unknown", "hot"):
        [reply] = ask("llama_cpp", name)
        assert reply.text == SAYS


@pytest.mark.parametrize(("server", "name"), REFUSED)
def test_a_refusal_has_the_servers_words(server: str, name: str) -> None:
    status, sentence = REFUSED[server, name]
    with pytest.raises(RefusedError, match=sentence) as refused:
        ask(server, name)
    assert refused.value.status == status
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


def test_scores_of_a_pooling_server_are_those_of_the_model(tmp_path: Path) -> None:
    """vLLM served Qwen2.5-Math-PRM's architecture with tiny random weights."""
    folder = random_prm().save_checkpoint(tmp_path, hidden_size=64)
    settings = {"name": str(folder), "served_model": "prm", "retries": 0}
    with replaying(recorded("vllm_pooling")["pooling"]) as url:
        chosen = PoolingSettings(kind="pooling", base_url=url, **settings)
        scores = script().scored(load_reward_model(chosen, None))
    local = QwenMathPrmSettings(name=str(folder), dtype="float32", device="cpu")
    assert scores == pytest.approx(script().scored(load_reward_model(local, None)), abs=1e-3)
    assert scores == pytest.approx([2.160, 4.717, 0.326], abs=1e-3)

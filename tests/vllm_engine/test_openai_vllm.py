"""The engine behind vLLM's own server, with the package's tiny model in float32 on a CPU."""

import asyncio
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_contract import CHECKS, GREEDY, KEY, EngineCase, whole
from vllm_servers import serving

from butwait.engines.kinds.openai import OpenAISettings, start_openai
from butwait.engines.kinds.transformers import TransformersSettings
from butwait.engines.models import (
    checkpoint_eos_token_ids,
    load_causal_lm,
    load_tokenizer,
    resolve,
)
from butwait.engines.openai import OpenAIEngine
from butwait.engines.servers.openai_protocol import CHAT
from butwait.engines.settings import ModelSettings, StepRule
from butwait.engines.transformers import TransformersEngine
from butwait.problems.settings import PromptSettings
from butwait.records import OPEN, Problem

TINY = ModelSettings(name="tiny", device="cpu")
TURNS = PromptSettings(template="{question}")
PROBLEM = Problem("p", "Compute 3 + 4 - 5 + 6 - 1", None)
QUESTIONS = ("Compute 3 + 4 - 5 + 6 - 1", "Compute 7 + 4", "Compute 1 - 2 + 9 + 9 + 3")
SLOTS = TransformersSettings(slots=8)
TOLERANCE = 1e-3
"""Of log-probabilities in nats: other kernels add up float32 in another order."""

Run = Callable[[Any], Any]


@cache
def tiny() -> tuple[Any, Any]:
    return load_causal_lm(TINY), load_tokenizer(TINY)


@pytest.fixture
def run() -> Iterator[Run]:
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture
def engine(vllm_server: str, run: Run) -> Iterator[OpenAIEngine]:
    made = make(vllm_server)
    yield made
    run(made.close())


def make(url: str, **settings: Any) -> OpenAIEngine:
    chosen = OpenAISettings(**{"kind": "openai", "base_url": url} | settings)
    return start_openai(TINY, tiny()[1], chosen, TURNS)


def next_logprobs(path: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        logits = tiny()[0](torch.from_numpy(np.asarray(path, np.int64))[None]).logits[0, -1]
    return logits.float().log_softmax(-1).numpy()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Callable[[EngineCase], None], engine: OpenAIEngine, run: Run) -> None:
    _, tokenizer = tiny()
    check(
        EngineCase(
            engine=engine,
            problem=PROBLEM,
            next_logprobs=next_logprobs,
            decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
            eos_ids=checkpoint_eos_token_ids(TINY, tokenizer),
            tolerance=TOLERANCE,
            keyed=False,
            capacity=1024,
            exact_prefill=False,
            run=run,
        )
    )


@pytest.mark.parametrize("mode", ["completions", "chat"])
def test_steps_are_those_of_the_in_process_engine(mode: str, vllm_server: str, run: Run) -> None:
    """A chat gives ids too, and its first step follows the same prompt; later ones only where the
    template keeps a turn."""
    rule = StepRule(delimiters=("\n", "=") if mode == "completions" else (), max_tokens=60)
    theirs = make(vllm_server, mode=mode)
    run(_same_steps(theirs, TransformersEngine(*tiny(), SLOTS, TURNS), rule))
    assert theirs._served is not None
    assert (theirs._served.path == CHAT) == (mode == "chat")
    assert theirs._served.gives_ids
    assert theirs._served.of_the_policy
    run(theirs.close())


def test_steps_of_smollm2_are_those_of_the_in_process_engine(tmp_path: Path, run: Run) -> None:
    model = ModelSettings(name="smollm2", device="cpu")
    a_model, tokenizer, folder = load_causal_lm(model), load_tokenizer(model), Path(resolve(model))
    options = ["--logprobs-mode", "processed_logprobs", "--max-model-len", "512"]
    with serving(folder, tmp_path / "server.log", *options) as url:
        settings = OpenAISettings(kind="openai", base_url=url, served_model=folder.name)
        theirs = start_openai(model, tokenizer, settings, TURNS)
        ours = TransformersEngine(a_model, tokenizer, SLOTS, TURNS)
        run(_same_steps(theirs, ours, StepRule(delimiters=("\n", "."), max_tokens=40)))
        run(theirs.close())


async def _same_steps(theirs: OpenAIEngine, ours: TransformersEngine, rule: StepRule) -> None:
    """Greedy paths step by step: tokens, texts, ends and log-probabilities."""
    for question in QUESTIONS:
        problem = Problem(question, question, None)
        a, b = theirs.start(problem), ours.start(problem)
        while True:
            [x] = await theirs.extend([a], rule, GREEDY, [KEY])
            [y] = await ours.extend([b], rule, GREEDY, [KEY])
            np.testing.assert_array_equal(x.token_ids, y.token_ids)
            np.testing.assert_allclose(x.logprobs, y.logprobs, atol=TOLERANCE)
            assert (x.text, x.finish) == (y.text, y.finish)
            a, b = x.prefix, y.prefix
            if x.finish not in OPEN:
                break


def test_a_shared_prompt_comes_from_the_servers_cache(engine: OpenAIEngine, run: Run) -> None:
    """vLLM's blocks hold 128 tokens on a CPU: a prompt of more is found again but for its last."""
    begin = engine.start(Problem("long", "Compute 1 + 2 " * 60, None))
    assert begin.prompt_length > 256
    rule = whole(2)
    run(engine.extend([begin], rule, GREEDY, [KEY]))
    [again] = run(engine.extend([begin], rule, GREEDY, [KEY]))
    assert 0 < again.prefilled_tokens <= 128

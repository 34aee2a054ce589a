"""The vLLM engine in float32 on whatever device this vLLM has."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from engine_contract import CHECKS, GREEDY, KEY, EngineCase, whole
from random_models import COMMON, EOS, tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from butwait.engines.engine import Engine
from butwait.engines.kinds.transformers import TransformersSettings
from butwait.engines.kinds.vllm import VllmSettings, start_vllm
from butwait.engines.models import load_causal_lm, load_tokenizer
from butwait.engines.settings import ModelSettings, Sampling, StepRule
from butwait.engines.transformers import TransformersEngine
from butwait.engines.vllm import VllmEngine, tokens_that_complete
from butwait.problems.answers import box_closed
from butwait.problems.settings import PromptSettings
from butwait.records import Key, Problem, UserError

PLAIN = PromptSettings(style="plain", template="{question}")
PROBLEM = Problem("p", "What is 3 + 4 - 5?", None)
QUESTIONS = ("Compute 3 + 4 - 5 + 6 - 1", "Compute 7 + 4", "Compute 1 - 2 + 9 + 9 + 3")
TOLERANCE = 1e-3
"""Of log-probabilities in nats: other kernels add up float32 in another order."""

Run = Callable[[Any], Any]


@cache
def random_llama() -> Any:
    """Seeded random weights, with heads of a size that vLLM has kernels for."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**COMMON | {"hidden_size": 128})).eval()


def start(name: str, its_tokenizer: Any, prompt: PromptSettings, **settings: Any) -> VllmEngine:
    options = {"enforce_eager": True}
    chosen = VllmSettings(**{"kind": "vllm", "max_rows": 32, "options": options} | settings)
    return start_vllm(ModelSettings(name=name), its_tokenizer, chosen, prompt)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """What the engines of this file live in."""
    with asyncio.Runner() as runner:
        yield runner.get_loop()


@pytest.fixture(scope="module")
def run(loop: asyncio.AbstractEventLoop) -> Run:
    return loop.run_until_complete


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("random_llama")
    random_llama().save_pretrained(made)
    tokenizer().save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def started(folder: Path, run: Run) -> Iterator[VllmEngine]:
    engine = start(str(folder), tokenizer(), PLAIN, capacity=96)
    yield engine
    run(engine.close())


@pytest.fixture
def engine(started: VllmEngine, loop: asyncio.AbstractEventLoop) -> VllmEngine:
    """With counters at zero, and not to be closed for good."""

    class Lent:
        def __getattr__(self, name: str) -> Any:
            return getattr(started._llm, name)

        def shutdown(self) -> None: ...

    fresh = VllmEngine(Lent(), tokenizer(), PLAIN, [EOS], 96)
    fresh._loop = loop
    return fresh


def next_logprobs(path: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        logits = random_llama()(torch.from_numpy(path)[None].long()).logits[0, -1]
    return logits.float().log_softmax(-1).numpy()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Callable[[EngineCase], None], engine: VllmEngine, run: Run) -> None:
    check(
        EngineCase(
            engine=engine,
            problem=PROBLEM,
            next_logprobs=next_logprobs,
            decode=lambda ids: tokenizer().decode(ids, skip_special_tokens=True),
            eos_ids=frozenset([EOS]),
            tolerance=TOLERANCE,
            keyed=False,
            capacity=96,
            exact_prefill=False,
            run=run,
        )
    )


def test_without_seeds_the_same_keys_draw_other_tokens(engine: VllmEngine, run: Run) -> None:
    start, keys = engine.start(PROBLEM), [Key.of(0, i) for i in range(4)]
    rule = StepRule(delimiters=(), max_tokens=20)

    def drawn() -> list[list[int]]:
        steps = run(engine.extend([start] * 4, rule, Sampling(), keys))
        return [step.token_ids.tolist() for step in steps]

    engine._seeds = False
    assert drawn() != drawn()


def test_it_is_an_engine(engine: VllmEngine) -> None:
    assert isinstance(engine, Engine)


@pytest.mark.parametrize(
    "rule",
    [
        StepRule(delimiters=("e", "3"), max_step_tokens=9, max_tokens=60),
        StepRule(delimiters=("\n", "é", " "), max_tokens=40),
        StepRule(delimiters=("e",), sentences=True, think_end="3", max_tokens=60),
    ],
)
def test_steps_are_those_of_the_in_process_engine(
    rule: StepRule, engine: VllmEngine, run: Run
) -> None:
    """Greedy paths step by step: tokens, texts, ends and log-probabilities."""
    ours = TransformersEngine(
        random_llama(), tokenizer(), TransformersSettings(slots=8, capacity=96), PLAIN
    )
    finishes = set()
    for question in ("2 + 2", "Why is the sky blue?", "½ + ½ = ?", "x", "\\boxed{"):
        problem = Problem(question, question, None)
        theirs, mine = engine.start(problem), ours.start(problem)
        while True:
            [a] = run(engine.extend([theirs], rule, GREEDY, [KEY]))
            [b] = run(ours.extend([mine], rule, GREEDY, [KEY]))
            np.testing.assert_array_equal(a.token_ids, b.token_ids)
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=TOLERANCE)
            assert (a.text, a.finish) == (b.text, b.finish)
            theirs, mine = a.prefix, b.prefix
            finishes.add(a.finish)
            if a.finish not in ("step", "step_limit"):
                break
    assert {"step", "length"} <= finishes


def test_a_shared_prompt_is_run_once_but_for_its_last_block(engine: VllmEngine, run: Run) -> None:
    begin = engine.start(Problem("long", "long " * 14, None))
    keys = [KEY.at(particle=i) for i in range(8)]
    results = run(engine.extend([begin] * 8, whole(4), Sampling(), keys))
    n = begin.prompt_length
    tail = n - 32 * ((n - 1) // 32)
    assert sorted(r.prefilled_tokens for r in results) == [tail] * 7 + [n]


def test_what_is_sampled_behind_a_box_is_cut_and_counted(engine: VllmEngine, run: Run) -> None:
    """The same keys with and without the stop at a box; both rules have the same stop ids."""
    plain = StepRule(max_tokens=75, stop_at_box=False)
    boxed = StepRule(max_tokens=75)
    assert engine._stops(plain, "") == engine._stops(boxed, "")
    text = "\\boxed{2"
    begin = engine.start(Problem("b", "x", None)).extended(engine.encode(text), text)
    keys, hot = [KEY.at(particle=i) for i in range(32)], Sampling(temperature=2)
    free = run(engine.extend([begin] * 32, plain, hot, keys))
    before = engine.counters.policy_tokens
    results = run(engine.extend([begin] * 32, boxed, hot, keys))
    for a, b in zip(results, free, strict=True):
        n = len(a.token_ids)
        np.testing.assert_array_equal(a.token_ids, b.token_ids[:n])
        assert (a.finish == "box") == box_closed(text + b.text)
        if a.finish == "box":
            assert not box_closed(text + tokenizer().decode(a.token_ids[:-1]))
            assert 0 <= a.overshoot_tokens <= len(b.token_ids) - n
        else:
            assert (a.finish, a.text, a.overshoot_tokens) == (b.finish, b.text, 0)
    overshoot = sum(r.overshoot_tokens for r in results)
    assert overshoot > 0
    counted = engine.counters.policy_tokens - before
    assert counted == overshoot + sum(len(r.token_ids) for r in results)


@pytest.mark.parametrize("many", [0, 2048], ids=["streamed", "not streamed"])
def test_a_step_goes_on_where_vllm_stopped_for_nothing(
    many: int, engine: VllmEngine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delimiter that never comes, and whose last character comes often."""
    monkeypatch.setattr("butwait.engines.vllm.MANY", many)
    asked = []
    request = engine._request

    def watched(path: np.ndarray, what: dict[str, Any], *, stream: bool) -> Any:
        asked.append((path, dict(what), stream))
        return request(path, what, stream=stream)

    monkeypatch.setattr(engine, "_request", watched)
    begin = engine.start(PROBLEM)
    [at_once] = run(engine.extend([begin], whole(40), GREEDY, [KEY]))
    last = Counter(at_once.text.replace("\ufffd", "")).most_common(1)[0][0]
    rule = whole(40).model_copy(update={"delimiters": ("\x00" + last,)})
    asked.clear()
    [result] = run(engine.extend([begin], rule, GREEDY, [KEY]))
    np.testing.assert_array_equal(result.token_ids, at_once.token_ids)
    np.testing.assert_allclose(result.logprobs, at_once.logprobs, atol=TOLERANCE)
    assert (result.text, result.finish) == (at_once.text, at_once.finish)
    if many == 0:
        [(_, what, streamed)] = asked
        assert (what["stop_token_ids"], streamed) == ([EOS], True)
        return
    assert len(asked) > 2
    path = np.concatenate([begin.token_ids, at_once.token_ids])
    for i, (prompt, what, streamed) in enumerate(asked):
        assert not streamed
        np.testing.assert_array_equal(prompt, path[: len(prompt)])
        assert what["max_tokens"] == 40 - (len(prompt) - len(begin.token_ids))
        assert what["seed"] == (KEY.derive("more", i) if i else KEY).seed32()
        assert i == 0 or int(prompt[-1]) in what["stop_token_ids"]


def test_tokens_that_complete_a_string() -> None:
    pieces = ["\n", "\n\n", ".\n", ".\n\nA", "\n ", "a", "", "\ufffd", "><", ">", "é"]
    assert tokens_that_complete(pieces, ("\n\n",)) == [0, 1, 3, 4]
    assert tokens_that_complete(pieces, ("\n",)) == [0, 1, 2, 3, 4]
    assert tokens_that_complete(pieces, ("a>", ".\n")) == [0, 1, 2, 3, 4, 8, 9]
    assert tokens_that_complete(pieces, (" é",)) == [7, 10]
    assert tokens_that_complete(pieces, ()) == []


def test_stop_ids_are_sent_only_where_a_step_may_end(engine: VllmEngine) -> None:
    rule = StepRule(delimiters=(";",), think_end="a>", stop_at_box=False)
    semicolon, close = (int(engine.encode(c)[0]) for c in ";>")
    assert {EOS, semicolon, close} <= set(engine._stops(rule, "b"))
    assert engine._stops(rule, "ba>") == [EOS]
    assert engine._stops(whole(9), "") == [EOS]


def test_a_cancelled_call_leaves_the_batch(engine: VllmEngine, run: Run) -> None:
    begin = engine.start(PROBLEM)
    states = engine._llm.output_processor.request_states

    async def cancel() -> None:
        keys = [KEY.at(particle=i) for i in range(6)]
        long = asyncio.create_task(engine.extend([begin] * 6, whole(70), Sampling(), keys))
        while len(states) < 6:
            await asyncio.sleep(0)
        long.cancel()
        with pytest.raises(asyncio.CancelledError):
            await long
        while states:
            await asyncio.sleep(0.01)

    run(asyncio.wait_for(cancel(), 30))


def test_a_prompt_without_room_is_the_users_mistake(engine: VllmEngine) -> None:
    with pytest.raises(UserError, match=r"the prompt of problem p has .* engine\.capacity"):
        engine.start(Problem("p", "word " * 96, None))


def test_a_path_too_long_to_score_is_the_users_mistake(engine: VllmEngine, run: Run) -> None:
    with pytest.raises(UserError, match=r"a path of 1\d\d tokens .* holds 96"):
        run(engine.score([engine.start(PROBLEM)], [np.ones(100, np.int32)]))


def test_another_event_loop_is_refused(engine: VllmEngine) -> None:
    with pytest.raises(RuntimeError, match="one event loop"):
        asyncio.run(engine.extend([engine.start(PROBLEM)], whole(3), GREEDY, [KEY]))


def test_a_device_that_this_vllm_has_not_is_the_users_mistake() -> None:
    settings = VllmSettings(kind="vllm")
    with pytest.raises(UserError, match="this vLLM runs on"):
        start_vllm(ModelSettings(name="tiny", device="tpu"), None, settings, PLAIN)


def test_an_option_that_vllm_does_not_know_is_the_users_mistake() -> None:
    settings = VllmSettings(kind="vllm", options={"no_such_option": 1})
    with pytest.raises(UserError, match="no_such_option"):
        start_vllm(ModelSettings(name="tiny"), tokenizer(), settings, PLAIN)


def test_prompts_of_more_tokens_than_a_batch_do_not_end_the_engine(folder: Path, run: Run) -> None:
    """On a CPU, vLLM dies of a seeded request whose prompt it runs in parts."""
    options = {"enforce_eager": True, "max_num_batched_tokens": 512}
    an_engine = start(str(folder), tokenizer(), PLAIN, capacity=512, options=options)
    starts = [an_engine.start(Problem(str(i), f"{i} " * 150, None)) for i in range(9)]
    assert sum(len(start.token_ids) for start in starts) > 2 * 512
    keys = [KEY.at(particle=i) for i in range(9)]
    results = run(an_engine.extend(starts, whole(4), Sampling(), keys))
    lengths = [len(r.token_ids) for r in results if r.finish == "length"]
    assert len(results) == 9
    assert set(lengths) == {4}
    run(an_engine.close())


@pytest.mark.parametrize("name", ["tiny", "smollm2"])
def test_greedy_is_generate_until_the_engine_dies(name: str, run: Run) -> None:
    model = ModelSettings(name=name, device="cpu")
    a_model, its_tokenizer = load_causal_lm(model), load_tokenizer(model)
    an_engine = start(name, its_tokenizer, PromptSettings(template="{question}"))
    starts = [an_engine.start(Problem(q, q, None)) for q in QUESTIONS]
    results = run(an_engine.extend(starts, whole(60), GREEDY, [KEY] * 3))
    for begin, result in zip(starts, results, strict=True):
        ids = torch.from_numpy(begin.token_ids)[None].long()
        mask = torch.ones_like(ids)
        out = a_model.generate(ids, attention_mask=mask, max_new_tokens=60, do_sample=False)
        np.testing.assert_array_equal(result.token_ids, out[0, begin.prompt_length :])
        with torch.inference_mode():
            logits = a_model(out[:, :-1]).logits[0, begin.prompt_length - 1 :]
        chosen = torch.from_numpy(result.token_ids).long()[:, None]
        expected = logits.float().log_softmax(-1).gather(1, chosen)[:, 0]
        np.testing.assert_allclose(result.logprobs, expected, atol=TOLERANCE)
    assert {r.finish for r in results} <= {"eos", "length"}
    _dies_with_a_sentence(an_engine, run)


def _dies_with_a_sentence(an_engine: VllmEngine, run: Run) -> None:
    async def die() -> None:
        begin = an_engine.start(Problem("q", QUESTIONS[0], None))
        rule = StepRule(delimiters=(), max_tokens=900, stop_at_box=False)
        asked = asyncio.create_task(an_engine.extend([begin] * 8, rule, Sampling(), [KEY] * 8))
        await asyncio.sleep(0.05)
        for process in an_engine._llm.engine_core.resources.engine_manager.processes:
            psutil.Process(process.pid).kill()
        with pytest.raises(UserError, match=r"vLLM's engine process died .* engine\.gpu_memory"):
            await asyncio.wait_for(asked, 60)

    run(die())
    run(an_engine.close())

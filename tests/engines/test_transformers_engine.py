"""The in-process engine."""

import asyncio
import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from engine_contract import CHECKS, GREEDY, KEY, EngineCase, whole
from random_models import CONFIGURATIONS, EOS, model, tokenizer
from transformers.integrations import sdpa_attention

from butwait.engines.engine import Continuation, Engine, Prefix
from butwait.engines.kinds.transformers import TransformersSettings
from butwait.engines.models import eos_token_ids, load_causal_lm, load_tokenizer
from butwait.engines.settings import ModelSettings, Sampling, StepRule
from butwait.engines.transformers import TransformersEngine
from butwait.problems.settings import PromptSettings
from butwait.records import Problem, UserError

PLAIN = PromptSettings(style="plain", template="{question}")


def engine(a_model: Any = None, **settings: Any) -> TransformersEngine:
    a_model = model() if a_model is None else a_model
    chosen = TransformersSettings(**{"slots": 8, "prefill_chunk": 8} | settings)
    return TransformersEngine(a_model, tokenizer(), chosen, PLAIN)


def problem(text: str = "What is 3 + 4 - 5?", name: str = "p") -> Problem:
    return Problem(id=name, question=text, answer=None)


def full_logprobs(a_model: Any, token_ids: np.ndarray) -> torch.Tensor:
    """float32 (n, V): log-probabilities of the next token at every position."""
    device = a_model.device
    with torch.inference_mode():
        logits = a_model(torch.from_numpy(token_ids)[None].long().to(device)).logits[0]
    return logits.float().log_softmax(-1).cpu()


def greedy(a_model: Any, prefix: Prefix, tokens: int) -> np.ndarray:
    """The completion of ``generate()``, EOS included."""
    ids = torch.from_numpy(prefix.token_ids)[None].long().to(a_model.device)
    out = a_model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=EOS,
    )
    return out[0, prefix.prompt_length :].cpu().numpy()


@pytest.mark.parametrize("deterministic", [False, True], ids=["normal", "deterministic"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Any, deterministic: bool) -> None:
    check(
        EngineCase(
            engine=engine(deterministic=deterministic, capacity=96),
            problem=problem(),
            next_logprobs=lambda path: full_logprobs(model(), path)[-1].numpy(),
            decode=lambda ids: tokenizer().decode(ids, skip_special_tokens=True),
            eos_ids=frozenset([EOS]),
            capacity=96,
        )
    )


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.0)], ids=["greedy", "drawn"])
def test_weights_that_overflowed_are_one_sentence(sampling: Sampling) -> None:
    broken = copy.deepcopy(model())
    broken.lm_head.weight.data[5] = torch.nan
    an_engine = engine(broken)
    start = an_engine.start(problem())
    with pytest.raises(UserError, match=r"logits are no numbers \(NaN\)"):
        asyncio.run(an_engine.extend([start], whole(4), sampling, [KEY]))


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_greedy_is_generate_for_every_kind_of_model(kind: str) -> None:
    # float64: these random weights amplify float32's rounding to 2e-4 on some processors.
    a_model = model(kind, torch.float64)
    an_engine = engine(a_model)
    starts = [an_engine.start(problem(text)) for text in ("2 + 2", "Why is the sky blue?", "x")]
    keys = [KEY] * 3
    results = asyncio.run(an_engine.extend(starts, whole(40), GREEDY, keys))
    for start, result in zip(starts, results, strict=True):
        np.testing.assert_array_equal(result.token_ids, greedy(a_model, start, 40))
        path = full_logprobs(a_model, result.prefix.token_ids[:-1])[start.prompt_length - 1 :]
        expected = path.gather(1, torch.from_numpy(result.token_ids).long()[:, None])[:, 0]
        np.testing.assert_allclose(result.logprobs, expected, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["tiny", pytest.param("smollm2", marks=pytest.mark.slow)]
)  # fmt: skip
def test_greedy_is_generate_for_the_named_models(name: str) -> None:
    settings = ModelSettings(name=name, device="cpu")
    try:
        a_model, its_tokenizer = load_causal_lm(settings), load_tokenizer(settings)
    except UserError as error:
        pytest.skip(str(error))
    prompt = PromptSettings(template="{question}")
    an_engine = TransformersEngine(a_model, its_tokenizer, TransformersSettings(slots=4), prompt)
    questions = ["Compute 3 + 4 - 5 + 6 - 1", "Compute 7 + 4", "Compute 1 - 2 + 9 + 9 + 3"]
    starts = [an_engine.start(problem(question)) for question in questions]
    results = asyncio.run(an_engine.extend(starts, whole(60), GREEDY, [KEY] * 3))
    for start, result in zip(starts, results, strict=True):
        np.testing.assert_array_equal(result.token_ids, greedy(a_model, start, 60))
        path = full_logprobs(a_model, result.prefix.token_ids[:-1])[start.prompt_length - 1 :]
        expected = path.gather(1, torch.from_numpy(result.token_ids).long()[:, None])[:, 0]
        np.testing.assert_allclose(result.logprobs, expected, atol=1e-4)


async def search(an_engine: Engine, name: str, particles: int, steps: int) -> list[Continuation]:
    """A filter's pattern: extend, resample, release, extend; resampling by the key."""
    rule = StepRule(delimiters=("\n",), max_step_tokens=6, max_tokens=200, stop_at_box=False)
    key = KEY.derive(name)
    prefixes = [an_engine.start(problem(f"Question {name}?"))] * particles
    everything: list[Continuation] = []
    for step in range(steps):
        keys = [key.at(step=step, particle=i) for i in range(len(prefixes))]
        results = await an_engine.extend(prefixes, rule, Sampling(), keys)
        everything += results
        an_engine.release(prefixes)
        alive = [result.prefix for result in results if result.finish in ("step", "step_limit")]
        if not alive:
            break
        chosen = key.derive("resample").at(step=step).uniforms(particles) * len(alive)
        prefixes = [alive[int(i)] for i in chosen]
        kept = {id(prefix) for prefix in prefixes}
        an_engine.release([prefix for prefix in alive if id(prefix) not in kept])
    an_engine.release(prefixes)
    return everything


def bits(results: list[Continuation]) -> list[tuple[Any, ...]]:
    return [
        (r.token_ids.tobytes(), r.logprobs.tobytes(), r.text, r.finish, r.prefilled_tokens)
        for r in results
    ]


async def searches(an_engine: Engine, count: int, together: bool) -> list[list[Continuation]]:
    runs = [search(an_engine, f"s{i}", particles=6, steps=4) for i in range(count)]
    if together:
        return await asyncio.gather(*runs)
    return [await run for run in runs]


def test_deterministic_mode_gives_the_same_bits_in_any_company() -> None:
    """One search at a time, or five at once on too few slots, so that caches are lost."""
    # So few rows that a matrix product takes another path for them than for a chunk.
    settings = {"deterministic": True, "slots": 4, "capacity": 64}
    alone, crowded = engine(**settings), engine(**settings)
    expected = asyncio.run(searches(alone, 5, together=False))
    results = asyncio.run(searches(crowded, 5, together=True))
    assert crowded.lost_handles > 0
    assert crowded.replayed_tokens > 0
    for a, b in zip(expected, results, strict=True):
        assert bits(a) == bits(b)
    assert alone.counters == crowded.counters


@pytest.mark.parametrize("slots", [1, 3, 64])
def test_any_number_of_slots_gives_the_same_tokens(slots: int) -> None:
    """More rows than slots wait; parked caches are given up and run again."""
    expected = asyncio.run(searches(engine(slots=200), 3, together=False))
    an_engine = engine(slots=slots)
    results = asyncio.run(searches(an_engine, 3, together=True))
    for a, b in zip(expected, results, strict=True):
        assert [r.token_ids.tolist() for r in a] == [r.token_ids.tolist() for r in b]
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x.logprobs, y.logprobs, atol=1e-4)
    flat = [result for run in results for result in run]
    assert an_engine.counters.policy_tokens == sum(len(r.token_ids) for r in flat)
    assert an_engine.counters.prefilled_tokens == sum(r.prefilled_tokens for r in flat)
    assert an_engine._slots.free == slots


def test_forks_are_not_run_again() -> None:
    """Sixteen particles over six steps: the prompt is run once, and nothing else."""
    an_engine = engine(slots=40)
    asyncio.run(search(an_engine, "s", particles=16, steps=6))
    prompt = an_engine.start(problem("Question s?"))
    assert an_engine.counters.prefilled_tokens == prompt.prompt_length
    assert an_engine.lost_handles == 0


def test_handles_that_are_never_released_do_not_stop_the_engine() -> None:
    an_engine = engine(slots=4)
    rule = whole(50).model_copy(update={"max_step_tokens": 2})

    async def forgetful() -> None:
        prefixes = [an_engine.start(problem())] * 4
        for step in range(4):
            keys = [KEY.at(step=step, particle=i) for i in range(len(prefixes))]
            results = await an_engine.extend(prefixes, rule, Sampling(), keys)
            prefixes = [result.prefix for result in results] * 2

    asyncio.run(forgetful())
    assert an_engine.lost_handles > 0


def test_a_path_that_ended_holds_no_slot() -> None:
    an_engine = engine()
    results = asyncio.run(an_engine.extend([an_engine.start(problem())], whole(5), GREEDY, [KEY]))
    assert results[0].prefix.handle is None
    assert an_engine._slots.free == 8


def test_a_path_ends_at_the_end_of_the_context() -> None:
    an_engine = engine(capacity=24)
    start = an_engine.start(problem())
    [result] = asyncio.run(an_engine.extend([start], whole(1000), GREEDY, [KEY]))
    assert result.finish == "length"
    assert len(result.prefix.token_ids) == 24
    expected = greedy(model(), start, 24 - start.prompt_length)
    np.testing.assert_array_equal(result.token_ids, expected)


def test_a_prompt_without_room_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match=r"the prompt of problem long has .* engine\.capacity"):
        engine(capacity=24).start(problem("word " * 24, "long"))


def test_a_path_too_long_to_score_is_the_users_mistake() -> None:
    an_engine = engine(capacity=24)
    start = an_engine.start(problem())
    with pytest.raises(UserError, match=r"a path of 1\d\d tokens .* holds 24"):
        asyncio.run(an_engine.score([start], [np.ones(100, np.int32)]))


def test_an_error_in_a_forward_pass_reaches_every_caller_and_the_engine_lives_on() -> None:
    an_engine = engine(slots=4)
    expected = asyncio.run(search(an_engine, "s", 4, 2))
    calls = iter(range(100))
    run = an_engine._slots.decode

    def failing(*args: Any, **more: Any) -> Any:
        if next(calls) == 5:
            raise MemoryError("no room")
        return run(*args, **more)

    an_engine._slots.decode = failing  # type: ignore[method-assign]

    async def three() -> list[Any]:
        runs = [search(an_engine, f"s{i}", 4, 6) for i in range(3)]
        return await asyncio.gather(*runs, return_exceptions=True)

    assert [str(error) for error in asyncio.run(three())] == ["no room"] * 3
    assert an_engine._slots.free == 4
    again = asyncio.run(search(an_engine, "s", 4, 2))
    assert [r.token_ids.tolist() for r in again] == [r.token_ids.tolist() for r in expected]


def test_a_cancelled_call_leaves_the_batch() -> None:
    """At once, whether its rows are being decoded or wait; others do not notice."""
    an_engine = engine(slots=4)

    async def cancel_one() -> list[Continuation]:
        start = an_engine.start(problem())
        keys = [KEY.at(particle=i) for i in range(6)]
        long = asyncio.create_task(an_engine.extend([start] * 6, whole(400), Sampling(), keys))
        while an_engine._slots.free:
            await asyncio.sleep(0)
        long.cancel()
        with pytest.raises(asyncio.CancelledError):
            await long
        assert an_engine._slots.free == 4
        return await search(an_engine, "kept", 2, 4)

    results = asyncio.run(cancel_one())
    expected = asyncio.run(search(engine(), "kept", 2, 4))
    assert [r.token_ids.tolist() for r in results] == [r.token_ids.tolist() for r in expected]


def test_a_cancelled_call_keeps_nothing_of_rows_that_had_finished() -> None:
    an_engine = engine(slots=8)
    start = an_engine.start(problem())

    async def cancel_late() -> None:
        rule = StepRule(delimiters=(), max_tokens=400, max_step_tokens=2, stop_at_box=False)
        keys = [KEY.at(particle=i) for i in range(20)]
        call = asyncio.create_task(an_engine.extend([start] * 20, rule, Sampling(), keys))
        calls = an_engine._batcher._calls
        while all(waiting.unfinished == 20 for waiting in calls):
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(cancel_late())
    assert an_engine._slots.free == 8


def test_work_left_over_by_an_event_loop_that_died_is_dropped() -> None:
    an_engine = engine(slots=4)

    async def die() -> None:
        left_over = asyncio.create_task(search(an_engine, "s", 6, 50))
        await asyncio.sleep(0.01)
        assert not left_over.done()
        raise KeyError("the caller's own mistake")

    with pytest.raises(KeyError):
        asyncio.run(die())
    results = asyncio.run(search(an_engine, "s", 4, 2))
    expected = asyncio.run(search(engine(), "s", 4, 2))
    assert [r.token_ids.tolist() for r in results] == [r.token_ids.tolist() for r in expected]
    asyncio.run(an_engine.close())
    assert an_engine._slots.free == 4


def test_a_second_thread_is_told_that_the_engine_is_at_work() -> None:
    an_engine = engine(slots=4)
    expected = asyncio.run(search(an_engine, "s", 4, 2))
    begun, goes_on, run = threading.Event(), threading.Event(), an_engine._slots.decode

    def slow(*args: Any, **more: Any) -> Any:
        begun.set()
        assert goes_on.wait(60)
        return run(*args, **more)

    an_engine._slots.decode = slow  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(lambda: asyncio.run(search(an_engine, "s", 4, 2)))
        assert begun.wait(60)
        with pytest.raises(UserError, match="at work in another thread's event loop"):
            asyncio.run(search(an_engine, "t", 4, 2))
        goes_on.set()
        assert [r.token_ids.tolist() for r in first.result()] == [
            r.token_ids.tolist() for r in expected
        ]
    assert an_engine._slots.free == 4
    assert len(asyncio.run(search(an_engine, "t", 4, 2))) == 8


@pytest.mark.parametrize("deterministic", [False, True], ids=["normal", "deterministic"])
def test_numbers_that_are_none_do_not_outlive_their_path(deterministic: bool) -> None:
    """Blocks are used again; what lies behind a mask in them is multiplied by 0."""
    a_model = copy.deepcopy(model())
    a_model.model.embed_tokens.weight.data[tokenizer().encode("Z")[0]] = torch.nan
    an_engine = engine(a_model, deterministic=deterministic)

    def tokens(question: str) -> list[int]:
        rule, greedily = whole(5), Sampling(temperature=0)
        start = an_engine.start(problem(question, question))
        (made,) = asyncio.run(an_engine.extend([start], rule, greedily, [KEY]))
        an_engine.release([made.prefix])
        return made.token_ids.tolist()

    expected = tokens("What is 3 + 4 - 5?")
    with pytest.raises(UserError, match="no numbers"):
        tokens("What is Z, and some more text to fill blocks with?")
    for _ in range(3):
        assert tokens("What is 3 + 4 - 5?") == expected


def test_a_long_step_draws_from_its_own_uniform_numbers_throughout() -> None:
    an_engine = engine()
    start = an_engine.start(problem())
    keys = [KEY.at(particle=i) for i in range(16)]
    results = asyncio.run(an_engine.extend([start] * 16, whole(200), Sampling(), keys))
    assert max(len(result.token_ids) for result in results) > 128
    for key, result in zip(keys, results, strict=True):
        path = full_logprobs(model(), result.prefix.token_ids[:-1])[start.prompt_length - 1 :]
        cdf = path.double().exp().cumsum(1).numpy()
        rows = np.arange(len(result.token_ids))
        u = key.uniforms(len(rows))
        assert (u <= cdf[rows, result.token_ids] + 1e-5).all()
        assert (u >= np.pad(cdf, ((0, 0), (1, 0)))[rows, result.token_ids] - 1e-5).all()


def test_closing_answers_who_still_waits() -> None:
    an_engine = engine(slots=4)

    async def close_early() -> None:
        waiting = asyncio.create_task(search(an_engine, "s", 6, 50))
        await asyncio.sleep(0.01)
        await an_engine.close()
        with pytest.raises(RuntimeError, match="the engine was closed"):
            await waiting

    asyncio.run(close_early())


def test_calls_with_different_rules_and_sampling_share_a_batch() -> None:
    an_engine = engine()
    start = an_engine.start(problem())
    asks = [
        (whole(9), Sampling(temperature=0.7, top_k=20)),
        (whole(100).model_copy(update={"max_step_tokens": 80}), Sampling(temperature=0.9)),
        (StepRule(delimiters=("e",), max_tokens=60), Sampling(top_p=0.8)),
        (whole(70), GREEDY),
    ]

    async def together() -> list[list[Continuation]]:
        return await asyncio.gather(
            *(an_engine.extend([start], rule, sampling, [KEY]) for rule, sampling in asks)
        )

    for (rule, sampling), [result] in zip(asks, asyncio.run(together()), strict=True):
        [alone] = asyncio.run(an_engine.extend([start], rule, sampling, [KEY]))
        np.testing.assert_array_equal(alone.token_ids, result.token_ids)
        assert alone.finish == result.finish


def test_bfloat16_runs_and_scores_in_float32() -> None:
    """As near to the exact scores of its weights as a pass of the whole path."""
    half = model("llama", torch.bfloat16)
    an_engine = engine(half)
    start = an_engine.start(problem())
    [result] = asyncio.run(an_engine.extend([start], whole(12), Sampling(), [KEY]))

    def scores(its: Any) -> np.ndarray:
        path = full_logprobs(its, result.prefix.token_ids[:-1])[start.prompt_length - 1 :]
        return path.gather(1, torch.from_numpy(result.token_ids).long()[:, None])[:, 0].numpy()

    exact = scores(copy.deepcopy(half).double())
    assert result.logprobs.dtype == np.float32
    assert np.abs(result.logprobs - exact).mean() < 1.5 * np.abs(scores(half) - exact).mean()


@pytest.mark.parametrize("kind", ["llama", "mistral, window of 8"])
def test_grouped_heads_give_the_numbers_of_repeated_ones(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a card, where they are asked for; the library's own choice comes back."""
    choice = sdpa_attention.use_gqa_in_sdpa

    def completions() -> list[Continuation]:
        an_engine = engine(model(kind, torch.float64))
        starts = [an_engine.start(problem(text)) for text in ("2 + 2", "Why is the sky blue?")]
        return asyncio.run(an_engine.extend(starts, whole(24), GREEDY, [KEY] * 2))

    results = [completions()]
    widths: list[int] = []
    monkeypatch.setattr(
        "butwait.engines.kv.passes.shares_heads", lambda model, tokens: not widths.append(tokens)
    )
    results.append(completions())
    assert widths.count(1) >= 24
    for repeated, shared in zip(*results, strict=True):
        np.testing.assert_array_equal(repeated.token_ids, shared.token_ids)
        np.testing.assert_allclose(repeated.logprobs, shared.logprobs, atol=1e-5)
    assert sdpa_attention.use_gqa_in_sdpa is choice


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["llama", "gemma3, full and window of 8"])
def test_greedy_on_cuda_is_generate(kind: str) -> None:
    on_cuda = copy.deepcopy(model(kind)).to("cuda")
    an_engine = engine(on_cuda)
    starts = [an_engine.start(problem(text)) for text in ("2 + 2", "Why is the sky blue?", "x")]
    results = asyncio.run(an_engine.extend(starts, whole(40), GREEDY, [KEY] * 3))
    for start, result in zip(starts, results, strict=True):
        np.testing.assert_array_equal(result.token_ids, greedy(on_cuda, start, 40))


def test_eos_is_what_the_model_or_the_tokenizer_names() -> None:
    tokenizer_with_eos = SimpleNamespace(eos_token_id=9)
    assert eos_token_ids((5, 7), tokenizer_with_eos) == {5, 7, 9}
    assert eos_token_ids(None, tokenizer_with_eos) == {9}

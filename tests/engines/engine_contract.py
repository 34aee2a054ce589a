"""What every engine has to do, as checks that run over any of them.

A test module makes an ``EngineCase`` and runs every check of ``CHECKS`` on a fresh one:

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_contract(check):
        check(EngineCase(...))

An engine that lives in one event loop, or costs half a minute to start, comes with the ``run`` of
its loop; ``nothing_to_do_is_fine``, which closes it, is the last check.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from butwait.engines.engine import Continuation, Engine, Prefix
from butwait.engines.settings import Sampling, StepRule
from butwait.records import COMPLETE, Key, Problem

GREEDY = Sampling(temperature=0)
KEY = Key.of(0, "contract")


@dataclass(frozen=True)
class EngineCase:
    """An engine and what is known of its policy.

    Attributes:
        engine: fresh.
        problem: its greedy completion has at least eight tokens.
        next_logprobs: float (V,): the exact untempered log-probabilities after a path's tokens,
            prompt included.
        decode: the text of a whole completion, special tokens left out.
        eos_ids: ids that end a completion.
        tolerance: of log-probabilities, in nats.
        keyed: whether a token is the inverse CDF of its key's uniform number.
        capacity: tokens of a path at most, prompt included; None: no bound.
        exact_prefill: whether exactly those tokens are prefilled that no earlier call ran. An
            engine with a prefix cache of its own runs at least the last block again.
        run: runs a coroutine to its end.
    """

    engine: Engine
    problem: Problem
    next_logprobs: Callable[[np.ndarray], np.ndarray]
    decode: Callable[[np.ndarray], str]
    eos_ids: frozenset[int]
    tolerance: float = 1e-4
    keyed: bool = True
    capacity: int | None = None
    exact_prefill: bool = True
    run: Callable[[Coroutine[Any, Any, Any]], Any] = asyncio.run

    def prefix(self) -> Prefix:
        return self.engine.start(self.problem)

    def extend(
        self,
        prefixes: list[Prefix],
        rule: StepRule,
        sampling: Sampling = GREEDY,
        keys: list[Key] | None = None,
    ) -> list[Continuation]:
        keys = keys or [KEY.at(particle=i) for i in range(len(prefixes))]
        return self.run(self.engine.extend(prefixes, rule, sampling, keys))

    def policy(self, token_ids: np.ndarray, sampling: Sampling) -> np.ndarray:
        """float64 (V,): log-probabilities of the policy that is sampled: tempered, then the
        ``top_k`` likeliest, then of those the fewest that make up ``top_p``."""
        logprobs = self.next_logprobs(token_ids).astype(np.float64)
        if sampling.temperature == 0:
            return logprobs
        scaled = logprobs / sampling.temperature
        order = np.argsort(-scaled, kind="stable")
        if sampling.top_k:
            scaled[order[sampling.top_k :]] = -np.inf
        scaled -= np.logaddexp.reduce(scaled)
        before = np.cumsum(np.exp(scaled[order])) - np.exp(scaled[order])
        scaled[order[before >= sampling.top_p]] = -np.inf
        return scaled - np.logaddexp.reduce(scaled)


def whole(tokens: int) -> StepRule:
    """The whole completion as one step, stopped by EOS and the limit only."""
    return StepRule(delimiters=(), max_tokens=tokens, stop_at_box=False)


def greedy_takes_the_likeliest_token(case: EngineCase) -> None:
    [result] = case.extend([case.prefix()], whole(16))
    path = case.prefix().token_ids
    for token, logprob in zip(result.token_ids, result.logprobs, strict=True):
        logprobs = case.next_logprobs(path)
        assert logprobs[token] >= logprobs.max() - case.tolerance
        assert logprob == pytest.approx(logprobs[token], abs=case.tolerance)
        path = np.append(path, token)


def sampled_tokens_have_the_policys_logprobs(case: EngineCase) -> None:
    _check_draws(case, Sampling(temperature=0.7))


def filters_shape_the_policy(case: EngineCase) -> None:
    """Top-k comes before top-p, whose share is of what top-k left."""
    _check_draws(case, Sampling(temperature=1.2, top_k=4, top_p=0.7))


def _check_draws(case: EngineCase, sampling: Sampling) -> None:
    results = case.extend([case.prefix()] * 6, whole(12), sampling)
    for i, result in enumerate(results):
        path = case.prefix().token_ids
        uniforms = KEY.at(particle=i).uniforms(len(result.token_ids))
        for token, logprob, u in zip(result.token_ids, result.logprobs, uniforms, strict=True):
            policy = case.policy(path, sampling)
            assert logprob == pytest.approx(policy[token], abs=case.tolerance)
            if case.keyed:
                cdf = np.exp(policy).cumsum()
                below = cdf[token - 1] if token else 0.0
                assert below - 1e-4 <= u * cdf[-1] <= cdf[token] + 1e-4
            path = np.append(path, token)


def a_result_is_whole(case: EngineCase) -> None:
    """Types, lengths, and a prefix that is the given one and its continuation."""
    given = case.prefix()
    for result in case.extend([given] * 3, whole(8), Sampling()):
        assert result.token_ids.dtype == np.int32
        assert result.logprobs.dtype == np.float32
        assert len(result.logprobs) == len(result.token_ids) <= 8
        assert result.prefix.prompt_length == given.prompt_length
        joined = np.concatenate([given.token_ids, result.token_ids])
        np.testing.assert_array_equal(result.prefix.token_ids, joined)
        assert result.prefix.text == result.text
        assert (result.finish == "eos") == (int(result.token_ids[-1]) in case.eos_ids)


def steps_join_to_the_path(case: EngineCase) -> None:
    """Cut into steps, the same tokens and the text of the whole, characters across steps too."""
    [at_once] = case.extend([case.prefix()], whole(20))
    rule = whole(20).model_copy(update={"max_step_tokens": 3})
    prefix, results = case.prefix(), []
    while not results or results[-1].finish == "step_limit":
        [result] = case.extend([prefix], rule)
        results.append(result)
        prefix = result.prefix
    np.testing.assert_array_equal(
        np.concatenate([result.token_ids for result in results]), at_once.token_ids
    )
    assert [len(result.token_ids) for result in results[:-1]] == [3] * (len(results) - 1)
    assert results[-1].finish == at_once.finish
    completion = at_once.token_ids[: -1 if at_once.finish == "eos" else None]
    text = "".join(result.text for result in results)
    assert text == at_once.text == prefix.text == case.decode(completion)


def a_delimiter_ends_a_step(case: EngineCase) -> None:
    [at_once] = case.extend([case.prefix()], whole(20))
    delimiter = at_once.text[len(at_once.text) // 2]
    rule = whole(20).model_copy(update={"delimiters": (delimiter,)})
    [result] = case.extend([case.prefix()], rule)
    assert result.finish == "step"
    assert delimiter in result.text
    assert delimiter not in case.decode(result.token_ids[:-1])
    assert at_once.text.startswith(result.text)


def a_path_ends_at_its_limit(case: EngineCase) -> None:
    rule = whole(5)
    [result] = case.extend([case.prefix()], rule)
    assert result.finish == "length"
    assert len(result.token_ids) == 5
    [beyond] = case.extend([result.prefix], rule)
    assert beyond.finish == "length"
    assert (len(beyond.token_ids), len(beyond.logprobs), beyond.text) == (0, 0, "")
    np.testing.assert_array_equal(beyond.prefix.token_ids, result.prefix.token_ids)


def the_context_bounds_a_path(case: EngineCase) -> None:
    """With room for three tokens more it ends truncated, and can still be scored; with none,
    nothing is drawn."""
    if case.capacity is None:
        return
    start, rule = case.prefix(), whole(10 * case.capacity)
    [first] = case.extend([start], whole(8))
    filler = np.resize(first.token_ids[:7], case.capacity - 3 - start.prompt_length)
    path = np.concatenate([start.token_ids, filler]).astype(np.int32)
    full = Prefix(path, start.prompt_length, case.decode(filler))
    [result] = case.extend([full], rule)
    ended = int(result.token_ids[-1]) in case.eos_ids
    assert (result.finish, len(result.token_ids)) == ("length", 3) or ended
    assert len(result.prefix.token_ids) <= case.capacity
    [score] = case.run(case.engine.score([full], [result.token_ids]))
    np.testing.assert_allclose(score, result.logprobs, atol=5 * case.tolerance)
    if not ended:
        [beyond] = case.extend([result.prefix], rule)
        assert (beyond.finish, len(beyond.token_ids), beyond.text) == ("length", 0, "")


def a_result_depends_on_prefix_and_key_alone(case: EngineCase) -> None:
    keys = [KEY.at(step=1, particle=i) for i in range(5)]
    together = case.extend([case.prefix()] * 5, whole(8), Sampling(), keys)
    for i in (4, 0):
        [alone] = case.extend([case.prefix()], whole(8), Sampling(), [keys[i]])
        np.testing.assert_array_equal(alone.token_ids, together[i].token_ids)


def a_prefix_can_be_extended_again_and_without_its_handle(case: EngineCase) -> None:
    """Several extensions of one prefix are independent; a released handle changes nothing."""
    rule = whole(12).model_copy(update={"max_step_tokens": 4})
    [first] = case.extend([case.prefix()], rule)
    [before] = case.extend([first.prefix], rule)
    forks = case.extend([first.prefix] * 3, rule)
    case.engine.release([first.prefix, before.prefix])
    case.engine.release([first.prefix])
    [after] = case.extend([first.prefix], rule)
    bare = Prefix(first.prefix.token_ids, first.prefix.prompt_length, first.prefix.text)
    [without] = case.extend([bare], rule)
    for result in (*forks, after, without):
        np.testing.assert_array_equal(result.token_ids, before.token_ids)
        np.testing.assert_allclose(result.logprobs, before.logprobs, atol=case.tolerance)


def scores_are_the_models(case: EngineCase) -> None:
    rule = whole(12).model_copy(update={"max_step_tokens": 4})
    steps = case.extend([case.prefix()] * 3, rule, Sampling())
    prefixes = [case.prefix(), steps[0].prefix, steps[1].prefix]
    given = [np.concatenate([s.token_ids, s.token_ids[:2]]).astype(np.int32) for s in steps]
    given[2] = given[2][:0]
    scores = case.run(case.engine.score(prefixes, given))
    for prefix, tokens, score in zip(prefixes, given, scores, strict=True):
        assert score.dtype == np.float32
        expected, path = [], prefix.token_ids
        for token in tokens:
            expected.append(case.next_logprobs(path)[token])
            path = np.append(path, token)
        np.testing.assert_allclose(score, expected, atol=case.tolerance)


def scoring_does_not_disturb_sampling(case: EngineCase) -> None:
    """In one batch both give what they give alone."""
    rule, sampling = whole(6), Sampling(temperature=0.7)
    [greedy] = case.extend([case.prefix()], rule)
    keys = [KEY.at(particle=i) for i in range(3)]
    expected = case.extend([case.prefix()] * 3, rule, sampling, keys)

    async def both() -> tuple[list[Continuation], list[np.ndarray]]:
        prefixes = [case.prefix()] * 3
        steps = case.engine.extend(prefixes, rule, sampling, keys)
        scores = case.engine.score(prefixes, [greedy.token_ids] * 3)
        return tuple(await asyncio.gather(steps, scores))

    steps, scores = case.run(both())
    for step, alone in zip(steps, expected, strict=True):
        np.testing.assert_array_equal(step.token_ids, alone.token_ids)
        np.testing.assert_allclose(step.logprobs, alone.logprobs, atol=case.tolerance)
    for score in scores:
        np.testing.assert_allclose(score, greedy.logprobs, atol=case.tolerance)


def tokens_are_counted(case: EngineCase) -> None:
    """The counters are the sums of the results, and a shared prompt is run once."""
    prompt = case.prefix()
    rule = whole(9).model_copy(update={"max_step_tokens": 3})
    results = case.extend([prompt] * 4, rule, Sampling())
    open_ = [result.prefix for result in results if result.finish not in COMPLETE]
    results += case.extend(open_, rule)
    counters, prefilled = case.engine.counters, [r.prefilled_tokens for r in results]
    sampled = sum(len(r.token_ids) + r.overshoot_tokens for r in results)
    assert counters.policy_tokens == sampled
    assert counters.prefilled_tokens == sum(prefilled)
    if case.exact_prefill:
        assert sum(prefilled[:4]) == sum(prefilled) == len(prompt.token_ids)
    else:
        starts = [prompt] * 4 + open_
        assert all(0 < n <= len(p.token_ids) for n, p in zip(prefilled, starts, strict=True))


def a_text_can_be_put_in(case: EngineCase) -> None:
    """Behind a path that has ended: it becomes tokens of the path, run and not sampled."""
    [first] = case.extend([case.prefix()], whole(3))
    token_ids = case.engine.encode(" 12")
    assert token_ids.dtype == np.int32
    assert len(token_ids) > 0
    longer = first.prefix.extended(token_ids, " 12")
    np.testing.assert_array_equal(longer.token_ids[-len(token_ids) :], token_ids)
    assert case.decode(longer.token_ids[longer.prompt_length :]) == longer.text
    [second] = case.extend([longer], whole(30))
    path = longer.token_ids
    for token, logprob in zip(second.token_ids, second.logprobs, strict=True):
        assert logprob == pytest.approx(case.next_logprobs(path)[token], abs=case.tolerance)
        path = np.append(path, token)
    assert second.prefilled_tokens == len(longer.token_ids)
    np.testing.assert_array_equal(second.prefix.token_ids, path)


def nothing_to_do_is_fine(case: EngineCase) -> None:
    assert case.extend([], whole(5)) == []
    case.engine.release([case.prefix()])
    case.run(case.engine.close())


CHECKS: list[Callable[[EngineCase], None]] = [
    greedy_takes_the_likeliest_token,
    sampled_tokens_have_the_policys_logprobs,
    filters_shape_the_policy,
    a_result_is_whole,
    steps_join_to_the_path,
    a_delimiter_ends_a_step,
    a_path_ends_at_its_limit,
    the_context_bounds_a_path,
    a_result_depends_on_prefix_and_key_alone,
    a_prefix_can_be_extended_again_and_without_its_handle,
    scores_are_the_models,
    scoring_does_not_disturb_sampling,
    tokens_are_counted,
    a_text_can_be_put_in,
    nothing_to_do_is_fine,
]

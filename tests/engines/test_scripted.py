"""The scripted engine: exact probabilities, real token ids, honest stops and counts."""

import asyncio

import numpy as np
import pytest
from engine_contract import CHECKS, EngineCase

from butwait.engines.engine import Continuation, Engine, Prefix
from butwait.engines.scripted import EOS, ScriptedEngine, ScriptedTokenizer, sampled
from butwait.engines.settings import Sampling, StepRule
from butwait.records import Key, Problem, UserError
from scripted_paths import scripted_paths

PROBLEM = Problem("p", "Was ist ½ + ½?", None)
TABLE = {
    "": {"a": 0.5, "b\n": 0.3, "\\boxed{1}": 0.2},
    "a": {"\n": 0.4, "a": 0.6},
    "a\n": {EOS: 1.0},
    "aa": {"\n": 0.25, EOS: 0.75},
    "aa\n": {"a": 1.0},
    "b\n": {"a": 0.9, EOS: 0.1},
    "b\na": {"a": 1.0},
}
RULE = StepRule(delimiters=("\n",), max_tokens=3)


def extend(
    engine: ScriptedEngine,
    prefixes: list[Prefix],
    keys: list[Key],
    rule: StepRule = RULE,
    sampling: Sampling | None = None,
) -> list[Continuation]:
    return asyncio.run(engine.extend(prefixes, rule, sampling or Sampling(), keys))


def after(engine: ScriptedEngine, *pieces: str) -> Prefix:
    """The prefix of PROBLEM and these pieces."""
    start = engine.start(PROBLEM)
    ids = np.array([engine.tokenizer.id(piece) for piece in pieces], np.int32)
    return Prefix(np.concatenate([start.token_ids, ids]), start.prompt_length, "".join(pieces))


WORDS = ["so ", "3", "é", "+\n", "x"]


def rotating(question: str, text: str) -> dict[str, float]:
    """Every word may come next; which is likeliest changes with the length of the text."""
    shares = np.roll([0.4, 0.25, 0.15, 0.1, 0.05], len(question) + 2 * len(text))
    return {**dict(zip(WORDS, shares.tolist(), strict=True)), EOS: 0.05}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check) -> None:
    engine = ScriptedEngine(rotating, WORDS)
    tokenizer, prompt = engine.tokenizer, engine.start(PROBLEM).prompt_length

    def next_logprobs(token_ids: np.ndarray) -> np.ndarray:
        logprobs = np.full(len(tokenizer), -np.inf)
        text = tokenizer.decode(token_ids[prompt:].tolist())
        if tokenizer.eos_token_id not in token_ids[prompt:]:
            for word, share in rotating(PROBLEM.question, text).items():
                logprobs[tokenizer.id(word)] = np.log(share)
        return logprobs

    def decode(token_ids: np.ndarray) -> str:
        return tokenizer.decode(token_ids.tolist())

    check(EngineCase(engine, PROBLEM, next_logprobs, decode, frozenset({0}), tolerance=1e-6))


def test_it_is_an_engine() -> None:
    assert isinstance(ScriptedEngine(TABLE), Engine)


def test_all_paths_by_hand() -> None:
    paths = scripted_paths(ScriptedEngine(TABLE), PROBLEM, RULE)
    listed = {(path.steps, path.finish): path.probability for path in paths}
    assert listed == {
        (("a\n", ""), "eos"): pytest.approx(0.5 * 0.4),
        (("aa\n",), "length"): pytest.approx(0.5 * 0.6 * 0.25),
        (("aa",), "eos"): pytest.approx(0.5 * 0.6 * 0.75),
        (("b\n", "aa"), "length"): pytest.approx(0.3 * 0.9),
        (("b\n", ""), "eos"): pytest.approx(0.3 * 0.1),
        (("\\boxed{1}",), "box"): pytest.approx(0.2),
    }


def test_paths_under_other_limits() -> None:
    engine = ScriptedEngine(TABLE)
    short = scripted_paths(
        engine, PROBLEM, RULE.model_copy(update={"max_step_tokens": 1}), max_steps=1
    )
    assert {(path.steps, path.finish) for path in short} == {
        (("a",), "step_limit"),
        (("b\n",), "step"),
        (("\\boxed{1}",), "box"),
    }
    greedy = scripted_paths(engine, PROBLEM, RULE, Sampling(temperature=0))
    assert [(path.steps, path.probability) for path in greedy] == [(("aa",), 1.0)]


def test_draws_have_the_listed_frequencies_and_log_probabilities() -> None:
    engine = ScriptedEngine(TABLE)
    start = engine.start(PROBLEM)
    keys = [Key.of(0, "draw", i) for i in range(8_000)]
    drawn = extend(engine, [start] * len(keys), keys)
    expected = {
        ("a\n", "step"): 0.2,
        ("aa\n", "length"): 0.075,
        ("aa", "eos"): 0.225,
        ("b\n", "step"): 0.3,
        ("\\boxed{1}", "box"): 0.2,
    }
    seen = [(c.text, c.finish) for c in drawn]
    assert set(seen) == set(expected)
    for outcome, p in expected.items():
        error = np.sqrt(p * (1 - p) / len(keys))
        assert seen.count(outcome) / len(keys) == pytest.approx(p, abs=4.5 * error)
    for continuation, outcome in zip(drawn, seen, strict=True):
        assert np.exp(continuation.logprobs.sum()) == pytest.approx(expected[outcome], rel=1e-6)


def test_tokens_are_drawn_by_inverse_cdf_in_the_order_of_the_vocabulary() -> None:
    engine = ScriptedEngine(TABLE)
    order = sorted(TABLE[""])
    edges = np.cumsum([TABLE[""][piece] for piece in order])
    for i in range(200):
        key = Key.of(3, i)
        (continuation,) = extend(engine, [engine.start(PROBLEM)], [key])
        first = order[int(np.searchsorted(edges, key.uniforms(1)[0], side="right"))]
        assert continuation.token_ids[0] == engine.tokenizer.id(first)


def test_a_draw_depends_on_prefix_and_key_alone() -> None:
    engine = ScriptedEngine(TABLE)
    prefix = after(engine, "b\n")
    keys = [Key.of(i) for i in range(30)]
    together = extend(engine, [prefix] * 30, keys)
    alone = [extend(ScriptedEngine(TABLE), [prefix], [key])[0] for key in reversed(keys)][::-1]
    assert [c.token_ids.tolist() for c in together] == [c.token_ids.tolist() for c in alone]
    assert [c.logprobs.tolist() for c in together] == [c.logprobs.tolist() for c in alone]


def test_ids_and_text_are_two_views_of_one_path() -> None:
    engine = ScriptedEngine(TABLE)
    start = engine.start(PROBLEM)
    assert start.token_ids.dtype == np.int32
    assert engine.tokenizer.decode(start.token_ids.tolist()) == PROBLEM.question
    for i in range(50):
        prefix = start
        finish = "step"
        while finish == "step":
            (c,) = extend(engine, [prefix], [Key.of(i).at(step=prefix.completion_length)])
            assert c.prefix.token_ids.tolist() == [*prefix.token_ids, *c.token_ids]
            prefix, finish = c.prefix, c.finish
        completion = prefix.token_ids[prefix.prompt_length :].tolist()
        assert engine.tokenizer.decode(completion) == prefix.text
        assert (completion[-1] == engine.tokenizer.eos_token_id) == (finish == "eos")
        assert len(completion) <= 3


def test_a_path_at_its_limit_ends_with_nothing_more() -> None:
    engine = ScriptedEngine(TABLE)
    (c,) = extend(engine, [after(engine, "b\n", "a", "a")], [Key.of(0)])
    assert (c.finish, c.text, len(c.token_ids), len(c.logprobs)) == ("length", "", 0, 0)


def test_score_gives_the_untempered_log_probabilities() -> None:
    engine = ScriptedEngine(TABLE)
    tokens = np.array([engine.tokenizer.id(piece) for piece in ("a", "a", EOS)], np.int32)
    impossible = np.array([engine.tokenizer.id(piece) for piece in ("a", "b\n", "a")], np.int32)
    prefixes = [engine.start(PROBLEM), after(engine, "b\n"), engine.start(PROBLEM)]
    scores = asyncio.run(engine.score(prefixes, [tokens, tokens[:1], impossible]))
    assert scores[0] == pytest.approx(np.log([0.5, 0.6, 0.75]))
    assert scores[1] == pytest.approx(np.log([0.9]))
    assert scores[2].tolist() == [pytest.approx(np.log(0.5)), -np.inf, -np.inf]


def test_temperature_top_k_and_top_p() -> None:
    ids, p = np.array([0, 1, 2, 3]), np.array([0.1, 0.4, 0.2, 0.3])

    def kept(**changes: float) -> dict[int, float]:
        d = sampled(ids, p, Sampling(**changes))
        assert d.logprobs == pytest.approx(np.log(d.probabilities)) or not changes["temperature"]
        return dict(zip(d.ids, d.probabilities, strict=True))

    assert kept() == pytest.approx({0: 0.1, 1: 0.4, 2: 0.2, 3: 0.3})
    squares = p**2 / (p**2).sum()
    assert kept(temperature=0.5) == pytest.approx(dict(enumerate(squares)))
    assert kept(top_k=2) == pytest.approx({1: 4 / 7, 3: 3 / 7})
    assert kept(top_p=0.6) == pytest.approx({1: 4 / 7, 3: 3 / 7})
    assert kept(top_p=0.75) == pytest.approx({1: 4 / 9, 2: 2 / 9, 3: 3 / 9})
    assert kept(temperature=0) == {1: 1.0}
    assert sampled(ids, p, Sampling(temperature=0)).logprobs == pytest.approx([np.log(0.4)])


def test_counts_of_prefilled_tokens_follow_the_handles() -> None:
    engine = ScriptedEngine(TABLE)
    start = engine.start(PROBLEM)
    prompt = start.prompt_length
    rule = StepRule(delimiters=("\n",), max_step_tokens=1, max_tokens=9)
    greedy = Sampling(temperature=0)
    first = extend(engine, [start, start], [Key.of(0), Key.of(1)], rule, greedy)
    assert [c.prefilled_tokens for c in first] == [prompt, 0]
    forked = extend(engine, [first[0].prefix] * 2, [Key.of(2), Key.of(3)], rule, greedy)
    assert [c.prefilled_tokens for c in forked] == [0, 0]
    assert engine.held == 4
    engine.release([first[0].prefix])
    engine.release([first[0].prefix])
    assert engine.held == 3
    (lost,) = extend(engine, [first[0].prefix], [Key.of(2)], rule, greedy)
    assert lost.prefilled_tokens == prompt + 1
    assert lost.token_ids.tolist() == forked[0].token_ids.tolist()
    assert engine.counters.policy_tokens == 5
    assert engine.counters.prefilled_tokens == 2 * prompt + 1
    asyncio.run(engine.close())
    assert engine.held == 0


def test_a_script_that_is_a_function_sees_the_question() -> None:
    def script(question: str, text: str) -> dict[str, float]:
        return {question[-1]: 1.0} if len(text) < 2 else {EOS: 1.0}

    engine = ScriptedEngine(script, pieces=["x", "y"])
    rule = StepRule(delimiters=(), max_tokens=5)
    for question in ("axxx", "by"):
        (path,) = scripted_paths(engine, Problem("q", question, None), rule)
        assert (path.steps, path.finish) == ((question[-1] * 2,), "eos")


@pytest.mark.parametrize(
    ("script", "pieces", "message"),
    [
        ({"": {"a": 1.0}}, None, "lists nothing after 'a'"),
        ({"": {"a": 0.5, EOS: 0.4}}, None, "their sum is 0.9"),
        ({"": {"a": 1.5, EOS: -0.5}}, None, "no distribution"),
        (lambda question, text: {"b": 1.0}, ["a"], "has no piece 'b'"),
        (lambda question, text: {"b": 1.0}, None, "needs the list of its pieces"),
    ],
)
def test_mistakes_in_a_script_are_user_errors(script, pieces, message: str) -> None:
    with pytest.raises(UserError, match=message):
        scripted_paths(ScriptedEngine(script, pieces), PROBLEM, RULE)


def test_the_tokenizer_is_reversible() -> None:
    tokenizer = ScriptedTokenizer(["ab", "a", EOS, "½"])
    assert [tokenizer.id(piece) for piece in (EOS, "a", "ab", "½")] == [0, 1, 2, 3]
    assert len(tokenizer) == 4 + 256
    for text in ("", "a½b\n", "数学"):
        assert tokenizer.decode(tokenizer.encode(text).tolist()) == text
    assert tokenizer.batch_decode([[2, 3, 0], [1]]) == ["ab½", "a"]


def test_delay_slows_every_call() -> None:
    engine = ScriptedEngine(TABLE, delay=0.05)

    async def timed() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(2):
            await engine.extend([engine.start(PROBLEM)], RULE, Sampling(), [Key.of(0)])
        return loop.time() - began

    assert asyncio.run(timed()) >= 0.1

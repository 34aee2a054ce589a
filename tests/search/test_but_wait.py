"""Forced second thoughts."""

import asyncio
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from search_toys import BOX

from butwait.engines.kinds.transformers import TransformersSettings
from butwait.engines.models import load_causal_lm, load_tokenizer
from butwait.engines.scripted import EOS, ScriptedEngine
from butwait.engines.settings import ModelSettings, StepRule
from butwait.engines.transformers import TransformersEngine
from butwait.problems.settings import PromptSettings
from butwait.records import Key, Problem, SearchTree
from butwait.search.rows import to_row
from butwait.search.run import run_sampler
from butwait.search.samplers.but_wait import ButWaitSettings

PHRASE = " But wait,"
PROBLEM = Problem("p", "?", None)


def scripted(*thoughts: str) -> ScriptedEngine:
    """A policy of one path: the pieces of each thought (parted by "|"), which the next thought
    follows whatever it kept of it."""
    plan = [thought.split("|") for thought in thoughts]

    def policy(question: str, text: str) -> dict[str, float]:
        *before, last = text.split(PHRASE)
        said, pieces = "", plan[len(before)]
        for piece in pieces:
            if said == last:
                return {piece: 1.0}
            said += "" if piece == EOS else piece
        raise AssertionError(f"nothing comes after {text!r}")

    return ScriptedEngine(policy, [PHRASE, "</think>", *(p for t in plan for p in t)])


def think(engine: ScriptedEngine, problem: Problem = PROBLEM, **chosen: object) -> SearchTree:
    settings = ButWaitSettings(phrase=PHRASE, **{"step": RULE, **chosen})
    return asyncio.run(run_sampler(problem, engine, None, settings, Key.of(0, "but_wait")))


RULE = StepRule(delimiters=(), max_tokens=100)


def shape(tree: SearchTree) -> list[tuple[int, str, str]]:
    return [(node.parent, node.text, node.finish) for node in tree.nodes[1:]]


def test_a_box_is_thought_over_until_the_answer_is_stable() -> None:
    tree = think(scripted(f"a|{BOX[1]}", f"b|{BOX[2]}", f"c|{BOX[2]}", "never"))
    assert shape(tree) == [
        (0, "a" + BOX[1], "box"),
        (1, PHRASE, "inserted"),
        (2, "b" + BOX[2], "box"),
        (3, PHRASE, "inserted"),
        (4, "c" + BOX[2], "box"),
    ]
    assert [population.nodes.tolist() for population in tree.populations] == [[1], [3], [5]]
    assert tree.leaves.tolist() == [5]
    assert tree.counts.policy_tokens == 6
    assert tree.path_sampled(5).tolist() == [True] * 2 + [False] + [True] * 2 + [False] + [True] * 2
    assert np.isnan(tree.nodes[2].logprobs).all()
    assert tree.nodes[3].logprobs.tolist() == [0.0, 0.0]


def test_the_phrase_comes_in_place_of_eos() -> None:
    engine = scripted(f"The answer is 4.|{EOS}", f"The answer is 4.|{EOS}")
    tree = think(engine)
    assert shape(tree) == [
        (0, "The answer is 4.", "step"),
        (1, "", "eos"),
        (1, PHRASE, "inserted"),
        (3, "The answer is 4.", "step"),
        (4, "", "eos"),
    ]
    said, phrase = engine.tokenizer.id("The answer is 4."), engine.tokenizer.id(PHRASE)
    assert tree.path_tokens(5).tolist() == [said, phrase, said, engine.tokenizer.eos_token_id]
    assert tree.path_text(5) == "The answer is 4. But wait,The answer is 4."
    assert [population.nodes.tolist() for population in tree.populations] == [[2], [5]]


def test_a_thinking_model_goes_on_inside_its_thinking() -> None:
    rule = RULE.model_copy(update={"delimiters": ("\n",)})
    tree = think(
        scripted(f"<think>|one\n|so|</think>|{BOX[1]}", f"no|</think>|{BOX[1]}"), step=rule
    )
    assert shape(tree) == [
        (0, "<think>one\n", "step"),
        (1, "so", "step"),
        (2, "</think>", "step"),
        (3, BOX[1], "box"),
        (2, PHRASE, "inserted"),
        (5, "no", "step"),
        (6, "</think>", "step"),
        (7, BOX[1], "box"),
    ]
    assert tree.path_text(8) == f"<think>one\nso{PHRASE}no</think>{BOX[1]}"
    assert tree.leaves.tolist() == [8]


def test_a_tag_on_shared_tokens_puts_the_phrase_behind_the_answer() -> None:
    tree = think(scripted(f"<think>|so.</think>|{BOX[1]}", BOX[1]))
    assert tree.path_text(tree.leaves[0]) == f"<think>so.</think>{BOX[1]}{PHRASE}{BOX[1]}"


@pytest.mark.parametrize(("rounds", "made"), [(1, 1), (2, 2), (4, 4)])
def test_rounds_are_bounded(rounds: int, made: int) -> None:
    thoughts = [f"\\boxed{{{n}}}" for n in range(10)]
    tree = think(scripted(*thoughts), rounds=rounds)
    assert len(tree.populations) == made
    assert tree.nodes[tree.leaves[0]].text == thoughts[made - 1]


@pytest.mark.parametrize(
    ("stable", "answers", "made"),
    [
        (2, "1123", 2),
        (3, "1123111", 5),
        (3, "12221", 4),
        (None, "11111", 5),
    ],
)
def test_stable_is_in_a_row(stable: int | None, answers: str, made: int) -> None:
    engine = scripted(*(f"\\boxed{{{answer}}}" for answer in answers))
    tree = think(engine, rounds=5, stable=stable)
    assert len(tree.populations) == made


def test_one_notation_is_one_answer() -> None:
    tree = think(scripted("\\boxed{\\frac12}", "\\boxed{ \\dfrac{1}{2} }", "\\boxed{3}"))
    assert len(tree.populations) == 2


def test_no_answer_is_not_a_stable_one() -> None:
    engine = scripted(*[f"hm|{EOS}"] * 3)
    assert len(think(engine, rounds=3).populations) == 3


def test_a_truncated_second_thought_falls_back_to_the_first() -> None:
    rule = RULE.model_copy(update={"max_tokens": 6})
    tree = think(scripted(f"a|{BOX[1]}", "b|c|d|e|f"), step=rule)
    assert shape(tree)[2] == (2, "bcd", "length")
    assert tree.leaves.tolist() == [1]
    assert [population.nodes.tolist() for population in tree.populations] == [[1], [1]]


def test_an_answer_cut_off_behind_the_tag_falls_back_too() -> None:
    rule = RULE.model_copy(update={"max_tokens": 7})
    tree = think(scripted(f"<think>|so|</think>|{BOX[1]}", "no|</think>|x|y|z"), step=rule)
    assert shape(tree)[-1] == (6, "xy", "length")
    assert tree.path_text(tree.leaves[0]) == f"<think>so</think>{BOX[1]}"


def test_a_truncated_first_thought_ends_truncated() -> None:
    rule = RULE.model_copy(update={"max_tokens": 2})
    tree = think(scripted("a|b|c"), step=rule)
    assert shape(tree) == [(0, "ab", "length")]
    assert tree.leaves.tolist() == [1]


@pytest.mark.parametrize(("max_tokens", "made"), [(3, 1), (4, 2)])
def test_a_phrase_that_leaves_no_room_is_not_put_in(max_tokens: int, made: int) -> None:
    """Two tokens of a thought and one of the phrase: a fourth is needed to go on."""
    rule = RULE.model_copy(update={"max_tokens": max_tokens})
    tree = think(scripted(f"a|{BOX[1]}", BOX[2]), step=rule, rounds=2)
    assert len(tree.populations) == made


def test_the_gold_answer_is_not_read() -> None:
    def content(gold: str | None) -> str:
        engine = scripted(*[f"\\boxed{{{n}}}" for n in (1, 2, 2)])
        return repr(to_row(think(engine, Problem("p", "?", gold))).to_pydict())

    assert content("1") == content("2") == content(None)


def paths_differ(samples: int, policy: Callable[[str, str], dict[str, float]]) -> list[str]:
    pieces = [*BOX.values(), PHRASE]
    tree = think(ScriptedEngine(policy, pieces), samples=samples)
    return [tree.path_text(leaf) for leaf in tree.leaves]


def test_each_sample_stops_by_itself() -> None:
    """Two equal answers in a row, of two equally likely ones: 2, 3 or 4 rounds, the last of which
    comes out in a quarter of the paths, by the bound or by agreement."""

    def coin(question: str, text: str) -> dict[str, float]:
        return {BOX[1]: 0.5, BOX[2]: 0.5}

    texts = paths_differ(400, coin)
    rounds = [text.count(PHRASE) + 1 for text in texts]
    for n, share in ((2, 0.5), (3, 0.25), (4, 0.25)):
        assert rounds.count(n) / 400 == pytest.approx(share, abs=4.5 * np.sqrt(share / 400))
    for text in texts:
        answers = text.split(PHRASE)
        assert len(answers) == 4 or answers[-1] == answers[-2]
        assert all(a != b for a, b in pairwise(answers[:-1]))


def test_with_a_model_the_tokens_are_exact() -> None:
    model = ModelSettings(name="tiny", device="cpu")
    tokenizer = load_tokenizer(model)
    engine = TransformersEngine(
        load_causal_lm(model), tokenizer, TransformersSettings(slots=4), PromptSettings()
    )
    problem = Problem("p", "Compute 12 + 30.", None)
    settings = ButWaitSettings(samples=3, stable=None, rounds=3, step=RULE)
    tree = asyncio.run(run_sampler(problem, engine, None, settings, Key.of(1)))
    put_in = [node for node in tree.nodes if node.finish == "inserted"]
    assert put_in
    phrase = tokenizer.encode("\n\nBut wait,", add_special_tokens=False)
    assert all(node.token_ids.tolist() == phrase for node in put_in)
    for leaf in tree.leaves.tolist():
        ids = tree.path_tokens(leaf)
        assert tokenizer.decode(ids, skip_special_tokens=True) == tree.path_text(leaf)
        assert tokenizer.eos_token_id not in ids[:-1]
        [scored] = asyncio.run(engine.score([engine.start(problem)], [ids]))
        logprobs = np.concatenate([tree.nodes[i].logprobs for i in tree.path(leaf)])
        drawn = tree.path_sampled(leaf)
        np.testing.assert_allclose(logprobs[drawn], scored[drawn], atol=1e-3)
        assert np.isnan(logprobs[~drawn]).all()
    assert tree.counts.policy_tokens == engine.counters.policy_tokens
    asyncio.run(engine.close())

"""Beam search keeps the best open paths, and the finished ones for good."""

import asyncio

import numpy as np
import pytest
from search_toys import BOX, LOGITS, PROBLEM, RULE, search, toy_engine

from butwait.engines.scripted import ScriptedEngine
from butwait.records import COMPLETE, OPEN, Key
from butwait.search.samplers.beams import BeamSearchSettings, keep_best
from butwait.search.selection import select
from scripted_paths import scripted_paths


@pytest.mark.parametrize(
    ("logits", "expansions", "kept"),
    [
        ([0.1, 0.9, -3, 0.5], 2, [11, 11, 13, 13]),
        ([0.1, 0.9, -3, 0.5], 4, [11, 11, 11, 11]),
        ([0.1, 0.9, -3, 0.5], 1, [11, 13, 10, 12]),
        ([0.1, 0.9, -3, 0.5, 0.4], 4, [11, 11, 11, 11, 13]),
        ([2.0, 2.0, 2.0, 2.0], 2, [10, 10, 11, 11]),
        ([-np.inf, -np.inf, 1.0, -np.inf], 2, [12, 12, 12, 12]),
        ([-np.inf, -np.inf], 2, [10, 11]),
    ],
    ids=["half", "one", "all", "no multiple", "ties", "impossible ones", "none possible"],
)
def test_which_are_kept(logits: list[float], expansions: int, kept: list[int]) -> None:
    places = 10 + np.arange(len(logits))
    assert keep_best(places, np.array(logits), expansions).tolist() == kept


def test_the_best_open_paths_go_on() -> None:
    """Over several seeds: parents of new nodes are the top of the open ones before, by place."""
    forks = 0
    for seed in range(20):
        tree = search(BeamSearchSettings(beams=8, expansions=4, step=RULE), Key.of(seed, "beams"))
        for before, after in zip(tree.populations, tree.populations[1:], strict=False):
            standing = [tree.nodes[node] for node in before.nodes]
            open_places = [i for i, node in enumerate(standing) if node.finish in OPEN]
            best = sorted(open_places, key=lambda i: (-standing[i].reward_logit, i))
            best = best[: -(-len(open_places) // 4)]
            came_from = [int(after.ancestors[i]) for i in open_places]
            assert came_from == [best[j // 4] for j in range(len(open_places))]
            assert after.resampled == (came_from != open_places)
            forks += after.resampled
            closed = [i for i in range(8) if i not in open_places]
            assert after.nodes[closed].tolist() == before.nodes[closed].tolist(), "kept"
    assert forks > 20


def test_final_weights_are_odds_of_the_last_reward() -> None:
    tree = search(BeamSearchSettings(beams=8, alpha=0.5, step=RULE))
    last = np.array([LOGITS[tree.path_text(leaf)] for leaf in tree.leaves])
    weights = np.exp(0.5 * last)
    assert np.exp(tree.log_weights) == pytest.approx(weights / weights.sum())
    assert tree.log_evidence is None


def test_it_costs_no_more_than_whole_paths() -> None:
    """Every place holds one path: as many tokens as N samples could have, counted as drawn."""
    for seed in range(10):
        tree = search(BeamSearchSettings(beams=8, step=RULE), Key.of(seed, "cost"))
        assert tree.counts.policy_tokens == sum(len(node.token_ids) for node in tree.nodes)
        assert tree.counts.policy_tokens <= 8 * RULE.max_tokens


def test_a_truncated_path_is_not_finished() -> None:
    """A published beam search takes a path cut off at the token limit for one that ended with
    EOS. Here it never votes, however high its reward."""
    table = {"": {"x\n": 0.5, BOX[1]: 0.5}, "x\n": {"x\n": 1.0}, "x\nx\n": {"x\n": 1.0}}
    rule = RULE.model_copy(update={"max_tokens": 3})
    tree = search(
        BeamSearchSettings(beams=8, step=rule),
        engine=ScriptedEngine(table),
        reward=lambda problem, steps: 5.0 if steps[-1].text == "x\n" else -5.0,
    )
    finishes = {tree.nodes[leaf].finish for leaf in tree.leaves}
    assert finishes == {"length", "box"}
    for method in ("argmax", "weighted_vote", "vote", "sample"):
        chosen = asyncio.run(
            select(tree, method, lambda text: text, lambda a, b: a == b, Key.of(0))
        )
        assert chosen.answer == BOX[1]


def test_no_path_completes() -> None:
    """A published beam search divides by zero here."""
    endless = {"x\n" * n: {"x\n": 1.0} for n in range(4)}
    tree = search(
        BeamSearchSettings(beams=4, step=RULE),
        engine=ScriptedEngine(endless),
        reward=lambda problem, steps: 0.0,
    )
    assert [tree.nodes[leaf].finish for leaf in tree.leaves] == ["length"] * 4
    chosen = asyncio.run(
        select(tree, "weighted_vote", lambda text: text, lambda a, b: a == b, Key.of(0))
    )
    assert chosen.answer is None


def test_an_impossible_path_gives_its_place_away() -> None:
    """ "a" is impossible: from the second step on all places stand below the others."""

    def reward(problem, steps) -> float:
        return -np.inf if steps[0].text == "a\n" else LOGITS["".join(s.text for s in steps)]

    tree = search(BeamSearchSettings(beams=8, expansions=2, step=RULE), reward=reward)
    first = [tree.nodes[node].text for node in tree.populations[0].nodes]
    assert first.count("a\n") > 0
    assert "a\n" not in {tree.nodes[next(tree.path(leaf))].text for leaf in tree.leaves}
    assert np.isfinite(tree.log_weights).all()


def test_an_informative_reward_is_followed() -> None:
    """Three steps, each good with probability 0.3; the reward counts the good ones. With one
    path of four kept, a step is good unless all four draws are bad: 3 (1 - 0.7^4) on average."""

    def policy(question: str, text: str) -> dict[str, float]:
        return {BOX[1]: 1.0} if text.count("\n") == 3 else {"g\n": 0.3, "b\n": 0.7}

    engine = ScriptedEngine(policy, ["g\n", "b\n", BOX[1]])

    def good(problem, steps) -> float:
        return float(sum(step.text == "g\n" for step in steps))

    best = []
    for seed in range(400):
        tree = search(
            BeamSearchSettings(beams=4, expansions=4, step=RULE),
            Key.of(seed, "good"),
            engine=engine,
            reward=good,
        )
        best.append(max(tree.nodes[leaf].reward_logit for leaf in tree.leaves))
    deviation = np.sqrt(3 * 0.7**4 * (1 - 0.7**4) / 400)
    assert np.mean(best) == pytest.approx(3 * (1 - 0.7**4), abs=4 * deviation)


def test_all_leaves_of_the_toy_are_listed_paths() -> None:
    tree = search(BeamSearchSettings(beams=16, step=RULE))
    complete = [leaf for leaf in tree.leaves if tree.nodes[leaf].finish in COMPLETE]
    assert complete
    listed = {"".join(p.steps): p.finish for p in scripted_paths(toy_engine(), PROBLEM, RULE)}
    for leaf in complete:
        assert listed[tree.path_text(leaf)] == tree.nodes[leaf].finish

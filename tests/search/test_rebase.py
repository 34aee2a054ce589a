"""REBASE: continuations in shares of a softmax of the reward."""

import numpy as np
import pytest
from search_toys import RULE, search

from butwait.engines.scripted import ScriptedEngine
from butwait.records import OPEN, Key
from butwait.search.samplers.beams import RebaseSettings, balanced_widths


def logits(*rewards: float) -> np.ndarray:
    p = np.array(rewards)
    with np.errstate(divide="ignore"):
        return np.log(p / (1 - p))


@pytest.mark.parametrize(
    ("rewards", "temperature", "widths"),
    [
        # e^4, e^3, e^2, e^1: 4 * 0.644 -> 3, then 1 * 0.665 -> 1.
        ([0.8, 0.6, 0.4, 0.2], 0.2, [3, 1, 0, 0]),
        # e^.8, e^.6, e^.4, e^.2: 4 * 0.329 -> 2, then 2 * 0.402 -> 1, then 1 * 0.550 -> 1.
        ([0.8, 0.6, 0.4, 0.2], 1.0, [2, 1, 1, 0]),
        ([0.2, 0.8, 0.4, 0.6], 0.2, [0, 3, 0, 1]),
        ([0.8, 0.6, 0.4, 0.2], 1e-4, [4, 0, 0, 0]),
        ([0.5, 0.5, 0.5], 0.2, [1, 1, 1]),
        ([0.0, 0.3, 0.0], 5.0, [0, 3, 0]),
        ([0.0, 0.0], 0.2, [1, 1]),
    ],
)
def test_widths(rewards: list[float], temperature: float, widths: list[int]) -> None:
    assert balanced_widths(logits(*rewards), temperature).tolist() == widths


def test_the_budget_is_spent_exactly() -> None:
    generator = np.random.default_rng(0)
    for _ in range(500):
        n = int(generator.integers(1, 40))
        widths = balanced_widths(generator.uniform(-12, 12, n), float(generator.uniform(0.05, 2)))
        assert widths.sum() == n
        assert widths.min() >= 0


def test_a_better_path_never_gets_less() -> None:
    generator = np.random.default_rng(1)
    for _ in range(200):
        given = generator.uniform(-3, 3, 12)
        widths = balanced_widths(given, 0.2)[np.argsort(-given)]
        assert (np.diff(widths) <= 0).all()


def test_open_paths_go_on_by_their_widths() -> None:
    forks = 0
    for seed in range(20):
        tree = search(RebaseSettings(width=8, step=RULE), Key.of(seed, "rebase"))
        for before, after in zip(tree.populations, tree.populations[1:], strict=False):
            is_open = np.array([tree.nodes[node].finish in OPEN for node in before.nodes])
            assert after.nodes[~is_open].tolist() == before.nodes[~is_open].tolist()
            rewards = np.array([tree.nodes[node].reward_logit for node in before.nodes])
            places = np.flatnonzero(is_open)
            expected = np.repeat(places, balanced_widths(rewards[is_open], 0.2))
            assert after.ancestors[is_open].tolist() == expected.tolist()
            forks += after.resampled
    assert forks > 20


def test_the_token_limit_binds_over_all_steps() -> None:
    """The authors' code compares the limit with the tokens of one step, so that it never binds."""
    endless = {"x\n" * n: {"x\n": 1.0} for n in range(9)}
    tree = search(
        RebaseSettings(width=4, step=RULE.model_copy(update={"max_tokens": 5})),
        engine=ScriptedEngine(endless),
        reward=lambda problem, steps: 0.0,
    )
    assert [tree.nodes[leaf].finish for leaf in tree.leaves] == ["length"] * 4
    assert [len(tree.path_tokens(leaf)) for leaf in tree.leaves] == [5] * 4
    assert len(tree.populations) == 5

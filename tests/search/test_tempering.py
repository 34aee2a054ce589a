"""Parallel tempering against exact answers. Long runs are in ``test_exactness.py``."""

import numpy as np
import pytest
from pydantic import ValidationError
from search_toys import RULE, search
from table_frontier import assert_invariant

from butwait.records import Key
from butwait.search.samplers.particle_filter import RESTART
from butwait.search.samplers.particle_gibbs import ParticleGibbsSettings
from butwait.search.samplers.tempering import TemperingSettings


def settings(**changes: object) -> TemperingSettings:
    return TemperingSettings(**{"step": RULE, "particles": 3, "alphas": (0.3, 1.0)} | changes)


@pytest.mark.parametrize("alphas", [(0.0, 1.0), (0.2, 0.8, 1.5), (0.5, 3.0)])
@pytest.mark.parametrize("ancestors", [False, True], ids=["plain", "ancestors"])
def test_the_target_is_invariant(alphas: tuple[float, ...], ancestors: bool) -> None:
    for particles in (2, 3):
        chosen = settings(
            particles=particles,
            alphas=alphas,
            ess_threshold=1.01,
            ancestor_sampling=ancestors,
            iterations=3,
        )
        assert_invariant(chosen, 200, seed=1)


def test_a_swap_that_is_always_made_is_not_invariant(monkeypatch) -> None:
    monkeypatch.setattr("butwait.search.samplers.tempering._log_ratio", lambda *chains: np.zeros(1))
    with pytest.raises(AssertionError, match="standard errors"):
        assert_invariant(settings(alphas=(0.0, 1.5), iterations=6), 400, seed=2)


def test_leaves_are_of_the_last_chain_alone() -> None:
    chosen = settings(particles=4, alphas=(0.1, 0.4, 1.0), iterations=5, burn_in=2)
    tree = search(chosen)
    starts = [i for i, p in enumerate(tree.populations) if p.ancestors[0] == RESTART]
    ends = [tree.populations[end - 1] for end in [*starts, len(tree.populations)]]
    assert len(ends) == 15
    target = ends[2::3][2:]
    assert tree.leaves.tolist() == [node for end in target for node in end.nodes.tolist()]
    for c, alpha in enumerate(chosen.alphas):
        first = tree.populations[[0, *starts][c]]
        logits = [tree.nodes[node].reward_logit for node in first.nodes]
        assert first.log_weights == pytest.approx(alpha * np.array(logits))


def test_impossible_paths_stay_in_the_chain_that_allows_them() -> None:
    """At exponent 0 a path of reward zero has a weight like any other; no swap takes it up."""

    def reward(problem, steps) -> float:
        return -np.inf if steps[0].text == "a\n" else 0.3 * len(steps)

    chosen = settings(particles=4, alphas=(0.0, 1.0), iterations=40)
    tree = search(chosen, Key.of(1, "impossible"), reward=reward)
    weights = np.exp(tree.log_weights)
    impossible = [tree.nodes[next(tree.path(leaf))].text == "a\n" for leaf in tree.leaves.tolist()]
    assert any(impossible)
    assert weights[impossible].sum() == 0


def test_a_chain_has_the_settings_of_the_whole() -> None:
    chosen = settings(particles=5, iterations=7, resampling="systematic", max_steps=3)
    chain = chosen.chain(0.3)
    assert chain == ParticleGibbsSettings(
        step=RULE, particles=5, alpha=0.3, iterations=7, resampling="systematic", max_steps=3
    )


@pytest.mark.parametrize("alphas", [(1.0, 0.5), (0.5, 0.5)])
def test_exponents_rise(alphas: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="must rise"):
        settings(alphas=alphas)

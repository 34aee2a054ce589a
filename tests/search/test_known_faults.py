"""Faults that a published implementation of this search had (its_hub 1.2.0), as tests of ours.

Its numbers, measured on the same toys: B1 mass 0.342, 0.120, 0.036, 0.001 of the better path with
0, 1, 2, 4 extra middling steps; B2 identical prefixes with odds 81 to 1; B3 a draw with
probability 0.942 where 0.8 is right; B4 systematic resampling asked for, multinomial done.
"""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from search_toys import BOX, LOGITS, PROBLEM, RULE, pool, search

from butwait.engines.scripted import ScriptedEngine
from butwait.records import Counts, Key, Node, Population, SearchTree
from butwait.search.samplers.particle_filter import ParticleFilterSettings
from butwait.search.selection import select

SHORT, LONG = "\\boxed{short}", "\\boxed{long}"


def race(extra: int) -> ScriptedEngine:
    """A short path against a longer and better one with ``extra`` middling steps more."""
    table = {"": {SHORT: 0.5, "m\n": 0.5}}
    for steps in range(1, extra + 1):
        table["m\n" * steps] = {"m\n": 1.0}
    table["m\n" * (extra + 1)] = {LONG: 1.0}
    return ScriptedEngine(table)


def race_reward(problem, steps) -> float:
    """Probability 0.8 for the short answer, 0.9 for the long one, 0.5 on the way."""
    return {SHORT: np.log(4), LONG: np.log(9)}.get(steps[-1].text, 0.0)


@pytest.mark.parametrize("extra", [0, 1, 2, 4])
def test_b1_early_finishers_are_not_favoured(extra: int) -> None:
    exact = {SHORT: 4 / 13, "m\n" * (extra + 1) + LONG: 9 / 13}
    chosen = ParticleFilterSettings(particles=64, step=RULE.model_copy(update={"max_tokens": 9}))
    result = pool(chosen, 150, exact, seed=1, engine=race(extra), reward=race_reward)
    mass = dict(zip(result.outcomes, result.histogram(), strict=True))
    assert mass["m\n" * (extra + 1) + LONG] == pytest.approx(0.692, abs=0.02)
    assert np.abs(result.z_scores()).max() < 5


def test_b1_a_finished_particle_gets_no_further_potential() -> None:
    tree = search(
        ParticleFilterSettings(particles=16, ess_threshold=0, step=RULE),
        engine=race(4),
        reward=race_reward,
    )
    short = [i for i, leaf in enumerate(tree.leaves) if tree.nodes[leaf].text == SHORT]
    assert short
    for population in tree.populations:
        assert population.log_weights[short] == pytest.approx(np.log(4))


def test_b2_identical_prefixes_have_identical_weights() -> None:
    """Every weight is the reward at the current step over that at the last resampling, whatever
    becomes of the particle later."""
    resamplings = 0
    for seed in range(10):
        tree = search(
            ParticleFilterSettings(particles=12, ess_threshold=0.9, step=RULE),
            Key.of(seed, "prefixes"),
        )
        base = np.zeros(12)
        previous = np.zeros(12, np.int32)
        for population in tree.populations:
            if population.resampled:
                texts = [tree.path_text(node) for node in previous[population.ancestors]]
                base = np.array([LOGITS[text] for text in texts])
                resamplings += 1
            now = np.array([LOGITS[tree.path_text(node)] for node in population.nodes])
            assert population.log_weights == pytest.approx(now - base, abs=1e-6)
            previous = population.nodes
    assert resamplings > 10


def two_leaves(weights: tuple[float, float], logits: tuple[float, float]) -> SearchTree:
    root = Node(-1, np.zeros(0, np.int32), "", np.zeros(0, np.float32), "step")
    one, two = (
        Node(0, np.array([n], np.int32), BOX[n], np.zeros(1, np.float32), "box", logit)
        for n, logit in zip((1, 2), logits, strict=True)
    )
    leaves = np.array([1, 2], np.int32)
    log_weights = np.log(weights)
    last = Population(leaves, np.array([0, 1], np.int32), log_weights, False)
    return SearchTree(
        "toy", "hand", np.zeros(1, np.int32), [root, one, two], [last], leaves, log_weights,
        0.0, "complete", Counts(),
    )  # fmt: skip


def chosen_text(tree: SearchTree, method, key: Key) -> str:
    picked = asyncio.run(select(tree, method, lambda text: text, str.__eq__, key))
    assert picked.answer is not None
    return picked.answer


def test_b3_sample_draws_by_the_weight_once() -> None:
    tree = two_leaves((0.8, 0.2), (np.log(4), 0.0))
    draws = [chosen_text(tree, "sample", Key.of(i, "draw")) == BOX[1] for i in range(4000)]
    assert np.mean(draws) == pytest.approx(0.8, abs=4.5 * np.sqrt(0.16 / 4000))


def test_b3_the_last_population_is_not_resampled() -> None:
    table = {"": {BOX[1]: 0.5, BOX[2]: 0.5}}
    tree = search(
        ParticleFilterSettings(particles=64, ess_threshold=1.01, step=RULE),
        engine=ScriptedEngine(table),
        reward=lambda problem, steps: {BOX[1]: 9.0, BOX[2]: -9.0}[steps[-1].text],
    )
    worse = [tree.nodes[leaf].text == BOX[2] for leaf in tree.leaves]
    assert 10 < sum(worse) < 54
    assert np.exp(tree.log_weights[worse]).sum() < 1e-6


def test_b3_argmax_sees_every_final_particle() -> None:
    tree = two_leaves((0.999, 0.001), (1.0, 2.0))
    assert chosen_text(tree, "argmax", Key.of(0, "argmax")) == BOX[2]
    swapped = replace(tree, leaves=tree.leaves[::-1], log_weights=tree.log_weights[::-1])
    assert chosen_text(swapped, "argmax", Key.of(0, "argmax")) == BOX[2]


@pytest.mark.parametrize("resampling", ["systematic", "multinomial"])
def test_b4_the_resampling_setting_is_honoured(resampling) -> None:
    """Systematic counts are floors or ceilings; independent draws soon break that."""
    kept = []
    for seed in range(20):
        tree = search(
            ParticleFilterSettings(
                particles=16, resampling=resampling, ess_threshold=1.01, step=RULE
            ),
            Key.of(seed, "scheme"),
            problem=PROBLEM,
        )
        for before, after in zip(tree.populations, tree.populations[1:], strict=False):
            weights = np.exp(before.log_weights)
            expected = 16 * weights / weights.sum()
            children = np.bincount(after.ancestors, minlength=16)
            low, high = np.floor(expected - 1e-9), np.ceil(expected + 1e-9)
            kept.append(bool(np.all((low <= children) & (children <= high))))
    assert all(kept) if resampling == "systematic" else np.mean(kept) < 0.5

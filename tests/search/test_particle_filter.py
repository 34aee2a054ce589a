"""The particle filter against exact answers."""

from itertools import product

import numpy as np
import pytest
from scipy import stats
from search_toys import BOX, RULE, Pool, pool, posterior, search, toy_reward

from butwait.engines.scripted import ScriptedEngine
from butwait.records import Key
from butwait.search.samplers.particle_filter import ParticleFilterSettings
from butwait.search.settings import LinearAlpha

RESAMPLING = ["systematic", "multinomial", "stratified", "residual"]
THRESHOLDS = [0.0, 0.5, 1.01]
ALPHAS = [1.0, (0.25, 0.5, 0.75), LinearAlpha(start=0.2, end=1.5, steps=6)]


def settings(**changes: object) -> ParticleFilterSettings:
    return ParticleFilterSettings(step=RULE, **changes)


def assert_exact(result: Pool, evidence: float) -> None:
    """Every outcome and the evidence lie within the error that the runs themselves show; a
    correct sampler fails with probability 1e-6 a figure."""
    limit = stats.t.isf(5e-7, len(result.evidence) - 1)
    assert np.abs(result.z_scores()).max() < limit
    assert abs(result.evidence_z(evidence)) < limit


# Without resampling (a threshold of 0) all schemes are the same.
@pytest.mark.parametrize("alpha", ALPHAS, ids=["constant", "list", "linear"])
@pytest.mark.parametrize(
    ("resampling", "threshold"),
    [(r, t) for r in RESAMPLING for t in THRESHOLDS if t > 0 or r == RESAMPLING[0]],
)
def test_small_populations_are_unbiased(resampling: str, threshold: float, alpha) -> None:
    chosen = settings(particles=3, resampling=resampling, ess_threshold=threshold, alpha=alpha)
    exact, evidence = posterior(chosen.final_alpha)
    assert_exact(pool(chosen, 500, exact, seed=11), evidence)


@pytest.mark.parametrize(("particles", "runs"), [(2, 4000), (4, 3000), (16, 800), (4096, 5)])
def test_every_population_size_gives_the_same_target(particles: int, runs: int) -> None:
    exact, evidence = posterior(1.0)
    result = pool(settings(particles=particles), runs, exact, seed=5)
    assert_exact(result, evidence)
    assert result.total_variation() < 0.025


@pytest.mark.slow
@pytest.mark.parametrize(("particles", "runs"), [(4, 40_000), (16, 25_000), (4096, 98)])
def test_the_pooled_histogram_is_within_one_percent_total_variation(
    particles: int, runs: int
) -> None:
    exact, evidence = posterior(1.0)
    result = pool(settings(particles=particles), runs, exact, seed=6)
    assert result.total_variation() < 0.01
    assert_exact(result, evidence)


# Every scheme with every threshold, but that without resampling all schemes are the same; the
# exponents take turns (all with all: test_exactness.py).
@pytest.mark.slow
@pytest.mark.parametrize(
    ("resampling", "threshold", "alpha"),
    [
        (resampling, threshold, ALPHAS[(turn + turn // 3) % 3])
        for turn, (resampling, threshold) in enumerate(product(RESAMPLING, THRESHOLDS))
        if threshold or resampling == RESAMPLING[0]
    ],
)
def test_mean_evidence_is_within_one_percent_over_ten_thousand_runs(
    resampling: str, threshold: float, alpha
) -> None:
    chosen = settings(particles=16, resampling=resampling, ess_threshold=threshold, alpha=alpha)
    exact, evidence = posterior(chosen.final_alpha)
    result = pool(chosen, 10_000, exact, seed=7)
    assert result.evidence.mean() == pytest.approx(evidence, rel=0.01)
    assert result.total_variation() < 0.01


def test_a_limit_on_steps_truncates_paths_and_keeps_their_weight() -> None:
    exact, evidence = posterior(1.0, max_steps=2)
    assert "a\nd\n" in exact
    assert "b\ng\n" + BOX[1] not in exact
    result = pool(settings(particles=4, max_steps=2), 2000, exact, seed=8)
    assert_exact(result, evidence)


@pytest.mark.parametrize("alpha", [1.0, (0.0, 0.5, 1.0)], ids=["constant", "from zero"])
def test_impossible_paths_have_no_weight(alpha) -> None:
    def reward(problem, steps) -> float:
        text = "".join(step.text for step in steps)
        return -np.inf if text.startswith(("a\nd\n", "c")) else toy_reward(problem, steps)

    exact, evidence = posterior(1.0, reward=reward)
    result = pool(settings(particles=3, alpha=alpha), 1500, exact, seed=9, reward=reward)
    assert_exact(result, evidence)
    assert result.histogram()[result.exact == 0].max() == 0


def test_without_resampling_the_final_weights_are_the_odds() -> None:
    """It is importance sampling: exact, run by run, whatever the schedule."""
    for alpha in ALPHAS:
        chosen = settings(particles=32, ess_threshold=0, alpha=alpha)
        tree = search(chosen)
        logits = np.array([tree.nodes[leaf].reward_logit for leaf in tree.leaves])
        expected = chosen.final_alpha * logits
        assert tree.populations[-1].log_weights == pytest.approx(expected, abs=1e-12)
        assert tree.log_evidence == pytest.approx(np.log(np.mean(np.exp(expected))))


def test_evidence_is_the_product_of_mean_weights_over_resampling_epochs() -> None:
    epochs = []
    for seed in range(20):
        tree = search(settings(particles=8, ess_threshold=0.9), Key.of(seed, "epochs"))
        followers = [*tree.populations[1:], None]
        ends = [
            population
            for population, follower in zip(tree.populations, followers, strict=True)
            if follower is None or follower.resampled
        ]
        means = [np.mean(np.exp(population.log_weights)) for population in ends]
        assert tree.log_evidence == pytest.approx(np.log(np.prod(means)))
        epochs.append((len(ends), len(tree.populations)))
    assert any(2 < ends < steps for ends, steps in epochs)


def test_resampling_happens_only_below_the_threshold_and_before_an_extension() -> None:
    for seed in range(20):
        tree = search(settings(particles=8), Key.of(seed, "threshold"))
        for before, after in zip(tree.populations, tree.populations[1:], strict=False):
            weights = np.exp(before.log_weights)
            ess = weights.sum() ** 2 / (weights**2).sum()
            assert after.resampled == (ess < 4)
            if not after.resampled:
                assert after.ancestors.tolist() == list(range(8))


def test_extinction_is_a_result() -> None:
    def reward(problem, steps) -> float:
        return -np.inf if len(steps) == 2 else 0.0

    table = {"": {"a\n": 1.0}, "a\n": {"b\n": 1.0}, "a\nb\n": {BOX[1]: 1.0}}
    tree = search(settings(particles=4), engine=ScriptedEngine(table), reward=reward)
    assert tree.outcome == "extinct"
    assert tree.log_evidence == -np.inf
    assert tree.log_weights.tolist() == [-np.inf] * 4
    assert len(tree.populations) == 2
    assert [node.text for node in tree.nodes[1:]] == ["a\n"] * 4 + ["b\n"] * 4


def test_alpha_schedules() -> None:
    listed = settings(alpha=[0.2, 0.6])
    assert [listed.alpha_at(t) for t in (1, 2, 3, 9)] == [0.2, 0.6, 0.6, 0.6]
    assert listed.final_alpha == 0.6
    linear = settings(alpha={"start": 0.0, "end": 1.0, "steps": 5})
    assert [linear.alpha_at(t) for t in (1, 2, 4, 5, 8)] == [0, 0.25, 0.75, 1, 1]
    assert linear.final_alpha == 1.0
    assert settings(alpha=2).alpha_at(7) == 2.0


def test_a_fast_stream_of_draws_and_real_keys_agree_in_law() -> None:
    """The other tests draw from one stream; this one draws as a real run does."""
    _, evidence = posterior(1.0)
    keyed = [search(settings(particles=16), Key.of(seed, "keys")) for seed in range(300)]
    estimates = np.exp([tree.log_evidence for tree in keyed])
    error = estimates.std(ddof=1) / np.sqrt(len(estimates))
    assert abs(estimates.mean() - evidence) < 4.5 * error

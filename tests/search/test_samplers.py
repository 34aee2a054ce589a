"""Best-of-N, self-consistency and independent samples; what every sampler promises."""

import asyncio

import numpy as np
import pytest
from search_toys import (
    BOX,
    LOGITS,
    PROBLEM,
    RULE,
    pool,
    posterior,
    search,
    text_of,
    toy_engine,
    toy_reward,
)

from butwait.engines.settings import Sampling, StepRule
from butwait.records import COMPLETE, OPEN, Key, Problem, SearchTree, UserError
from butwait.reward_models.reward_model import RewardModelError
from butwait.reward_models.scripted import ScriptedRewardModel
from butwait.search.best_of_n import product_logit
from butwait.search.run import run_sampler
from butwait.search.settings import (
    BestOfNSettings,
    IndependentSettings,
    ParticleFilterSettings,
    SelfConsistencySettings,
)
from butwait.search.storage import write_shard

EVERY = [
    ParticleFilterSettings(particles=8, step=RULE),
    ParticleFilterSettings(particles=8, ess_threshold=1.01, resampling="residual", step=RULE),
    ParticleFilterSettings(particles=8, max_steps=2, alpha=[0.5, 1.0], step=RULE),
    IndependentSettings(samples=8, step=RULE),
    SelfConsistencySettings(samples=8, step=RULE),
    BestOfNSettings(samples=8, step=RULE),
    BestOfNSettings(samples=8, aggregation="min", step=RULE),
    BestOfNSettings(samples=8, aggregation="model", step=RULE),
]
every_sampler = pytest.mark.parametrize("settings", EVERY, ids=lambda s: s.kind)


@every_sampler
def test_populations_and_nodes_tell_the_same_story(settings) -> None:
    tree = search(settings)
    before = np.zeros(8, np.int32)
    made: set[int] = {0}
    for population in tree.populations:
        came_from = before[population.ancestors]
        for parent, node in zip(came_from.tolist(), population.nodes.tolist(), strict=True):
            if node == parent:  # absorbed
                assert tree.nodes[node].finish not in OPEN
            else:
                assert tree.nodes[node].parent == parent
                assert tree.nodes[parent].finish in OPEN
                assert node not in made
                made.add(node)
        before = population.nodes
    assert made == set(range(len(tree.nodes))), "every node was some particle's"
    assert tree.leaves.tolist() == before.tolist()
    assert np.exp(tree.log_weights).sum() == pytest.approx(1)


@every_sampler
def test_counts_are_exact_and_handles_are_freed(settings) -> None:
    engine, model = toy_engine(), ScriptedRewardModel(toy_reward)
    tree = asyncio.run(run_sampler(PROBLEM, engine, model, settings, Key.of(1, "counts")))
    tokens = sum(len(node.token_ids) for node in tree.nodes)
    assert tree.counts.policy_tokens == engine.counters.policy_tokens == tokens
    assert tree.counts.prefilled_tokens == engine.counters.prefilled_tokens == 1, "the prompt, once"
    scored = sum(len(n.token_ids) for n in tree.nodes[1:] if not np.isnan(n.reward_logit))
    if getattr(settings, "aggregation", None) == "model":
        scored = tokens
    assert tree.counts.reward_tokens == scored
    assert (engine.held, model.held) == (0, 0)


@pytest.mark.parametrize("settings", [EVERY[1], EVERY[5]], ids=lambda s: s.kind)
def test_handles_are_freed_when_scoring_fails(settings) -> None:
    def reward(problem, steps) -> float:
        return np.nan if len(steps) == 2 else 0.0

    engine, model = toy_engine(), ScriptedRewardModel(reward)
    with pytest.raises(RewardModelError):
        asyncio.run(run_sampler(PROBLEM, engine, model, settings, Key.of(1, "fails")))
    assert engine.held == 0
    assert model.held <= 8, "only those of the call that failed"


def test_only_open_paths_hold_handles() -> None:
    """While a step is drawn only the prefixes it extends have handles; while it is scored, only
    the open ones among its results."""
    engine = toy_engine()
    extend = engine.extend
    rounds = []
    still_open = 0

    async def watched(prefixes, *rest):
        nonlocal still_open
        used = {prefix.handle for prefix in prefixes} - {None}
        rounds.append((engine.held, len(used)))
        continuations = await extend(prefixes, *rest)
        still_open = sum(c.finish in OPEN for c in continuations)
        return continuations

    def reward(problem, steps) -> float:
        assert engine.held == still_open
        return toy_reward(problem, steps)

    engine.extend = watched
    settings = ParticleFilterSettings(particles=16, ess_threshold=1.01, step=RULE)
    asyncio.run(run_sampler(PROBLEM, engine, ScriptedRewardModel(reward), settings, Key.of(3)))
    assert len(rounds) > 2
    for out, used in rounds:
        assert out == used


def test_best_of_n_is_the_filter_that_never_resamples() -> None:
    best = search(BestOfNSettings(samples=32, alpha=0.7, step=RULE))
    filtered = search(ParticleFilterSettings(particles=32, alpha=0.7, ess_threshold=0, step=RULE))
    assert best.leaves.tolist() == filtered.leaves.tolist()
    assert best.log_weights == pytest.approx(filtered.log_weights)
    assert best.log_evidence == pytest.approx(filtered.log_evidence)


def test_best_of_n_targets_the_same_posterior() -> None:
    exact, evidence = posterior(1.0)
    result = pool(BestOfNSettings(samples=4, step=RULE), 2000, exact, seed=3)
    assert np.abs(result.z_scores()).max() < 5
    assert abs(result.evidence_z(evidence)) < 5


def leaf_logits(tree: SearchTree) -> list[float]:
    return [tree.nodes[leaf].reward_logit for leaf in tree.leaves]


def prefix_logits(tree: SearchTree, leaf: int) -> list[float]:
    return [LOGITS[tree.path_text(node)] for node in tree.path(leaf)]


def test_aggregations() -> None:
    def odds(logits) -> float:
        p = np.prod(1 / (1 + np.exp(-np.array(logits))))
        return float(np.log(p / (1 - p)))

    for name, expected in (("last", lambda x: x[-1]), ("min", min), ("prod", odds)):
        tree = search(BestOfNSettings(samples=32, aggregation=name, step=RULE, alpha=2.0))
        logits = [expected(prefix_logits(tree, leaf)) for leaf in tree.leaves]
        assert leaf_logits(tree) == pytest.approx(logits, abs=1e-6)
        assert tree.populations[-1].log_weights == pytest.approx(2 * np.array(logits), abs=1e-6)


def test_the_whole_solution_as_one_step() -> None:
    seen = []

    def reward(problem, steps) -> float:
        seen.append([step.text for step in steps])
        return float(len(text_of(steps)))

    tree = search(BestOfNSettings(samples=6, aggregation="model", step=RULE), reward=reward)
    assert seen == [[tree.path_text(leaf)] for leaf in tree.leaves]
    assert leaf_logits(tree) == [min(12.0, len(tree.path_text(leaf))) for leaf in tree.leaves]
    inner = [n.reward_logit for i, n in enumerate(tree.nodes[1:], 1) if i not in tree.leaves]
    assert inner
    assert np.isnan(inner).all()


def test_product_of_probabilities() -> None:
    assert product_logit([0.0, 0.0]) == pytest.approx(np.log(1 / 3))
    assert product_logit([1.5]) == pytest.approx(1.5)
    assert product_logit([12.0] * 40) == pytest.approx(12 - np.log(40), abs=1e-3)
    assert product_logit([-np.inf, 3.0]) == -np.inf


def test_self_consistency_weighs_equally_and_asks_for_no_reward() -> None:
    def never(problem, steps) -> float:
        raise AssertionError("no reward is asked for")

    tree = search(SelfConsistencySettings(samples=5, step=RULE), reward=never)
    assert tree.log_weights == pytest.approx([-np.log(5)] * 5)
    assert tree.log_evidence is None
    assert all(np.isnan(node.reward_logit) for node in tree.nodes[1:])
    assert tree.counts.reward_tokens == 0


def test_a_path_is_one_step_without_delimiters() -> None:
    rule = StepRule(delimiters=(), max_tokens=4)
    tree = search(IndependentSettings(samples=20, step=rule))
    assert len(tree.nodes) == 21
    assert {node.finish for node in tree.nodes[1:]} <= {*COMPLETE, "length"}


def test_more_samples_begin_with_the_fewer_ones() -> None:
    few, many = (search(IndependentSettings(samples=n, step=RULE)) for n in (3, 10))
    texts = [many.path_text(leaf) for leaf in many.leaves]
    assert [few.path_text(leaf) for leaf in few.leaves] == texts[:3]


def test_samples_have_the_policy_s_frequencies() -> None:
    tree = search(IndependentSettings(samples=6_000, step=RULE))
    texts = [tree.path_text(leaf) for leaf in tree.leaves]
    for path in toy_engine().paths(PROBLEM, RULE):
        p = path.probability
        share = texts.count("".join(path.steps)) / 6_000
        assert share == pytest.approx(p, abs=4.5 * np.sqrt(p * (1 - p) / 6_000))


def test_temperature_zero_takes_the_likeliest_tokens() -> None:
    settings = IndependentSettings(samples=2, step=RULE, sampling=Sampling(temperature=0))
    tree = search(settings)
    assert [tree.path_text(leaf) for leaf in tree.leaves] == ["a\n" + BOX[1]] * 2


def test_the_repr_of_a_tree_is_short() -> None:
    """asyncio.run makes it for whatever a main coroutine returns."""
    tree = search(IndependentSettings(samples=50, step=StepRule(delimiters=(), max_tokens=4)))
    assert repr(tree) == "SearchTree('toy', 'independent', 51 nodes, 50 leaves, 'complete')"


@pytest.mark.parametrize("settings", [EVERY[0], EVERY[5]], ids=lambda s: s.kind)
def test_a_missing_reward_model_is_a_user_error(settings) -> None:
    with pytest.raises(UserError, match=f"{settings.kind} needs a reward model"):
        asyncio.run(run_sampler(PROBLEM, toy_engine(), None, settings, Key.of(0)))


@every_sampler
def test_the_same_bytes_at_any_concurrency(settings, tmp_path) -> None:
    """64 problems, 1, 4 and 64 at a time, with steps that take a random while."""
    problems = [Problem(f"p{i}", "?", None) for i in range(64)]

    def shard(concurrency: int) -> bytes:
        engine, model = toy_engine(), ScriptedRewardModel(toy_reward)
        dawdle = np.random.default_rng(concurrency)
        extend = engine.extend

        async def slow(*arguments):
            for _ in range(dawdle.integers(0, 4)):
                await asyncio.sleep(0)
            return await extend(*arguments)

        engine.extend = slow

        async def run_all() -> list[SearchTree]:
            gate = asyncio.Semaphore(concurrency)

            async def one(problem: Problem) -> SearchTree:
                async with gate:
                    key = Key.of(7, "search", problem.id)
                    return await run_sampler(problem, engine, model, settings, key)

            return await asyncio.gather(*map(one, problems))

        path = tmp_path / f"{concurrency}" / "shard-00000.parquet"
        write_shard(path, asyncio.run(run_all()))
        return path.read_bytes()

    assert shard(1) == shard(4) == shard(64)

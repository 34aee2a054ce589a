"""Best-of-N, self-consistency and independent samples; what every sampler promises."""

import asyncio
from collections.abc import Callable

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from sampler_cases import CASES, SamplerCase
from sampler_contract import CHECKS
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
from butwait.records import COMPLETE, OPEN, Key, SearchTree, UserError
from butwait.reward_models.scripted import ScriptedRewardModel
from butwait.search.run import run_sampler
from butwait.search.samplers.particle_filter import ParticleFilterSettings
from butwait.search.samplers.samples import (
    BestOfNSettings,
    IndependentSettings,
    SelfConsistencySettings,
    product_logit,
)
from butwait.search.settings import SAMPLERS, SamplerSettings
from scripted_paths import scripted_paths


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_contract(case: SamplerCase, check: Callable[[SamplerCase], None]) -> None:
    check(case)


def test_every_sampler_is_under_contract() -> None:
    covered = {type(case.settings) for case in CASES}
    missing = [kind for kind in SAMPLERS if SAMPLERS[kind].settings not in covered]
    assert not missing, f"add settings to sampler_cases.CASES: {missing}"


def test_selection_is_a_setting_of_every_sampler() -> None:
    defaults = {kind: SAMPLERS[kind].settings().selection for kind in SAMPLERS}
    plain = {"independent", "self_consistency", "but_wait"}
    assert {kind for kind, chosen in defaults.items() if chosen == "vote"} == plain
    assert defaults.pop("best_of_n") == "argmax"
    rewarded = {chosen for kind, chosen in defaults.items() if kind not in plain}
    assert rewarded == {"weighted_vote"}


@pytest.mark.parametrize("kind", ["independent", "self_consistency", "but_wait"])
@pytest.mark.parametrize("selection", ["argmax", "weighted_vote"])
def test_without_rewards_none_decides(kind: str, selection: str) -> None:
    with pytest.raises(ValidationError, match="Input should be 'vote' or 'sample'"):
        TypeAdapter(SamplerSettings).validate_python({"kind": kind, "selection": selection})


def test_samplers_that_ask_for_rewards_say_so() -> None:
    asking = {case.settings.kind for case in CASES if case.rewarded}
    assert asking == {kind for kind in SAMPLERS if SAMPLERS[kind].needs_reward_model}


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
    for path in scripted_paths(toy_engine(), PROBLEM, RULE):
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


@pytest.mark.parametrize("kind", [k for k in SAMPLERS if SAMPLERS[k].needs_reward_model])
def test_a_missing_reward_model_is_a_user_error(kind: str) -> None:
    settings = next(case.settings for case in CASES if case.settings.kind == kind)
    with pytest.raises(UserError, match=f"{kind} needs a reward model"):
        asyncio.run(run_sampler(PROBLEM, toy_engine(), None, settings, Key.of(0)))

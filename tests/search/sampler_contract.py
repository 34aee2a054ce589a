"""What every sampler has to do, as checks that run over all of them.

``CHECKS`` are run on each of ``sampler_cases.CASES``:

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_contract(case, check):
        check(case)
"""

import asyncio
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from sampler_cases import PHRASE, SIZE, SamplerCase
from search_toys import LOGITS, TABLE, text_of

from butwait.engines.engine import Continuation, Prefix
from butwait.engines.scripted import EOS, ScriptedEngine
from butwait.engines.settings import Sampling, StepRule
from butwait.records import OPEN, Counts, Key, Problem, SearchTree
from butwait.reward_models.reward_model import Path, RewardModelError, Score, Step
from butwait.reward_models.scripted import ScriptedRewardModel
from butwait.search.rows import to_row
from butwait.search.run import run_sampler
from butwait.search.samplers.particle_filter import RESTART
from butwait.search.samplers.samples import IndependentSettings
from butwait.search.settings import SamplerSettings

PROBLEM = Problem("contract", "How many?", None)


def toy_policy(question: str, text: str) -> dict[str, float]:
    """``TABLE``, begun anew after ``PHRASE``; a path that it lists no more ends."""
    return TABLE.get(text.rpartition(PHRASE)[2], {EOS: 1.0})


def toy_engine(power: float = 1.0) -> ScriptedEngine:
    """An engine of ``toy_policy``, in which ``PHRASE`` is one token; each token's probability to
    this power."""
    pieces = {piece for choices in TABLE.values() for piece in choices}

    def law(question: str, text: str) -> dict[str, float]:
        weights = {token: p**power for token, p in toy_policy(question, text).items()}
        return {token: weight / sum(weights.values()) for token, weight in weights.items()}

    return ScriptedEngine(law, [*pieces, PHRASE])


class CountingRewardModel(ScriptedRewardModel):
    """Adds up the tokens of all its scores."""

    tokens = 0

    async def score(self, problem: Problem, paths: Sequence[Path]) -> list[Score]:
        scores = await super().score(problem, paths)
        self.tokens += sum(score.tokens for score in scores)
        return scores


def toy_reward(problem: Problem, steps: Sequence[Step]) -> float:
    return LOGITS.get(text_of(steps), 0.0)


def run(
    settings: SamplerSettings,
    *,
    engine: ScriptedEngine | None = None,
    model: ScriptedRewardModel | None = None,
    seed: int = 0,
) -> SearchTree:
    """One search of ``PROBLEM``."""
    engine, model = engine or toy_engine(), model or ScriptedRewardModel(toy_reward)
    key = Key.of(seed, "contract", PROBLEM.id)
    return asyncio.run(run_sampler(PROBLEM, engine, model, settings, key))


def the_tree_is_well_formed(case: SamplerCase) -> None:
    tree = run(case.settings)
    root, *steps = tree.nodes
    assert (root.parent, len(root.token_ids), root.finish) == (-1, 0, "step")
    for index, node in enumerate(steps, 1):
        parent = tree.nodes[node.parent]
        assert 0 <= node.parent < index
        assert parent.finish in OPEN or (case.reopens and node.finish == "inserted")
        assert (node.token_ids.dtype, node.logprobs.dtype) == (np.int32, np.float32)
        assert len(node.token_ids) == len(node.logprobs)
    if case.sweeps == 1:
        assert tree.leaves.tolist() == tree.populations[-1].nodes.tolist()
    rewarded = [not np.isnan(node.reward_logit) for node in steps]
    assert any(rewarded) == case.rewarded


def texts_and_logprobs_are_the_engines(case: SamplerCase) -> None:
    engine = toy_engine()
    tree = run(case.settings, engine=engine)
    start, law = engine.start(PROBLEM), toy_engine(case.power)
    np.testing.assert_array_equal(tree.prompt_ids, start.token_ids)
    for index, node in enumerate(tree.nodes[1:], 1):
        before = tree.path_tokens(node.parent)
        assert engine.tokenizer.decode(tree.path_tokens(index).tolist()) == tree.path_text(index)
        prefix = Prefix(np.concatenate([start.token_ids, before]), start.prompt_length)
        [scored] = asyncio.run(law.score([prefix], [node.token_ids]))
        if node.finish == "inserted":
            scored = np.full(len(node.token_ids), np.nan, np.float32)
        np.testing.assert_allclose(node.logprobs, scored, rtol=1e-6, atol=1e-6)
        inserted = node.finish == "inserted"
        drawn = tree.path_sampled(index)[len(before) :]
        assert drawn.tolist() == [not inserted] * len(node.token_ids)


def populations_can_be_rebuilt(case: SamplerCase) -> None:
    """Every particle stands where its ancestor stood, or on a new node of its own below that; the
    reference of a later sweep on an old one."""
    for seed in range(5):
        tree = run(case.settings, seed=seed)
        before, accounted, sweeps = np.zeros(SIZE, np.int32), {0}, 1
        for population in tree.populations:
            assert len(population.nodes) == len(population.ancestors) == SIZE
            if (population.ancestors == RESTART).any():
                assert (population.ancestors == RESTART).all()
                before, sweeps = np.zeros(SIZE, np.int32), sweeps + 1
            moved = population.nodes != before[population.ancestors]
            fresh = population.nodes[moved].tolist()
            assert len(set(fresh)) == len(fresh)
            assert len(accounted & set(fresh)) <= (sweeps > 1) or case.reopens
            for came_from, node in zip(
                before[population.ancestors][moved].tolist(), fresh, strict=True
            ):
                if not case.reopens:
                    assert tree.nodes[node].parent == came_from
                accounted |= set(tree.path(node))
            before = population.nodes
        assert sweeps == case.sweeps
        left_out = set(range(len(tree.nodes))) - accounted
        if case.sweeps > 1:  # joined, and joined elsewhere before a particle got there
            left_out = {i for i in left_out if tree.nodes[i].overshoot_tokens == 0}
        cut_off = {i for i in left_out if case.reopens and tree.nodes[i].finish == "length"}
        assert all(node in cut_off or cut_off & set(descendants(tree, node)) for node in left_out)


def descendants(tree: SearchTree, node: int) -> list[int]:
    return [i for i in range(len(tree.nodes)) if node in tree.path(i)]


def weights_are_normalised(case: SamplerCase) -> None:
    tree = run(case.settings)
    assert tree.outcome == "complete"
    assert len(tree.log_weights) == len(tree.leaves)
    assert np.exp(tree.log_weights).sum() == pytest.approx(1)
    for population in tree.populations:
        assert not np.isnan(population.log_weights).any()


def counts_are_the_engines(case: SamplerCase) -> None:
    """The tree's costs are the sums over its nodes, and what engine and reward model counted."""
    engine, model, scored_tokens = toy_engine(), CountingRewardModel(toy_reward), 0
    score = engine.score

    async def counted(prefixes: Sequence[Prefix], continuations: Sequence[np.ndarray]):
        nonlocal scored_tokens
        scored_tokens += sum(map(len, continuations))
        return await score(prefixes, continuations)

    engine.score = counted
    tree = run(case.settings, engine=engine, model=model)
    sampled = [node for node in tree.nodes if node.finish != "inserted"]
    drawn = sum(len(node.token_ids) for node in sampled if node.overshoot_tokens == 0)
    prefilled = sum(node.prefilled_tokens for node in tree.nodes)
    scored = sum(node.reward_tokens for node in tree.nodes)
    assert tree.counts == Counts(drawn, prefilled, scored)
    assert drawn == engine.counters.policy_tokens
    assert prefilled == engine.counters.prefilled_tokens + scored_tokens
    assert scored == model.tokens
    again = case.reopens or case.sweeps > 1
    once = len(tree.prompt_ids) + (drawn if case.power != 1 else 0)
    assert again or prefilled == once, "the prompt, once"
    assert (scored > 0) == case.rewarded


def handles_are_freed(case: SamplerCase) -> None:
    engine, model = toy_engine(), ScriptedRewardModel(toy_reward)
    run(case.settings, engine=engine, model=model)
    assert (engine.held, model.held) == (0, 0)


def handles_are_freed_when_scoring_fails(case: SamplerCase) -> None:
    if not case.rewarded:
        return

    def reward(problem: Problem, steps: Sequence[Step]) -> float:
        return np.nan if len(text_of(steps)) > 2 else 0.0

    engine, model = toy_engine(), ScriptedRewardModel(reward)
    with pytest.raises(RewardModelError):
        run(case.settings, engine=engine, model=model)
    assert engine.held == 0
    assert model.held <= SIZE * case.side_by_side, "only those of the call that failed"


class ShufflingEngine(ScriptedEngine):
    """Answers late and works through its rows in another order than they were given in."""

    def __init__(self, seed: int) -> None:
        pieces = {piece for choices in TABLE.values() for piece in choices}
        super().__init__(toy_policy, [*pieces, PHRASE])
        self._rng = np.random.default_rng(seed)

    async def extend(
        self,
        prefixes: Sequence[Prefix],
        step_rule: StepRule,
        sampling: Sampling,
        keys: Sequence[Key],
    ) -> list[Continuation]:
        for _ in range(self._rng.integers(0, 4)):
            await asyncio.sleep(0)
        order = self._rng.permutation(len(prefixes)).tolist()
        made = await super().extend(
            [prefixes[i] for i in order], step_rule, sampling, [keys[i] for i in order]
        )
        return [made[order.index(i)] for i in range(len(order))]


def the_tree_is_the_same_in_any_company(case: SamplerCase) -> None:
    """At concurrency 1, 4 and 64, and in any order of rows."""
    problems = [Problem(f"p{i}", "How many?", None) for i in range(10)]

    async def search_all(concurrency: int) -> list[SearchTree]:
        engine, model = ShufflingEngine(concurrency), ScriptedRewardModel(toy_reward)
        gate = asyncio.Semaphore(concurrency)

        async def one(problem: Problem) -> SearchTree:
            async with gate:
                key = Key.of(0, "company", problem.id)
                return await run_sampler(problem, engine, model, case.settings, key)

        return await asyncio.gather(*map(one, problems))

    alone, some, all_at_once = (
        [content(tree) for tree in asyncio.run(search_all(n))] for n in (1, 4, 64)
    )
    assert alone == some == all_at_once
    assert len(set(alone)) == len(problems), "problems share no randomness"


def content(tree: SearchTree) -> str:
    """Every column of a tree. Which row of a call pays for a prompt that all of them share depends
    on their order, so of the prefilled tokens only the sum is compared."""
    columns = to_row(tree).to_pydict()
    return repr(columns | {"prefilled": sum(columns["prefilled"][0])})


def impossible_rewards_end_the_search(case: SamplerCase) -> None:
    tree = run(case.settings, model=ScriptedRewardModel(lambda problem, steps: -np.inf))
    assert tree.outcome == ("extinct" if case.rewarded and case.extinct else "complete")
    if tree.outcome == "extinct":
        assert (tree.log_weights == -np.inf).all()
        assert tree.log_evidence in (None, -np.inf)
    else:
        assert np.exp(tree.log_weights).sum() == pytest.approx(1)


def limits_are_kept(case: SamplerCase) -> None:
    """Tokens of a path, inserted ones included; paths in flight; steps."""
    engine, rows = toy_engine(), []
    extend = engine.extend

    async def watched(prefixes: Sequence[Prefix], *rest: object) -> list[Continuation]:
        rows.append(len(prefixes))
        return await extend(prefixes, *rest)

    engine.extend = watched
    tree = run(case.settings, engine=engine)
    assert max(rows) <= SIZE * case.side_by_side
    ends = [i for i in range(len(tree.nodes)) if len(tree.path_tokens(i)) >= case.rule.max_tokens]
    assert all(len(tree.path_tokens(i)) == case.rule.max_tokens for i in ends)
    assert all(tree.nodes[i].finish not in OPEN for i in ends)
    most = getattr(case.settings, "max_steps", None)
    if most is not None:
        assert len(rows) == most * case.sweeps
        assert max(len(list(tree.path(i))) for i in range(len(tree.nodes))) == most


def a_path_may_be_one_step(case: SamplerCase) -> None:
    rule = case.rule.model_copy(update={"delimiters": ()})
    tree = run(case.make(SIZE, rule))
    if not case.reopens:
        assert {node.parent for node in tree.nodes[1:]} == {0}
        first, later = SIZE * case.side_by_side, (SIZE - 1) * (case.sweeps - case.side_by_side)
        assert len(tree.nodes) == first + later + 1
    assert all(tree.nodes[leaf].finish not in OPEN for leaf in tree.leaves)
    assert np.exp(tree.log_weights).sum() == pytest.approx(1)


def one_particle_is_a_sample_of_the_policy(case: SamplerCase) -> None:
    if case.sweeps > 1:
        return  # it holds one particle and moves the others
    tree = run(case.make(1, case.rule))
    plain = run(IndependentSettings(samples=1, step=case.rule))
    assert tree.log_weights.tolist() == [0.0]
    most = getattr(case.settings, "max_steps", None)
    path = list(plain.path(int(plain.leaves[0])))[:most]
    first = "".join(plain.nodes[i].text for i in path)
    assert tree.path_text(int(tree.leaves[0])).startswith(first)
    assert case.reopens or tree.path_text(int(tree.leaves[0])) == first


CHECKS: list[Callable[[SamplerCase], None]] = [
    the_tree_is_well_formed,
    texts_and_logprobs_are_the_engines,
    populations_can_be_rebuilt,
    weights_are_normalised,
    counts_are_the_engines,
    handles_are_freed,
    handles_are_freed_when_scoring_fails,
    the_tree_is_the_same_in_any_company,
    impossible_rewards_end_the_search,
    limits_are_kept,
    a_path_may_be_one_step,
    one_particle_is_a_sample_of_the_policy,
]

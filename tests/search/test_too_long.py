"""Paths that are longer than the reward model takes: every sampler ends them, truncated."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from sampler_cases import CASES, SIZE
from search_toys import LOGITS, PROBLEM, TABLE, toy_engine, toy_reward

from butwait.engines.scripted import ScriptedEngine
from butwait.records import COMPLETE, Key, Problem
from butwait.reward_models.kinds.ensemble import EnsembleRewardModel
from butwait.reward_models.reward_model import TOO_LONG, Path, PathTooLongError, Score, Step
from butwait.reward_models.scripted import ScriptedRewardModel
from butwait.search.outline import outline
from butwait.search.rows import from_row, to_row
from butwait.search.run import run_sampler
from butwait.search.samplers.samples import BestOfNSettings
from butwait.search.settings import in_flight

LIMIT = 2  # tokens of the toy's paths, which have up to four


def tokens(steps: Sequence[Step]) -> int:
    return sum(len(step.token_ids) for step in steps)


class Limited(ScriptedRewardModel):
    """Takes no path of more than so many tokens."""

    def __init__(self, limit: int = LIMIT) -> None:
        super().__init__(toy_reward)
        self.limit = limit

    async def score(self, problem: Problem, paths: Sequence[Path]) -> list[Score]:
        fits = [path for path in paths if tokens(path.steps) <= self.limit]
        scores = iter(await super().score(problem, fits))
        return [next(scores) if tokens(p.steps) <= self.limit else TOO_LONG for p in paths]


class Raising(Limited):
    """Cannot say which of the paths it is."""

    async def score(self, problem: Problem, paths: Sequence[Path]) -> list[Score]:
        if any(tokens(path.steps) > self.limit for path in paths):
            raise PathTooLongError("too long")
        return await ScriptedRewardModel.score(self, problem, paths)


def grow(settings, model, seed=0, engine=None):
    key = Key.of(seed, "test")
    return asyncio.run(run_sampler(PROBLEM, engine or toy_engine(), model, settings, key))


@pytest.mark.parametrize("model", [Limited, Raising], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("case", [c for c in CASES if c.rewarded], ids=lambda case: case.name)
def test_every_sampler_ends_a_path_that_is_too_long(case, model):
    cut = 0
    for seed in range(4):
        judge = model()
        tree = grow(case.settings, judge, seed)
        whole = case.name.startswith("best_of_n")  # whose samples are whole before they are judged
        assert tree.outcome == "complete"
        assert judge.held == 0
        for i, node in enumerate(tree.nodes[1:], start=1):
            long = len(tree.path_tokens(i)) > LIMIT
            ends = i in tree.leaves if whole else True
            assert node.too_long == (long and ends)
            if not node.too_long:
                continue
            cut += 1
            assert node.finish == "length"
            assert i not in {n.parent for n in tree.nodes}
            if whole:
                continue
            assert node.reward_logit == tree.nodes[node.parent].reward_logit
        assert np.isfinite(tree.log_weights).all()
        assert tree.too_long == outline(tree).too_long.sum() <= outline(tree).truncated.sum()
    assert cut


def test_best_of_n_keeps_what_is_known_of_a_sample():
    tree = grow(BestOfNSettings(samples=16, step=CASES[0].rule), Limited())
    for leaf in set(tree.leaves.tolist()):
        fits = [i for i in tree.path(leaf) if len(tree.path_tokens(i)) <= LIMIT]
        known = LOGITS.get(tree.path_text(fits[-1])) if fits else 0.0
        if known is not None:
            assert tree.nodes[leaf].reward_logit == pytest.approx(known)
        assert (tree.nodes[leaf].finish in COMPLETE) <= (not tree.nodes[leaf].too_long)


def test_where_not_even_a_first_step_fits_the_search_ends_all_the_same():
    tree = grow(CASES[0].settings, Limited(0))
    assert len(tree.populations) == 1
    assert {tree.nodes[leaf].finish for leaf in tree.leaves} == {"length"}
    assert {tree.nodes[leaf].reward_logit for leaf in tree.leaves} == {0.0}
    assert tree.log_evidence == pytest.approx(0.0)


def test_a_tree_comes_back_with_its_marks():
    tree = grow(CASES[0].settings, Limited())
    row = to_row(tree)
    back = from_row({name: row[name].chunk(0)[0] for name in row.column_names})
    assert [node.too_long for node in back.nodes] == [node.too_long for node in tree.nodes]
    assert [node.finish for node in back.nodes] == [node.finish for node in tree.nodes]


def test_a_path_too_long_for_one_member_is_too_long_for_all():
    members = [ScriptedRewardModel(toy_reward), Raising()]
    judge = EnsembleRewardModel(members, "mean")
    tree = grow(CASES[0].settings, judge)
    assert tree.too_long
    assert all(member.held == 0 for member in members)


@pytest.mark.parametrize("particles", [2, 16, 512])
def test_one_token_too_many(particles):
    """The limit is met exactly by the shorter of two paths."""
    engine = ScriptedEngine({**TABLE, "": {"a\n": 0.5, "b\n": 0.5}, "a\n": {"d\n": 1.0}})
    settings = CASES[0].make(particles, CASES[0].rule)
    tree = grow(settings, Limited(3), engine=engine)
    assert all(len(tree.path_tokens(i)) == 4 for i, n in enumerate(tree.nodes) if n.too_long)
    assert tree.outcome == "complete"
    assert tree.too_long


@pytest.mark.parametrize("case", [c for c in CASES if c.rewarded], ids=lambda case: case.name)
def test_samplers_say_how_many_paths_they_score_at_a_time(case):
    """``slots: auto`` makes a row for each, and for the prompt of each question."""
    stage, engine = SimpleNamespace(concurrency=4), SimpleNamespace(slots=8)
    paths = SIZE * case.side_by_side
    assert in_flight(case.settings, [PROBLEM] * 9, stage, engine) == 4 * (paths + 1)
    assert in_flight(case.settings, [PROBLEM] * 2, stage, engine, 3) == 2 * (3 * paths + 1)


def test_rows_that_are_kept_full_bound_the_paths_to_score():
    """``concurrency: auto`` with 16 servers of 512 rows each: four paths for every row."""
    stage = SimpleNamespace(concurrency="auto")
    engine = SimpleNamespace(max_rows=512, urls=["http://a"] * 16)
    settings = CASES[0].make(512, CASES[0].rule)
    assert in_flight(settings, [PROBLEM] * 817, stage, engine) == 64 * 513

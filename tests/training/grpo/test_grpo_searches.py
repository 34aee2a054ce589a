"""Searches and what is learned from them, on questions that are written down."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpo_cases import prompting
from grpo_searching import EASY, HARD, KEY, NEVER, scripted, searched, settings

from butwait.engines.scripted import ScriptedEngine
from butwait.problems.grading import Grader
from butwait.records import Problem
from butwait.reward_models.reward_model import Step
from butwait.reward_models.scripted import ScriptedRewardModel
from butwait.training.grpo.searches import LoopSearch, SearchFolder, likelihood_row


def test_solutions_are_unique_verified_paths_with_a_mask_on_what_was_drawn(
    engine: ScriptedEngine, grader: Grader
) -> None:
    chosen = settings(group=8, batch_size=8)
    search = LoopSearch(chosen, prompting(engine), grader, SearchFolder(Path("none")), KEY)
    tree = searched(engine, EASY, grader)
    found = search.solutions(tree, KEY)
    assert {s.text for s in found} == {f"{c}\n\\boxed{{1}}" for c in "abc"}
    for solution in found:
        row = likelihood_row(solution)
        assert row.problem_id == "easy"
        assert row.prompt_ids.tolist() == tree.prompt_ids.tolist()
        assert len(row.token_ids) == 3
        assert row.token_ids[-1] == 0
        assert row.mask.tolist() == [True, True, False]
    assert [r.token_ids.tolist() for r in search.rows(tree, EASY, KEY)] == [
        s.token_ids.tolist() for s in found
    ]
    assert search.rows(searched(engine, NEVER, grader), NEVER, KEY) == []


def test_no_more_solutions_than_asked_for_drawn_by_the_key(
    engine: ScriptedEngine, grader: Grader
) -> None:
    chosen = settings(solutions=1)
    search = LoopSearch(chosen, prompting(engine), grader, SearchFolder(Path("none")), KEY)
    tree = searched(engine, EASY, grader)
    drawn = [search.solutions(tree, KEY.derive(i)) for i in range(40)]
    assert {len(found) for found in drawn} == {1}
    assert {found[0].text[0] for found in drawn} == {"a", "b", "c"}
    again = search.solutions(tree, KEY.derive(0))
    assert again[0].leaf == drawn[0][0].leaf


def test_detours_are_learned_in_place_of_solutions(engine: ScriptedEngine, grader: Grader) -> None:
    # Resampling kills all branches but those that go by c, as there are few.
    tree = searched(engine, EASY, grader, guide=scripted({"c\n": 8.0}))
    chosen = settings(backtrack={"per_question": 2})
    search = LoopSearch(chosen, prompting(engine), grader, SearchFolder(Path("none")), KEY)
    [plain] = search.solutions(tree, KEY)
    assert plain.text == "c\n\\boxed{1}"
    [row] = search.rows(tree, EASY, KEY)
    text = engine.tokenizer.decode(row.token_ids.tolist())
    assert text[:2] in ("a\n", "b\n")
    assert text.endswith("c\n\\boxed{1}")
    # No loss on the dead branch, which is one token.
    assert not row.mask[0]
    assert row.mask[-3:].all()
    assert row.problem_id == "easy"


def test_searches_are_kept_reused_and_judged(
    tmp_path: Path, engine: ScriptedEngine, grader: Grader
) -> None:
    chosen = settings(max_age=2, floors={"ess": 0.2, "ancestors": 0.15})
    folder = SearchFolder(tmp_path)
    search = LoopSearch(chosen, prompting(engine), grader, folder, KEY)
    problems = [NEVER, EASY]

    def run(step: int, policy: str = "p", search: LoopSearch = search) -> Any:
        return asyncio.run(search.run(problems, step, engine, scripted(), policy))

    first = run(3)
    assert list(first.trees) == ["never", "easy"]
    assert first.again == {}
    cost = first.trees["never"].counts + first.trees["easy"].counts
    assert first.counts == cost
    assert cost.policy_tokens == 64
    # Nothing was resampled: equal weights, and every particle has a first step of its own.
    assert first.ess == pytest.approx([1.0, 1.0])
    assert first.ancestors == [1.0, 1.0]
    assert first.poor == 0

    # The solved one is used once more while it is young, and costs nothing; the other is searched.
    before = engine.counters.policy_tokens
    second = run(5)
    assert (list(second.trees), list(second.again)) == (["never"], ["easy"])
    assert second.counts.policy_tokens == 32 == engine.counters.policy_tokens - before
    assert list(second.used) == ["easy", "never"]
    assert list(run(6).trees) == ["never", "easy"]

    # The same step again: nothing is drawn, and what it cost is counted as it was.
    before = engine.counters.policy_tokens
    resumed = LoopSearch(chosen, prompting(engine), grader, SearchFolder(tmp_path), KEY)
    again = run(3, search=resumed)
    assert engine.counters.policy_tokens == before
    assert again.counts == first.counts
    assert again.mixed_policies == 0
    assert again.trees["easy"].grades == first.trees["easy"].grades
    assert run(3, "another policy", resumed).mixed_policies == 1


def by_c(problem: Problem, steps: Sequence[Step]) -> float:
    """What goes by c is better from the first step on: the others die."""
    return 6.0 if steps[0].text == "c\n" else 0.0


def at_the_end(problem: Problem, steps: Sequence[Step]) -> float:
    """What went by c turns out better at the end: the weight is on few particles."""
    return by_c(problem, steps) if len(steps) == 2 else 0.0


@pytest.mark.parametrize(
    ("reward", "ess_floor", "ancestor_floor", "poor"),
    [(by_c, 0.5, 0.1, 0), (by_c, 0.0, 0.5, 1), (at_the_end, 0.1, 0.9, 0), (at_the_end, 0.5, 0, 1)],
)
def test_a_search_below_a_floor_is_poor(
    engine: ScriptedEngine,
    grader: Grader,
    tmp_path: Path,
    reward: Callable[[Problem, Sequence[Step]], float],
    ess_floor: float,
    ancestor_floor: float,
    poor: int,
) -> None:
    chosen = settings(floors={"ess": ess_floor, "ancestors": ancestor_floor})
    search = LoopSearch(chosen, prompting(engine), grader, SearchFolder(tmp_path), KEY)
    found = asyncio.run(search.run([HARD], 0, engine, ScriptedRewardModel(reward), "p"))
    tree = found.trees["hard"]
    first = [node.text for node in tree.nodes if node.parent == 0]
    lucky = first.count("c\n")
    assert 2 <= lucky <= 7
    if reward is by_c:
        # Each of the lucky first steps has survivors, and they weigh the same.
        assert found.ancestors == [lucky / 16]
        assert found.ess == pytest.approx([1.0])
    else:
        weights = np.array([np.exp(6.0)] * lucky + [1.0] * (16 - lucky))
        assert found.ess == pytest.approx([weights.sum() ** 2 / (weights**2).sum() / 16])
        assert found.ancestors == [1.0]
    assert found.poor == poor

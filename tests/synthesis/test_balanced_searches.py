"""Solutions of one question from several searches: which are taken, and who completes branches."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthesis_cases import KEY, PROMPTING, TreeBuilder, make_problem

from butwait.engines.scripted import ScriptedEngine
from butwait.engines.settings import Sampling, StepRule
from butwait.problems.grading import Grader
from butwait.records import Node, UserError
from butwait.synthesis.builder import Material, Searcher, StoredTree
from butwait.synthesis.builders.backtrack import (
    BacktrackSettings,
    ConfirmSettings,
    confirm_branches,
)
from butwait.synthesis.builders.verified import VerifiedSettings, build_verified


def searched(stage: str, *texts: str, reward: float = 0.0) -> StoredTree:
    builder = TreeBuilder("q")
    for text in texts:
        builder.end(0, f"{text} \\boxed{{4}}", reward=reward)
    return replace(builder.stored(), stage=stage)


def taken(trees: list[StoredTree], **settings) -> list[tuple[str, str]]:
    """(stage, first word) of each example, in order."""
    material = Material(trees, [make_problem("q")], PROMPTING, VerifiedSettings(**settings), KEY)
    built = build_verified(material)
    return [(e.provenance["stage"], e.text.split()[0]) for e in built.examples]


FEW, MANY = searched("new", "n1", "n22"), searched("old", *(f"o{'1' * n}" for n in range(1, 9)))


def test_each_search_gives_in_turn() -> None:
    stages = [stage for stage, _ in taken([FEW, MANY], per_question=4, balance=True)]
    assert stages == ["new", "old", "new", "old"]
    # What one lacks the others give; the first of the list is first.
    stages = [stage for stage, _ in taken([FEW, MANY], per_question=7, balance=True)]
    assert stages == ["new", "old", "new", "old", "old", "old", "old"]
    assert [s for s, _ in taken([MANY, FEW], per_question=3, balance=True)] == ["old", "new", "old"]


@pytest.mark.parametrize(
    ("choose", "found"),
    [
        ("shortest", ["n1", "o1", "n22", "o11"]),
        ("longest", ["n22", "o11111111", "n1", "o1111111"]),
    ],
)
def test_the_rule_holds_within_a_search(choose: str, found: list[str]) -> None:
    kept = taken([FEW, MANY], per_question=4, balance=True, choose=choose)
    assert [word for _, word in kept] == found


@pytest.mark.parametrize("choose", ["random", "shortest", "longest", "median", "diverse"])
def test_with_one_search_balance_changes_nothing(choose: str) -> None:
    settings = {"per_question": 3, "choose": choose}
    assert taken([MANY], balance=True, **settings) == taken([MANY], **settings)


def test_a_solution_that_both_found_counts_once_for_the_first() -> None:
    again = searched("old", "n1", "n22", "o1")
    kept = taken([FEW, again], per_question=4, balance=True, choose="shortest")
    assert kept == [("new", "n1"), ("old", "o1"), ("new", "n22")]


def test_rewards_are_needed_of_every_search() -> None:
    unscored = searched("old", "o1", reward=float("nan"))
    with pytest.raises(UserError, match="choose: reward needs the rewards"):
        taken([FEW, unscored], per_question=2, balance=True, choose="reward")


class Pooled:
    """Trees of one question, as ``SearchedTrees`` gives them."""

    questions = ("q",)

    def __init__(self, *trees: StoredTree) -> None:
        self.of = lambda problem_id: list(trees)


def test_a_model_completes_the_branches_of_its_own_searches(tmp_path: Path) -> None:
    # Both searches solved the question and left "x" dead; only the second model solves it.
    def policy(solves: float) -> ScriptedEngine:
        box = {"\\boxed{4}": 1.0}
        way = {"\\boxed{4}": solves, "\\boxed{5}": 1 - solves}
        first = {"a\n": 0.4, "b\n": 0.4, "x\n": 0.2}
        return ScriptedEngine({"": first, "a\n": box, "b\n": box, "x\n": way})

    policies = [policy(1e-12), policy(1 - 1e-12)]
    problem = make_problem("q")

    def stored(stage: str, engine: ScriptedEngine, way: str) -> StoredTree:
        builder = TreeBuilder("q")
        builder.add(0, "x\n")
        builder.end(builder.add(0, way), "\\boxed{4}")
        tree = builder.stored()
        tree.tree.prompt_ids = engine.start(problem).token_ids
        for i, node in enumerate(tree.tree.nodes[1:], start=1):
            ids = np.asarray(engine.encode(node.text), np.int32)
            logprobs = np.zeros(len(ids), np.float32)
            tree.tree.nodes[i] = Node(node.parent, ids, node.text, logprobs, node.finish, 0.0)
        return replace(tree, stage=stage)

    pooled = Pooled(stored("hunt_0", policies[0], "a\n"), stored("hunt_1", policies[1], "b\n"))
    settings = BacktrackSettings(per_question=4, confirm=ConfirmSettings(completions=3))

    async def ask(i: int, stages: frozenset[str] | None) -> dict:
        with Grader() as grader:
            material = Material(pooled, [problem], PROMPTING, settings, KEY, grader=grader)
            rule, folder = StepRule(delimiters=("\n",), max_tokens=20), tmp_path / f"{i} {stages}"
            searcher = Searcher(policies[i], rule, Sampling(), folder, 1, 1, stages)
            found, _ = await confirm_branches(material, searcher)
        return {branch[0]: got.verified for branch, got in found.items()}

    assert asyncio.run(ask(0, frozenset({"hunt_0"}))) == {"hunt_0": 0}
    assert asyncio.run(ask(1, frozenset({"hunt_1"}))) == {"hunt_1": 3}
    assert asyncio.run(ask(0, None)) == {"hunt_0": 0, "hunt_1": 0}

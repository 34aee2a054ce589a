"""Detours into dead branches."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthesis_cases import (
    BOX,
    KEY,
    PROMPTING,
    TreeBuilder,
    check_example,
    make_problem,
    random_trees,
    roles,
)

from butwait.engines.scripted import ScriptedEngine
from butwait.engines.settings import Sampling, StepRule
from butwait.problems.grading import Grader
from butwait.records import Key, Problem, UserError
from butwait.synthesis.branches import (
    Confirmation,
    ConfirmSettings,
    confirm,
    possible_share,
    read_confirmations,
    write_confirmations,
)
from butwait.synthesis.builder import BuildCounts, Material, Searcher, StoredTree
from butwait.synthesis.builders.backtrack import (
    BacktrackSettings,
    Plan,
    build_backtrack,
    plan,
    unconfirmed,
)
from butwait.synthesis.card import Origin, write_card
from butwait.synthesis.questions import Question
from butwait.synthesis.settings import FixedNumber, UniformNumber

PHRASES = {"doubt": ("Wait.",), "return": ("Back.",), "check": ("Check.",)}


def build(stored, confirmations=None, **settings):
    chosen = BacktrackSettings(phrases=PHRASES, **settings)
    return build_backtrack(
        Material([stored], [make_problem("q")], PROMPTING, chosen, KEY, prepared=confirmations)
    )


def planned(stored: StoredTree, settings: BacktrackSettings, key: Key = KEY) -> list[Plan]:
    problem = make_problem("q")
    material = Material([stored], [problem], PROMPTING, settings, key)
    return plan(material, Question(problem, [stored], key, BuildCounts()))


def two_forks() -> TreeBuilder:
    """Nodes: 1 a, 2 b, 3 answer; dead: 4 x below the root, 5 y below 4; 6 z below 1."""
    builder = TreeBuilder("q")
    a = builder.add(0, "a\n\n")
    b = builder.add(a, "b\n\n")
    builder.end(b, BOX[4])
    x = builder.add(0, "x\n\n")
    builder.add(x, "y\n\n")
    builder.add(a, "z\n\n")
    return builder


DEEP = {"detours": FixedNumber(value=9), "depth": FixedNumber(value=9)}


@pytest.mark.parametrize(("status", "dead"), [("ungradable", False), ("wrong", True)])
def test_what_leads_to_no_verdict_is_no_mistake(status: str, dead: bool) -> None:
    """A path that a stage's verifier refuses is ungradable: its answer is right."""
    builder = TreeBuilder("q")
    builder.end(builder.add(0, "a\n\n"), BOX[4])
    builder.end(builder.add(0, "x\n\n"), BOX[4], status=status)
    examples = build(builder.stored(), **DEEP).examples
    assert [roles(example)[0] for example in examples] == [("mistake", "x\n\n")] * dead


def test_the_path_leaves_into_every_dead_branch_and_comes_back() -> None:
    (example,) = build(two_forks().stored(), **DEEP).examples
    assert roles(example) == [
        ("mistake", "x\n\ny\n\n"),
        ("doubt", "Back.\n\n"),
        ("recovery", "a\n\n"),
        ("mistake", "z\n\n"),
        ("doubt", "Back.\n\n"),
        ("recovery", "b\n\n" + BOX[4]),
    ]
    masked = [s.role for s in example.spans if not example.loss_mask[s.start : s.end].any()]
    assert masked == ["mistake", "mistake"]
    assert example.provenance["detours"] == [
        {"fork": 0, "depth": 2, "evidence": "unconfirmed"},
        {"fork": 1, "depth": 1, "evidence": "unconfirmed"},
    ]


def test_depth_detours_and_the_repeated_step() -> None:
    shallow = {"detours": FixedNumber(value=9), "depth": FixedNumber(value=1)}
    (example,) = build(two_forks().stored(), repeat_step=True, **shallow).examples
    assert roles(example) == [
        ("mistake", "x\n\n"),
        ("doubt", "Back.\n\n"),
        ("recovery", "a\n\n"),
        ("mistake", "z\n\n"),
        ("doubt", "Back.\n\n"),
        ("recovery", "a\n\n"),
        ("recovery", "b\n\n" + BOX[4]),
    ]
    seen = {build_one(i)[0] for i in range(40)}
    assert seen == {"mistake", "solution"}  # either fork; a solution begins before the later one


def build_one(seed: int) -> list[str]:
    built = build_backtrack(
        Material(
            [two_forks().stored()],
            [make_problem("q")],
            PROMPTING,
            BacktrackSettings(phrases=PHRASES),
            Key.of(seed),
        )
    )
    (example,) = built.examples
    assert [span.role for span in example.spans].count("mistake") == 1
    return [span.role for span in example.spans]


def test_early_and_late_forks_weigh_linearly() -> None:
    # Of the two forks, the first has the weight 2/3 or 1/3; the standard deviation is 0.015.
    for fork, share in (("early", 2 / 3), ("late", 1 / 3), ("uniform", 1 / 2)):
        chosen = BacktrackSettings(fork=fork)
        stored, first = two_forks().stored(), 0
        for i in range(1000):
            (drawn,) = planned(stored, chosen, Key.of(i))
            first += drawn.detours[0].fork == 0
        assert abs(first / 1000 - share) < 0.06


def test_a_copy_of_a_correct_step_is_not_dead() -> None:
    builder = TreeBuilder("q")
    a = builder.add(0, "a\n\n")
    builder.end(a, BOX[4])
    copy = builder.add(0, "a\n\n")
    builder.add(copy, "z\n\n")
    assert build(builder.stored(), **DEEP).examples == []


def test_finished_steps_and_steps_with_a_box_are_no_detours() -> None:
    builder = TreeBuilder("q")
    builder.end(0, "a\n\n" + BOX[4])
    builder.end(0, "b\n\n" + BOX[5], status="wrong")
    builder.add(0, BOX[5] + " or so\n\n")
    builder.add(0, "cut", finish="length")
    assert build(builder.stored(), **DEEP).examples == []


def test_a_wrong_answer_of_its_own_makes_a_branch_wrong_without_completions() -> None:
    builder = two_forks()
    builder.end(5, BOX[5], status="wrong")
    stored = builder.stored()
    (drawn,) = planned(stored, BacktrackSettings(**DEEP))
    assert [detour.answered_wrong for detour in drawn.detours] == [True, False]
    assert [node for *_, node in unconfirmed([drawn])] == [6]
    (example,) = build(stored, **DEEP).examples
    kinds = [detour["evidence"] for detour in example.provenance["detours"]]
    assert kinds == ["wrong_answer", "unconfirmed"]


def test_a_wrong_answer_counts_for_every_copy_of_its_steps() -> None:
    builder = TreeBuilder("q")
    builder.end(0, BOX[4])
    for _ in range(2):
        builder.add(0, "x\n\n")
    builder.end(2, BOX[5], status="wrong")
    for seed in range(20):
        (drawn,) = planned(builder.stored(), BacktrackSettings(), Key.of(seed))
        assert drawn.detours[0].answered_wrong


def test_refuted_branches_are_left_out() -> None:
    chosen = DEEP | {"confirm": ConfirmSettings(completions=4)}
    found = {("search", "q", 5): Confirmation(4, 1), ("search", "q", 6): Confirmation(4, 0)}
    built = build(two_forks().stored(), found, **chosen)
    (example,) = built.examples
    assert [role for role, _ in roles(example)] == ["solution", "mistake", "doubt", "recovery"]
    assert example.provenance["detours"] == [
        {"fork": 1, "depth": 1, "evidence": "completions", "completions": 4, "verified": 0}
    ]
    assert built.counts.facts["branches refuted by completions"] == 1
    both = {branch: Confirmation(4, 2) for branch in found}
    assert build(two_forks().stored(), both, **chosen).examples == []
    tolerant = DEEP | {"confirm": ConfirmSettings(completions=4, at_most=0.5)}
    assert len(build(two_forks().stored(), both, **tolerant).examples) == 1
    ungradable = {branch: Confirmation(0, 0) for branch in found}
    (example,) = build(two_forks().stored(), ungradable, **chosen).examples
    assert {d["evidence"] for d in example.provenance["detours"]} == {"unconfirmed"}


TABLE = {
    "": {"a\n\n": 0.5, "x\n\n": 0.5},
    "a\n\n": {BOX[4]: 1.0},
    "x\n\n": {BOX[4]: 0.25, BOX[5]: 0.25, "more\n\n": 0.5},
    "x\n\nmore\n\n": {BOX[5]: 1.0},
}


def test_branches_are_completed_by_the_policy_to_their_end(tmp_path: Path) -> None:
    engine = ScriptedEngine(TABLE)
    problem = Problem("q", "?", "4", "integer")
    builder = TreeBuilder("q")
    builder.add(0, "x\n\n")
    tree = builder.stored().tree
    tree.prompt_ids = engine.start(problem).token_ids
    tree.nodes[1] = tree.nodes[1].__class__(
        0, engine.encode("x\n\n"), "x\n\n", np.zeros(1, np.float32), "step"
    )
    stored = StoredTree(tree, "search", "shard-00000.parquet", 0)

    async def ask(completions: int):
        with Grader() as grader:
            searcher = Searcher(engine, StepRule(max_tokens=50), Sampling(), tmp_path, 1, 1)
            return await confirm(
                problem, {("search", "q", 1): stored}, searcher, grader, completions, KEY
            )

    found = asyncio.run(ask(400))
    (got,) = found.values()
    assert list(found) == [("search", "q", 1)]
    assert got.completions == 400
    assert abs(got.verified - 100) < 44  # a quarter verifies; five standard deviations
    assert got.policy_tokens == engine.counters.policy_tokens
    assert got.prefilled_tokens == engine.counters.prefilled_tokens == 2  # "?" and "x", once
    assert engine.held == 0
    write_confirmations(tmp_path / "c.jsonl", [found, {}])
    assert read_confirmations(tmp_path / "c.jsonl") == [found, {}]
    (tmp_path / "c.jsonl").write_text("[[1,")
    with pytest.raises(UserError, match="is damaged"):
        read_confirmations(tmp_path / "c.jsonl")


def test_what_no_verified_completion_leaves_possible() -> None:
    # (1 - p)^K = 0.05
    assert possible_share(1) == pytest.approx(0.95)
    assert possible_share(8) == pytest.approx(0.3123, abs=1e-4)
    assert (1 - possible_share(32)) ** 32 == pytest.approx(0.05)


def test_the_card_says_what_is_known_of_the_branches(tmp_path: Path) -> None:
    chosen = BacktrackSettings(**DEEP, phrases=PHRASES, confirm=ConfirmSettings(completions=8))
    found = {("search", "q", 5): Confirmation(8, 0)}
    built = build_backtrack(
        Material(
            [two_forks().stored()], [make_problem("q")], PROMPTING, chosen, KEY, prepared=found
        )
    )
    origin = Origin(
        "data", "backtrack", chosen.model_dump(mode="json"), ["limo"], "m", "r", 0, "f",
        licences={"limo": "Apache-2.0"}, overlap={"8 words": 2},
    )  # fmt: skip
    write_card(tmp_path, built, origin)
    card = (tmp_path / "card.md").read_text()
    assert (
        "Of 2 detours (1.5 steps each) 0.0% go into a branch with a finished wrong answer of its "
        "own, 50.0% into one that was completed and kept, and 50.0% into one that is dead and "
        "otherwise unjudged."
    ) in card
    assert "none of whose 8 completions verified" in card
    assert "up to 31.2% of its completions" in card
    assert "| licence of the source | limo: Apache-2.0 |" in card
    assert "| questions left out for overlap | 8 words: 2 |" in card
    # x, y and z with two line ends each.
    assert "| tokens of the role mistake | 9 (0 with loss) |" in card


@given(
    random_trees(),
    st.booleans(),
    st.sampled_from(["plain", "think"]),
    st.sampled_from(["uniform", "early", "late"]),
)
def test_every_detour_is_a_dead_branch_of_its_tree(stored, repeat, format, fork) -> None:
    tree = stored.tree
    built = build(
        stored,
        per_question=3,
        detours=UniformNumber(kind="uniform", low=1, high=3),
        repeat_step=repeat,
        format=format,
        fork=fork,
    )
    correct = [leaf for leaf, grade in tree.grades.items() if grade.correct]
    alive = {node for leaf in correct for node in tree.path(leaf)} | {0}
    alive_tokens = {tree.path_tokens(node).tobytes() for node in alive}
    for example in built.examples:
        check_example(example, stored)
        leaf = example.provenance["leaf"]
        path = [0, *tree.path(leaf)]
        pieces = [p for p in example.provenance["pieces"] if p["role"] == "mistake"]
        assert pieces
        for piece, detour in zip(pieces, example.provenance["detours"], strict=True):
            nodes = piece["nodes"]
            assert tree.nodes[nodes[0]].parent == path[detour["fork"]]
            assert [tree.nodes[node].parent for node in nodes[1:]] == nodes[:-1]
            assert detour["depth"] == len(nodes)
            assert not alive & set(nodes)
            assert tree.path_tokens(nodes[-1]).tobytes() not in alive_tokens
            assert not any(node in tree.grades for node in nodes)
        walked = [
            node
            for piece in example.provenance["pieces"]
            if piece["role"] in ("solution", "recovery") and "nodes" in piece
            for node in piece["nodes"]
        ]
        assert list(dict.fromkeys(walked)) == path[1:]

"""What recorded trees say of a reward model, against hand-computed values."""

import asyncio

import numpy as np
import pytest

from butwait.records import Counts, Grade, Key, Node, Problem, SearchTree
from butwait.reward_models.audit.bellman import bellman, families
from butwait.reward_models.audit.prefixes import outcomes, tree_prefixes
from butwait.reward_models.audit.rescore import as_steps, node_logits, step_logits
from butwait.reward_models.scripted import ScriptedRewardModel

KEY = Key.of(0, "test")


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def make_tree(rows, grades) -> SearchTree:
    """From (parent, probability, finish) of every node but the root."""
    empty = np.zeros(0, np.int32)
    nodes = [Node(-1, empty, "", np.zeros(0, np.float32), "step")]
    nodes += [
        Node(parent, np.full(2, i, np.int32), f"s{i}\n", np.zeros(2, np.float32), finish, logit(p))
        for i, (parent, p, finish) in enumerate(rows, start=1)
    ]
    statuses = {node: Grade(None, status) for node, status in grades.items()}
    return SearchTree(
        "q", "particle_filter", empty, nodes, [], empty, np.zeros(0), None, "complete", Counts(),
        statuses,
    )  # fmt: skip


# 1 has the children 3 (wrong), 4 (truncated) and 5 (correct); 2 died; 5 stands for two particles.
ROWS = [
    (0, 0.6, "step"), (0, 0.2, "step"), (1, 0.3, "eos"), (1, 0.5, "length"), (1, 0.7, "box"),
]  # fmt: skip
TREE = make_tree(ROWS, {3: "wrong", 5: "correct"})


def recorded(tree):
    logits = np.array([node.reward_logit for node in tree.nodes])
    logits[0] = np.nan
    return tree, logits


def test_outcomes_go_up_to_every_prefix():
    verified, completions = outcomes(TREE)
    assert verified.tolist() == [1, 1, 0, 0, 0, 1]
    assert completions.tolist() == [3, 3, 0, 1, 1, 1]


def test_an_ungradable_path_is_no_label():
    verified, completions = outcomes(make_tree(ROWS, {3: "ungradable", 5: "correct"}))
    assert (verified[1], completions[1]) == (1, 2)


def test_scored_prefixes():
    found = tree_prefixes([recorded(TREE), recorded(TREE)])
    assert found.question.tolist() == [0] * 4 + [1] * 4
    # Node 2 died without an outcome, and nothing scores the root.
    assert found.depth.tolist()[:4] == [1, 2, 2, 2]
    assert found.verified.tolist()[:4] == [1, 0, 0, 1]
    assert found.completions.tolist()[:4] == [3, 1, 1, 1]
    assert found.logit[:2] == pytest.approx([logit(0.6), logit(0.3)])


def test_nothing_scored_is_nothing():
    assert len(tree_prefixes([(TREE, np.full(6, np.nan))]).logit) == 0
    figures = bellman(families([(TREE, np.full(6, np.nan))]), KEY)
    assert (figures["drift"], figures["residual"], figures["families"]) == (None, None, 0)


def test_one_family():
    found = families([recorded(TREE)])
    assert found.parent == pytest.approx([0.6])
    assert found.children == pytest.approx([0.5])
    # The variance of 0.3, 0.5, 0.7 is 0.04; of their mean, a third of it.
    assert found.noise == pytest.approx([0.04 / 3])
    figures = bellman(found, KEY)
    assert figures["drift"] == pytest.approx(-0.1)
    # 0.01 - 0.0133 is below 0: the gap is no more than noise.
    assert figures["residual"] == 0.0


def test_the_residual_without_its_noise():
    rows = [(0, 0.9, "step"), (1, 0.5, "step"), (1, 0.3, "step"), (3, 0.4, "step")]
    figures = bellman(families([recorded(make_tree(rows, {}))]), KEY)
    # Gaps 0.4 - 0.9 and, for the only child, 0.4 - 0.3; s^2 / k = 0.02 / 2.
    assert figures["drift"] == pytest.approx((-0.5 + 0.1) / 2)
    assert figures["residual"] == pytest.approx(np.sqrt(0.25 - 0.01))
    assert (figures["families"], figures["siblings"]) == (2, 1)


def test_inserted_text_is_no_draw_of_the_policy():
    rows = [(0, 0.9, "step"), (1, 0.5, "inserted"), (1, 0.3, "step")]
    found = families([recorded(make_tree(rows, {}))])
    assert found.children == pytest.approx([0.3])


def test_a_value_function_has_no_residual_and_noise_alone_makes_none():
    """Children that scatter around their parent: the raw mean square is s^2 / k, not 0."""
    draw = np.random.default_rng(0)
    trees = []
    for _ in range(400):
        rows = [(0, 0.5, "step")] + [(1, p, "step") for p in draw.uniform(0.2, 0.8, 4)]
        trees.append(recorded(make_tree(rows, {})))
    found = families(trees)
    assert np.mean((found.parent - found.children) ** 2) == pytest.approx(0.03 / 4, rel=0.15)
    figures = bellman(found, KEY)
    assert figures["residual"] < 0.03
    low, high = figures["drift_interval"]
    assert low < 0.0 < high


def by_text(problem, steps) -> float:
    return float(sum(hash_of(step.text) for step in steps))


def hash_of(text: str) -> float:
    return sum(map(ord, text)) / 1000


def test_nodes_are_scored_again_each_from_its_path():
    model = ScriptedRewardModel(by_text)
    logits = asyncio.run(node_logits(model, Problem("q", "?", None), TREE))
    s = [hash_of(f"s{i}\n") for i in range(6)]
    expected = [s[1], s[2], s[1] + s[3], s[1] + s[4], s[1] + s[5]]
    assert np.isnan(logits[0])
    assert logits[1:] == pytest.approx(expected, abs=1e-6)
    assert model.held == 0


def test_steps_of_a_text_are_scored_one_after_the_other(tokenizer):
    model = ScriptedRewardModel(by_text)
    steps = as_steps(["1", "2"], "\n", tokenizer)
    logits = asyncio.run(step_logits(model, Problem("q", "?", None), steps))
    assert logits == pytest.approx([hash_of("1\n"), hash_of("1\n2")], abs=1e-6)
    assert [step.text for step in steps] == ["1\n", "2"]
    assert tokenizer.decode(steps[0].token_ids) == "1\n"
    assert model.held == 0

"""Completions of a group, on questions that are written down."""

import asyncio
from dataclasses import replace

import numpy as np
import torch
from grpo_searching import EASY, HARD, KEY, searched, settings

from butwait.engines.scripted import ScriptedEngine
from butwait.problems.grading import Grader
from butwait.training.grpo.completions import (
    completion_of,
    particles_as_group,
    sample_group,
    weights_fingerprint,
)


def test_fresh_samples_are_the_policys_and_graded(engine: ScriptedEngine, grader: Grader) -> None:
    chosen = settings(group=64, batch_size=64)
    tree, group = asyncio.run(sample_group(EASY, engine, chosen, grader, KEY, 0))
    assert len(group) == 64
    assert tree.counts.policy_tokens == sum(row.length for row in group) == 128
    statuses = [row.grade.status for row in group]
    # 86 % are right, 4 % wrong, 10 % end without an answer.
    assert statuses.count("correct") >= 45
    assert {row.finish for row in group} == {"box", "eos"}
    for row in group:
        assert row.problem is EASY
        assert row.prompt_ids.tolist() == engine.start(EASY).token_ids.tolist()
        assert row.token_ids[-1] == 0
        # EOS behind a box was put there; where the path ended at EOS the policy drew it.
        assert row.sampled.tolist() == [True, True] + [False] * (row.finish == "box")
        assert len(row.token_ids) == (3 if row.finish == "box" else 2)
        assert engine.tokenizer.decode(row.token_ids.tolist()) == row.text


def test_a_cut_completion_has_no_eos(grader: Grader) -> None:
    endless = ScriptedEngine(lambda question, text: {"a\n": 1.0}, ["a\n"])
    chosen = settings(step={"delimiters": (), "max_tokens": 3})
    _, group = asyncio.run(sample_group(EASY, endless, chosen, grader, KEY, 0))
    for row in group:
        assert (row.finish, row.grade.status) == ("length", "truncated")
        assert row.token_ids.tolist() == [1, 1, 1]
        assert row.sampled.all()


def test_particles_are_drawn_by_weight_and_repeats_are_marked(
    engine: ScriptedEngine, grader: Grader
) -> None:
    tree = searched(engine, HARD, grader)
    one = int(np.flatnonzero([tree.nodes[leaf].finish == "box" for leaf in tree.leaves])[0])
    weights = np.full(len(tree.leaves), -np.inf)
    weights[one] = 0.0
    tree.log_weights = weights
    group = asyncio.run(particles_as_group(tree, HARD, 4, grader, KEY, 0))
    assert [row.repeated for row in group] == [False, True, True, True]
    expected = completion_of(tree, int(tree.leaves[one]), HARD, group[0].grade, 0)
    assert all(row.token_ids.tolist() == expected.token_ids.tolist() for row in group)


def test_a_box_that_the_reward_models_context_cut_is_no_answer(
    engine: ScriptedEngine, grader: Grader
) -> None:
    tree = searched(engine, EASY, grader, n=8)
    right = [i for i in tree.leaves.tolist() if tree.grades[i].status == "correct"]
    cut = right[0]
    tree.nodes[cut] = replace(tree.nodes[cut], finish="length", too_long=True)
    n = len(tree.leaves)
    tree.log_weights = np.full(n, -np.log(n))
    group = asyncio.run(particles_as_group(tree, EASY, n, grader, KEY, 0))
    graded = {(row.text, row.finish): row.grade.status for row in group}
    assert graded[tree.path_text(cut), "length"] == "truncated"
    assert graded[tree.path_text(right[1]), "box"] == "correct"


def test_particles_of_equal_weight_come_evenly(engine: ScriptedEngine, grader: Grader) -> None:
    tree = searched(engine, EASY, grader, n=8)
    n = len(tree.leaves)
    tree.log_weights = np.full(n, -np.log(n))
    group = asyncio.run(particles_as_group(tree, EASY, 2 * n, grader, KEY, 0))
    texts = [row.text for row in group]
    leaves = [tree.path_text(int(leaf)) for leaf in tree.leaves]
    assert sorted(texts) == sorted([*leaves, *leaves])
    assert sum(row.repeated for row in group) == len(texts) - len(set(texts))
    tree.outcome = "extinct"  # weights of -inf: all alike
    tree.log_weights = np.full(n, -np.inf)
    again = asyncio.run(particles_as_group(tree, EASY, 2 * n, grader, KEY, 0))
    assert [row.text for row in again] == texts


def test_weights_packed_in_bytes_have_a_fingerprint_too() -> None:
    """As bitsandbytes holds those of four bits, beside adapters."""
    packed = torch.tensor([[3], [4], [250]], dtype=torch.uint8)
    adapter = torch.tensor([0.5, -0.25], dtype=torch.float32)
    name = weights_fingerprint([packed, adapter])
    assert len(name) == 16
    assert weights_fingerprint([packed.clone(), adapter.clone()]) == name
    assert weights_fingerprint([packed, adapter * 2]) != name
    assert weights_fingerprint([packed + 1, adapter]) != name
    # Weights that are numbers have the one that they had.
    assert weights_fingerprint([adapter]) == "59af8eb67cf9bfef"

"""Labels worked out by hand, splits, and files."""

import numpy as np
import pytest

from butwait.records import Key, UserError
from butwait.training.rollouts import (
    Rollout,
    pool_labels,
    read_rollouts,
    rollout_figures,
    split_questions,
    write_rollouts,
)


def rollout(tokens, ends, status="correct", shared=0, question="q", finish="box") -> Rollout:
    none = np.zeros(len(ends), np.int32)
    return Rollout(
        question,
        np.array([90, 91], np.int32),
        np.array(tokens, np.int32),
        np.array(ends, np.int32),
        shared,
        finish,
        status,
        none,
        none,
    )


def pooled(*rollouts):
    return [(v.tolist(), n.tolist()) for v, n in pool_labels(rollouts)]


def test_solutions_through_one_prefix_are_pooled():
    labels = pooled(
        rollout([1, 2, 3], [1, 2, 3], "correct"),
        rollout([1, 2, 4], [1, 2, 3], "wrong"),
        rollout([1, 5], [1, 2], "wrong"),
    )
    assert labels == [([1, 1, 1], [3, 2, 1]), ([1, 1, 0], [3, 2, 1]), ([1, 0], [3, 1])]


def test_completions_count_from_the_prefix_they_start_at():
    """One solution of three steps; two completions from its first two steps."""
    labels = pooled(
        rollout([1, 2, 3], [1, 2, 3], "wrong"),
        rollout([1, 2, 4], [1, 2, 3], "correct", shared=2),
        rollout([1, 2, 3], [1, 2, 3], "correct", shared=2),
    )
    # After step 1: the solution alone. After step 2: all three. [1, 2, 3] was drawn twice.
    assert labels[0] == ([0, 2, 1], [1, 3, 2])
    assert labels[1] == ([0, 2, 1], [1, 3, 1])
    assert labels[2] == ([0, 2, 1], [1, 3, 2])


def test_truncated_counts_as_not_verified_and_ungradable_not_at_all():
    labels = pooled(
        rollout([1, 2], [1, 2], "truncated", finish="length"),
        rollout([1, 3], [1, 2], "ungradable"),
        rollout([1, 4], [1, 2], "no_answer"),
    )
    assert labels == [([0, 0], [2, 1]), ([0, 0], [2, 0]), ([0, 0], [2, 1])]


def test_a_prefix_is_its_tokens_not_their_number():
    labels = pooled(rollout([1, 2], [1, 2]), rollout([2, 2], [1, 2], "wrong"))
    assert labels == [([1, 1], [1, 1]), ([0, 0], [1, 1])]


def test_parquet_round_trip(tmp_path):
    first = [rollout([1, 2, 3], [2, 3], question="a"), rollout([7], [1], "wrong", question="a")]
    second = [rollout([4, 5, 6], [1, 3], "ungradable", shared=1, question="b", finish="length")]
    write_rollouts(tmp_path / "x.parquet", [first, second])
    questions = read_rollouts(tmp_path / "x.parquet")
    assert [[r.problem_id for r in q] for q in questions] == [["a", "a"], ["b"]]
    back = questions[1][0]
    assert (back.shared_steps, back.finish, back.status) == (1, "length", "ungradable")
    assert back.token_ids.tolist() == [4, 5, 6]
    assert back.step_ends.dtype == np.int32
    write_rollouts(tmp_path / "y.parquet", questions)
    assert (tmp_path / "x.parquet").read_bytes() == (tmp_path / "y.parquet").read_bytes()


def test_a_corrupt_file_is_a_user_error(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(UserError, match="cannot be read"):
        read_rollouts(tmp_path / "x.parquet")


def test_split_keeps_questions_whole():
    rollouts = [rollout([i], [1], question=f"q{i % 10}") for i in range(40)]
    training, heldout = split_questions(rollouts, 0.3, Key.of(1, "split"))
    assert len({r.problem_id for r in heldout}) == 3
    assert not {r.problem_id for r in heldout} & {r.problem_id for r in training}
    assert len(training) + len(heldout) == 40
    again = split_questions(rollouts, 0.3, Key.of(1, "split"))
    assert [r.problem_id for r in again[1]] == [r.problem_id for r in heldout]


def test_split_leaves_both_sides_something():
    two = [rollout([1], [1], question="a"), rollout([1], [1], question="b")]
    for share in (0.01, 0.99):
        assert [len(side) for side in split_questions(two, share, Key.of(0))] == [1, 1]
    with pytest.raises(UserError, match="at least two questions"):
        split_questions(two[:1], 0.5, Key.of(0))


def test_summary():
    rollouts = [
        rollout([1, 2, 3], [1, 3]),
        rollout([1, 4, 4, 4], [1, 4], "truncated", shared=1, finish="length"),
        rollout([5], [1], "ungradable", question="b"),
    ]
    counts = np.ones(2, np.int32)
    labelled = [
        Rollout(r.problem_id, r.prompt_ids, r.token_ids, r.step_ends, r.shared_steps, r.finish,
                r.status, counts[:n] * 0, counts[:n] * (r.status != "ungradable"))
        for r in rollouts
        for n in [len(r.step_ends)]
    ]  # fmt: skip
    assert rollout_figures(labelled) == {
        "questions": 2,
        "solutions": 2,
        "completions": 1,
        "labelled_prefixes": 3,
        "verified": 0.5,
        "truncated": 1,
        "ungradable": 1,
        "sampled_tokens": 3 + 3 + 1,
    }

"""Projections from a part of a set to the whole."""

import math

import numpy as np
import pytest

from butwait.planning.project import (
    Draws,
    Projection,
    project_seconds,
    project_share,
    project_total,
)


def test_a_total_is_what_was_seen_and_the_mean_of_the_rest() -> None:
    found = project_total([[10.0, 20.0, 30.0]], [9])
    assert found.estimate == 60 + 6 * 20
    half = 4.302652729911275 * math.sqrt(36 * 100 * (1 / 3 + 1 / 6))
    assert found.interval == (max(60, 180 - half), pytest.approx(180 + half))


def test_sets_are_projected_each_by_itself() -> None:
    found = project_total([[1.0, 1.0], [100.0, 100.0]], [10, 3])
    assert found == Projection(310.0, (310.0, 310.0))


def test_of_the_whole_set_nothing_is_left_to_project() -> None:
    assert project_total([[1.0, 5.0]], [2]).interval == (6.0, 6.0)
    assert project_share([[1.0, 0.0]], [2]) == Projection(0.5, (0.5, 0.5))


def test_a_share_is_beta_binomial() -> None:
    found = project_share([[1.0] * 8], [9])
    assert found.estimate == 1.0
    assert found.interval == (pytest.approx(8 / 9), 1.0)
    low, high = project_share([[1.0] * 4 + [0.0] * 4], [1008]).interval
    assert (low, high) == (pytest.approx(0.20, abs=0.02), pytest.approx(0.80, abs=0.02))


def test_seconds_follow_tokens_and_the_rate_has_an_error() -> None:
    tokens = Projection(1000.0, (1000.0, 1000.0))
    assert project_seconds(tokens, 1000.0, 5.0, (10.0, 10.0)) == Projection(5.0, (5.0, 5.0))
    found = project_seconds(tokens, 100.0, 5.0, (10.0, 100.0))
    assert found.estimate == 50.0
    assert found.interval == (pytest.approx(50 - 0.196 * 45), pytest.approx(50 + 0.196 * 45))
    fuller = project_seconds(tokens, 100.0, 5.0, (10.0, 60.0))
    assert fuller.estimate == 40.0
    assert fuller.interval == (pytest.approx(30 - 0.196 * 45), found.interval[1])


def test_passes_are_full_until_the_last_paths() -> None:
    draws = Draws(tokens=8 * 2 * 30.0, problems=8, paths=2, longest=50)
    assert draws.passes(8, 8, None) == 50  # one wave: as many as its longest path
    assert draws.passes(80, 8, None) == 10 * 30 + 20
    assert draws.passes(80, 16, None) == 5 * 30 + 20
    assert draws.passes(80, 16, 8) == 20 * 30 + 20


def test_intervals_hold_what_they_promise() -> None:
    draw = np.random.default_rng(0)
    inside = total = 0
    for _ in range(300):
        lengths = draw.gamma(4.0, 25.0, 64)
        seen = draw.choice(lengths, 8, replace=False)
        low, high = project_total([list(seen)], [64]).interval
        inside += low <= lengths.sum() <= high
        total += 1
    assert inside / total == pytest.approx(0.95, abs=0.035)

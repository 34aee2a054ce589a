"""Accuracy at smaller budgets, from the samples of one run."""

from itertools import combinations

import numpy as np
import pytest

from butwait.engines.flops import DecoderFlops
from butwait.evaluation.ladder import (
    attempt_flops,
    best_of,
    check_sampler,
    sizes,
    vote_ladder,
)
from butwait.evaluation.metrics import outcomes
from butwait.records import Attempt, UserError


def test_best_of_n_is_the_mean_over_all_subsets() -> None:
    random = np.random.default_rng(0)
    scores = random.integers(0, 4, 9).astype(float)  # with ties
    right = random.random(9) < 0.4
    for n in range(1, 10):
        chances = []
        for subset in combinations(range(9), n):
            top = [i for i in subset if scores[i] == scores[list(subset)].max()]
            chances.append(right[top].mean())
        assert best_of(scores, right, n) == pytest.approx(np.mean(chances), abs=1e-12)


def attempt(problem: str, sample: int, number: int) -> Attempt:
    status = "wrong" if number else "correct"
    return Attempt(problem, sample, "", "box", str(number), status, 10, 4, 10, number)


def test_votes_at_each_budget() -> None:
    classes = {"p": [0, 0, 1, 2], "q": [1, 1, 0, 1]}
    rows = [attempt(p, i, n) for p, numbers in classes.items() for i, n in enumerate(numbers)]
    shape = DecoderFlops(100, 2)
    flops = attempt_flops(rows, shape, DecoderFlops(10, 0))
    assert flops == 10 * (100 + 2 * 11 / 2) + 4 * 10
    assert attempt_flops(rows, shape, None) is None  # a reward model of unknown shape ran
    rungs = vote_ladder(list(outcomes(rows).values()), flops)
    assert [rung.n for rung in rungs] == [1, 2, 4]
    assert [rung.tokens for rung in rungs] == [10, 20, 40]
    assert [rung.flops for rung in rungs] == [flops, 2 * flops, 4 * flops]
    assert [rung.accuracy for rung in rungs] == pytest.approx([0.375, 0.375, 0.5])
    assert all(low <= rung.accuracy <= high for rung in rungs for low, high in [rung.interval])
    best = vote_ladder(list(outcomes(rows).values()), None, best=True)
    assert [rung.accuracy for rung in best] == pytest.approx([0.375, (5 / 6 + 0.5) / 2, 1.0])


def test_sizes_and_what_has_none() -> None:
    assert sizes(1) == [1]
    assert sizes(12) == [1, 2, 4, 8, 12]
    check_sampler("best_of_n")
    with pytest.raises(UserError, match="a particle_filter of N is not N of size 1"):
        check_sampler("particle_filter")

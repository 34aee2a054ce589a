"""Adjusted p-values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from butwait.statistics.multiplicity import holm, indistinguishable


def test_adjusted_p_values_match_the_oracle(oracles):
    row = oracles["multiplicity"]
    assert holm(row["p"]) == pytest.approx(row["holm"], abs=1e-6)


@given(st.lists(st.floats(0, 1), max_size=20), st.randoms())
def test_order_does_not_matter_and_nothing_shrinks(p, random):
    order = random.sample(range(len(p)), len(p))
    adjusted = holm(p)
    assert adjusted.shape == (len(p),)
    assert np.all(adjusted >= np.array(p) - 1e-15)
    assert np.all(adjusted <= 1)
    assert holm(np.array(p)[order]) == pytest.approx(adjusted[order], abs=1e-15)


def test_holm_by_hand():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]).shape == (0,)


def test_groups_that_are_not_told_apart_are_maximal():
    assert indistinguishable(4, []) == [[0, 1, 2, 3]]
    assert indistinguishable(3, [(0, 1), (1, 2), (2, 0)]) == [[0], [1], [2]]
    # The middle one is told apart from neither end.
    assert indistinguishable(3, [(2, 0)]) == [[0, 1], [1, 2]]
    assert indistinguishable(5, [(0, 3), (0, 4), (1, 4)]) == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert indistinguishable(0, []) == []

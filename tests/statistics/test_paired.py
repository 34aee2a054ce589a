"""Two models on the same problems."""

import math
import time
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from butwait.statistics import paired
from butwait.statistics.paired import bonett_price, paired_t, sign_flip, stratified_permutation

differences = st.lists(st.integers(-6, 6), min_size=1, max_size=12)


def sign_flip_by_enumeration(d):
    sums = [
        abs(sum(s * x for s, x in zip(signs, d, strict=True)))
        for signs in product((1, -1), repeat=len(d))
    ]
    return sum(value >= abs(sum(d)) for value in sums) / len(sums)


def split(wins, losses, ties=0):
    return np.array([1] * wins + [-1] * losses + [0] * ties)


@settings(max_examples=60)
@given(differences)
def test_sign_flip_equals_enumeration(d):
    assert sign_flip(np.array(d)) == pytest.approx(sign_flip_by_enumeration(d), abs=1e-12)


@given(st.lists(st.integers(-64, 64), min_size=1, max_size=200), st.randoms())
def test_sign_flip_knows_no_order_side_or_ties(d, random):
    p = sign_flip(np.array(d))
    assert 0 < p <= 1
    assert sign_flip(-np.array(d)) == p
    assert sign_flip(np.array([*d, 0, 0, 0])) == p
    shuffled = random.sample(d, len(d))
    assert sign_flip(np.array(shuffled)) == pytest.approx(p, rel=1e-12)


def test_sign_flip_is_exact_mcnemar_at_one_attempt(oracles):
    for row in oracles["mcnemar"]:
        p = sign_flip(split(row["wins"], row["losses"], ties=10))
        assert p == pytest.approx(row["p"], abs=1e-9)
    assert sign_flip(split(40, 22)) == pytest.approx(stats.binomtest(40, 62).pvalue, rel=1e-12)


def test_sign_flip_agrees_with_scipy_permutation_test():
    d = np.array([3, -1, 4, 0, 2, -2, 5, 1])
    found = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip(d) == pytest.approx(found.pvalue, abs=1e-12)


def by_enumeration_of_rates(d, m):
    """Share of sign patterns whose sum of d / m is at least as far from 0, in fractions."""
    rates = [Fraction(x, k) for x, k in zip(d, m, strict=True)]
    sums = [
        abs(sum(s * x for s, x in zip(signs, rates, strict=True)))
        for signs in product((1, -1), repeat=len(rates))
    ]
    return sum(value >= abs(sum(rates)) for value in sums) / len(sums)


unequal = st.lists(
    st.integers(1, 9).flatmap(lambda m: st.tuples(st.integers(-m, m), st.just(m))),
    min_size=1,
    max_size=10,
)


@settings(max_examples=60)
@given(unequal)
def test_rates_with_different_denominators_are_summed_as_they_are(pairs):
    d, m = (np.array(column) for column in zip(*pairs, strict=True))
    expected = by_enumeration_of_rates(d.tolist(), m.tolist())
    assert sign_flip(d, m) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60)
@given(unequal)
def test_where_the_grid_is_too_large_p_is_an_upper_bound(pairs):
    d, m = (np.array(column) for column in zip(*pairs, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paired, "CELLS", 2000)
        found = sign_flip(d, m)
    assert found >= by_enumeration_of_rates(d.tolist(), m.tolist()) - 1e-12


@pytest.mark.parametrize("seed", range(8))
def test_the_upper_bound_is_a_close_one(monkeypatch, seed):
    """300 problems of 7 to 9 attempts, which 504 cells a unit hold exactly, on coarser grids."""
    rng = np.random.default_rng(seed)
    m = rng.integers(7, 10, 300)
    true = rng.beta(0.5, 1, 300)
    a, b = rng.binomial(m, true), rng.binomial(m, np.minimum(1, true + 0.02 * rng.random()))
    exact = sign_flip(b - a, m), stratified_permutation(a, b, m)
    for cells, near in ((4_000, 1.25), (20_000, 1.05)):
        monkeypatch.setattr(paired, "CELLS", cells)
        assert exact[0] <= sign_flip(b - a, m) <= max(near * exact[0], exact[0] + 1e-9)
        assert exact[1] <= stratified_permutation(a, b, m) <= 2 * near * exact[1]


def test_the_rates_are_tested_and_not_the_counts():
    """B wins 1 of 1 on six problems and loses 8 of 8 on another: by counts, 6 to 8."""
    a, b = np.array([0] * 6 + [8]), np.array([1] * 6 + [0])
    assert sign_flip(b - a, [1] * 6 + [8]) == pytest.approx(2 * (1 + 7) / 2**7)
    assert sign_flip(b - a) == pytest.approx(1.0)


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=5
    )
)
def test_stratified_with_unequal_attempts_equals_enumeration(rows):
    m = [k for k, _, _ in rows]
    a, b = [min(k, x) for k, x, _ in rows], [min(k, y) for k, _, y in rows]
    chances = {Fraction(0): Fraction(1)}
    for k, x, y in zip(m, a, b, strict=True):
        grown: dict[Fraction, Fraction] = {}
        for total, chance in chances.items():
            for drawn in range(k + 1):
                ways = math.comb(x + y, drawn) * math.comb(2 * k - x - y, k - drawn)
                key = total + Fraction(2 * drawn - x - y, k)
                grown[key] = grown.get(key, Fraction(0)) + chance * ways / math.comb(2 * k, k)
        chances = grown
    observed = abs(sum(Fraction(y - x, k) for k, x, y in zip(m, a, b, strict=True)))
    expected = float(sum(c for total, c in chances.items() if abs(total) >= observed))
    assert stratified_permutation(a, b, m) == pytest.approx(expected, abs=1e-12)


def test_p_is_never_0():
    """1,319 wins and no loss: 2^-1318 is no float."""
    for found in (
        sign_flip(np.ones(1319, dtype=int)),
        sign_flip(np.full(1319, 64), 64),
        stratified_permutation(np.zeros(1319, dtype=int), np.full(1319, 64), 64),
    ):
        assert found == paired.SMALLEST_P > 0
    assert sign_flip(np.ones(900, dtype=int)) == pytest.approx(2.0**-899, rel=1e-9)


@pytest.mark.parametrize("share", [1.0, 0.98])
def test_1319_problems_of_64_attempts_take_less_than_a_second(share):
    rng = np.random.default_rng(0)
    m = rng.binomial(64, share, 1319)
    true = rng.beta(0.5, 0.5, 1319)
    a, b = rng.binomial(m, true), rng.binomial(m, true)
    started = time.process_time()
    assert 0 < sign_flip(b - a, m) <= 1
    assert time.process_time() - started < 1


def test_sign_flip_without_a_difference():
    assert sign_flip(np.zeros(30, dtype=int)) == 1.0
    assert sign_flip(split(5, 5)) == 1.0
    assert sign_flip(np.zeros(0, dtype=int)) == 1.0


def test_sign_flip_refuses_rates():
    with pytest.raises(TypeError, match="integer differences"):
        sign_flip(np.array([0.5, -0.25]))


def test_paired_example_matches_the_oracle(oracles):
    row = oracles["paired_k8"]
    a, b = np.array(row["cA"]), np.array(row["cB"])
    assert sign_flip(b - a) == pytest.approx(row["signflip_exact_p"], abs=1e-9)
    assert stratified_permutation(a, b, row["k"]) == pytest.approx(
        row["stratified_exact_p"], abs=1e-9
    )
    assert ((b - a) / row["k"]).mean() == pytest.approx(row["delta"], abs=1e-12)
    assert paired_t((b - a) / row["k"]) == pytest.approx(row["t_ci"], abs=1e-6)


def stratified_by_enumeration(a, b, k):
    """Every way to deal the 2k attempts on each problem to two models."""
    sums = {0: 1}
    for x, y in zip(a, b, strict=True):
        grown = {}
        for total, ways in sums.items():
            for drawn in range(k + 1):
                hyper = math.comb(x + y, drawn) * math.comb(2 * k - x - y, k - drawn)
                if hyper:
                    shifted = total + 2 * drawn - x - y
                    grown[shifted] = grown.get(shifted, 0) + ways * hyper
        sums = grown
    observed = abs(sum(b) - sum(a))
    return sum(w for d, w in sums.items() if abs(d) >= observed) / sum(sums.values())


@settings(max_examples=60)
@given(st.integers(1, 4), st.integers(1, 8), st.data())
def test_stratified_equals_enumeration(k, n, data):
    counts = st.lists(st.integers(0, k), min_size=n, max_size=n)
    a, b = data.draw(counts), data.draw(counts)
    expected = stratified_by_enumeration(a, b, k)
    assert stratified_permutation(a, b, k) == pytest.approx(expected, abs=1e-12)
    assert stratified_permutation(b, a, [k] * n) == pytest.approx(expected, abs=1e-12)


def test_stratified_is_sign_flip_at_one_attempt():
    a, b = np.array([1, 0, 0, 0, 0, 0, 1, 1]), np.array([0, 1, 1, 1, 1, 1, 1, 0])
    assert stratified_permutation(a, b, 1) == pytest.approx(sign_flip(b - a), abs=1e-12)


def test_bonett_price_matches_the_oracle(oracles):
    for row in oracles["bonett_price"]:
        found = bonett_price(row["wins"], row["losses"], row["n"])
        assert found == pytest.approx(row["interval"], abs=1e-6)


@given(st.lists(st.integers(-8, 8), min_size=2, max_size=50))
def test_paired_t_agrees_with_scipy(counts):
    d = np.array(counts) / 8
    if np.ptp(d) == 0:
        return
    expected = stats.ttest_1samp(d, 0).confidence_interval(0.95)
    assert paired_t(d) == pytest.approx(np.clip(tuple(expected), -1, 1), abs=1e-9)


def test_equal_differences_are_not_certainty():
    low, high = paired_t(np.zeros(30))
    assert (low, high) == pytest.approx(bonett_price(0, 0, 30))
    assert high == pytest.approx(1.959964 * math.sqrt(2) / 32, abs=1e-6)
    assert paired_t(np.full(30, 0.1)) == pytest.approx((0.1 - high, 0.1 + high))
    assert paired_t([-1.0]) == (-1.0, 1.0)  # one question says nothing of others


@pytest.mark.timeout(10)  # a twentieth of a second here; the sums one after another never end
def test_sign_flip_of_500_problems_and_64_attempts_ends():
    d = np.random.default_rng(0).integers(-64, 65, 500)
    normal = 2 * stats.norm.sf(abs(d.sum()) / np.sqrt((d**2).sum()))
    assert sign_flip(d) == pytest.approx(normal, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 8, 64])
def test_identical_models_are_told_apart_in_at_most_five_percent(k):
    """A/A pairs: 10,000 of n = 30, the same true rates on both sides."""
    rng = np.random.default_rng(2)
    rejected = 0
    for _ in range(10_000):
        true = rng.beta(0.15, 1.35, 30)
        rejected += sign_flip(rng.binomial(k, true) - rng.binomial(k, true)) < 0.05
    assert rejected / 10_000 <= 0.05


def first_graded(rng, right, broken, k):
    """(n, k) marks in order: 1 correct, 0 wrong, -1 ungradable; the graded ones first."""
    marks = np.where(rng.random((len(right), k)) < broken, -1, rng.random((len(right), k)) < right)
    return np.take_along_axis(marks, np.argsort(marks < 0, axis=1, kind="stable"), axis=1)


@pytest.mark.slow
@pytest.mark.parametrize(("k_a", "k_b", "broken"), [(8, 8, 0.2), (4, 8, 0.1), (32, 12, 0.05)])
def test_identical_pairs_with_unequal_attempts(k_a, k_b, broken):
    """Pairs of identical models on 30 problems, on the first attempts that both have graded: 5 %
    and two standard errors of this number at most."""
    rng = np.random.default_rng(6)
    rejected = 0
    for _ in range(2000):
        true = rng.beta(0.5, 1, (30, 1))
        a, b = (first_graded(rng, true, broken, k) for k in (k_a, k_b))
        m = np.minimum((a >= 0).sum(axis=1), (b >= 0).sum(axis=1))
        a, b, m = a[m > 0], b[m > 0], m[m > 0]
        kept = np.arange(min(k_a, k_b)) < m[:, None]
        gains = ((b[:, : min(k_a, k_b)] - a[:, : min(k_a, k_b)]) * kept).sum(axis=1)
        rejected += sign_flip(gains, m) < 0.05
    assert rejected / 2000 <= 0.06


@pytest.mark.slow
def test_power_grows_with_attempts():
    """30 problems, 30 % solved, a true gain of 6 points on each: k = 8 finds it in about 41 % of
    runs, k = 64 nearly always."""
    rng = np.random.default_rng(3)
    found = {1: 0, 8: 0, 64: 0}
    for k in found:
        for _ in range(1000):
            true = rng.beta(0.4, 0.93, 30)
            d = rng.binomial(k, np.minimum(1, true + 0.06)) - rng.binomial(k, true)
            found[k] += sign_flip(d) < 0.05
    assert found[1] < 120
    assert 250 < found[8] < 600
    assert found[64] > 950


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 8, 64])
def test_coverage_of_the_difference(k):
    """Nominal 95 % intervals of a true gain of 5 points with a spread cover in 91 to 98 %."""
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(2000):
        base = rng.uniform(0.1, 0.7, 50)
        gain = rng.uniform(-0.05, 0.15, 50)
        a, b = rng.binomial(k, base), rng.binomial(k, base + gain)
        if k == 1:
            low, high = bonett_price(int(np.sum(b > a)), int(np.sum(b < a)), 50)
        else:
            low, high = paired_t((b - a) / k)
        covered += low <= 0.05 <= high
    assert 0.91 <= covered / 2000 <= 0.98

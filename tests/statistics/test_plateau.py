"""The plateau rule: its bound against dense linear algebra, its error by simulation.

Rates are over simulated runs with fixed seeds; beside each stands the standard error of a rate of
5 % over that number of runs.
"""

import numpy as np
import pytest
from plateau_curves import ar1, naive_stops, patience_stops, stop_steps
from scipy import stats

from butwait.statistics.intervals import wilson
from butwait.statistics.plateau import RHO, PlateauRule, fit_trend

RULE = PlateauRule(horizon=40, delta=1.0)
RHOS = (0.0, 0.5, 0.8)


def dense_posterior(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(weights, slopes, errors) for every rho from the whole correlation matrix."""
    n = len(x)
    design = np.stack([np.ones(n), x], axis=1)
    weights, slopes, errors = [], [], []
    for rho in RHO:
        correlation = rho ** np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
        inverse = np.linalg.inv(correlation)
        information = design.T @ inverse @ design
        beta = np.linalg.solve(information, design.T @ inverse @ y)
        residual = (y - design @ beta) @ inverse @ (y - design @ beta)
        weights.append(
            -0.5 * np.log1p(-(rho**2))  # Jeffreys' prior
            - 0.5 * np.linalg.slogdet(correlation)[1]
            - 0.5 * np.linalg.slogdet(information)[1]
            - (n - 2) / 2 * np.log(residual)
        )
        slopes.append(beta[1])
        errors.append(np.sqrt(residual / (n - 2) * np.linalg.inv(information)[1, 1]))
    raw = np.exp(np.array(weights) - max(weights))
    return raw / raw.sum(), np.array(slopes), np.array(errors)


@pytest.mark.parametrize("rho", RHOS)
def test_the_posterior_is_that_of_dense_linear_algebra(rho: float) -> None:
    rng = np.random.default_rng(1)
    x = np.cumsum(rng.integers(1, 4, 30)).astype(float)  # steps need not be regular
    y = 0.3 + 0.02 * x + 0.1 * ar1(rng, 1, 30, rho)[0]
    trend = fit_trend(x, y)
    weights, slopes, errors = dense_posterior(x, y)
    np.testing.assert_allclose(trend.weights, weights, rtol=1e-6)
    np.testing.assert_allclose(trend.slopes, slopes, rtol=1e-8)
    np.testing.assert_allclose(trend.errors, errors, rtol=1e-8)
    assert trend.freedom == 28
    assert trend.slope == pytest.approx(weights @ slopes)
    assert trend.rho == pytest.approx(weights @ RHO)
    line = stats.linregress(x, y)
    about_line = y - line.intercept - line.slope * x
    assert trend.noise == pytest.approx(np.sqrt(np.sum(about_line**2) / 28))
    for alpha in (0.05, 1e-3, 1e-6):
        above = weights @ stats.t.sf((trend.upper(alpha) - slopes) / errors, 28)
        assert above == pytest.approx(alpha, rel=2e-3)


def test_the_bound_of_independent_noise_is_that_of_the_textbook() -> None:
    """With 2000 values rho is known to be near 0: 0.02 steps by Student's t."""
    rng = np.random.default_rng(2)
    x = np.arange(2000.0)
    y = 0.001 * x + rng.standard_normal(2000)
    line = stats.linregress(x, y)
    bound = line.slope + stats.t.isf(0.01, 1998) * line.stderr
    assert fit_trend(x, y).upper(0.01) - line.slope == pytest.approx(bound - line.slope, rel=0.06)


def test_units_of_steps_and_values_do_not_matter() -> None:
    x = np.arange(60.0)
    y = ar1(np.random.default_rng(3), 1, 60, 0.5)[0]
    plain, other = fit_trend(x, y), fit_trend(1000 + 10 * x, 5.0 + 1e-3 * y + 0.02 * x)
    assert other.upper(0.01) == pytest.approx(1e-4 * plain.upper(0.01) + 0.002, rel=1e-5)
    np.testing.assert_allclose(other.weights, plain.weights, rtol=1e-6)


@pytest.mark.parametrize("slope", [0.0, 0.25])
def test_a_line_without_noise_has_no_error(slope: float) -> None:
    x = np.arange(50.0)
    trend = fit_trend(x, 3.0 + slope * x)
    assert trend.slope == pytest.approx(slope, abs=1e-9)
    assert trend.upper(1e-6) == pytest.approx(slope, abs=1e-6)
    assert trend.noise == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("n", "rho"), [(40, 0.0), (40, 0.8), (160, 0.5)])
def test_a_bound_holds_as_often_as_it_says(n: int, rho: float) -> None:
    """One look, 600 curves: misses of nominal 5 % (standard error 0.9 %)."""
    x = np.arange(float(n))
    curves = ar1(np.random.default_rng(4), 600, n, rho)
    missed = sum(fit_trend(x, curve).upper(0.05) < 0 for curve in curves)
    assert 0.01 < missed / 600 < 0.065


def test_the_looks_of_a_run_and_what_they_spend() -> None:
    """Windows of 40 * sqrt(2)^j steps at their full length and every quarter of it."""
    x = np.arange(1.0, 202.0)  # 200 steps long at the end
    spent: dict[float, list[float]] = {}
    at: dict[float, list[float]] = {}
    for end in range(2, len(x) + 1):
        for window, alpha in RULE._due(x[:end]):
            spent.setdefault(round(window, 6), []).append(alpha)
            at.setdefault(round(window, 6), []).append(x[end - 1])
    assert at[40.0] == [float(step) for step in range(41, 202, 10)]
    assert at[80.0] == [81.0, 101.0, 121.0, 141.0, 161.0, 181.0, 201.0]
    assert at[160.0] == [161.0, 201.0]
    assert len(at) == 5
    assert spent[40.0][:3] == pytest.approx(
        [0.05 * (1 - 2**-0.5) / 2, 0.05 * (1 - 2**-0.5) / 6, 0.05 * (1 - 2**-0.5) / 12]
    )
    # Look m of a window leaves 1 / (m + 1) of its share; windows not yet reached keep theirs.
    left = sum(0.05 * (1 - 2**-0.5) * 2 ** (-j / 2) / (len(at[w]) + 1) for j, w in enumerate(at))
    assert sum(map(sum, spent.values())) + left + 0.05 * 2**-2.5 == pytest.approx(0.05)


def test_a_log_of_every_tenth_step_is_looked_at_on_its_own_steps() -> None:
    x = np.arange(10.0, 1001.0, 10.0)
    y = 0.01 * ar1(np.random.default_rng(5), 1, 100, 0.0)[0]
    looks = PlateauRule(horizon=200, delta=1e-9).replay(x, y)
    assert [look.step for look in looks[:3]] == [210.0, 260.0, 300.0]
    assert {look.step % 10 for look in looks} == {0.0}
    few = PlateauRule(horizon=150, delta=1e-9).replay(x, y)
    # 150 steps hold 16 values, which are too few; 150 * sqrt(2) hold 22.
    assert few[0].step == 230.0
    assert few[0].window == pytest.approx(150 * 2**0.5)


def test_look_by_look_is_the_replay() -> None:
    x = np.arange(1.0, 161.0)
    y = ar1(np.random.default_rng(6), 1, 160, 0.5)[0] * 0.8
    replayed = RULE.replay(x, y)
    one_by_one = [RULE.look(x[:end], y[:end]) for end in range(1, 161)]
    looks = [look for look in one_by_one if look is not None]
    assert replayed[-1].stop
    assert looks[: len(replayed)] == replayed
    assert RULE.look(x[:50], y[:50]) is None
    assert RULE.look([], []) is None


def test_a_flat_curve_is_stopped_at_the_first_look_that_can() -> None:
    x = np.arange(1.0, 201.0)
    y = 0.01 * ar1(np.random.default_rng(7), 1, 200, 0.5)[0]
    verdict = RULE.replay(x, y)[-1]
    assert verdict.stop
    assert verdict.step == 41.0
    assert verdict.window == 40.0
    assert verdict.upper < 1.0
    assert verdict.noise == pytest.approx(0.01, rel=0.3)
    assert "the next 40 steps bring" in verdict.reason
    later = PlateauRule(horizon=40, delta=1.0, start=100).replay(x, y)[-1]
    assert later.step == 141.0
    assert RULE.replay(x, np.full(200, 0.7))[-1].step == 41.0


def test_a_run_that_falls_is_stopped() -> None:
    x = np.arange(1.0, 201.0)
    y = 1.0 - 0.02 * x + 0.3 * ar1(np.random.default_rng(8), 1, 200, 0.5)[0]
    assert RULE.replay(x, y)[-1].step <= 80


def test_a_rise_after_a_flat_start_is_not_stopped_by_the_start() -> None:
    """When the noise hides the flat start from the short windows, a long one that is flat for
    most of its length must not stop what rises now. 40 curves."""
    rng = np.random.default_rng(9)
    n, turn = 300, 160
    mean = np.maximum(np.arange(n) - turn, 0) * 4 / 40
    curves = mean + 4.0 * ar1(rng, 40, n, 0.5)
    ends = stop_steps(RULE, curves)
    assert np.mean(np.isfinite(ends) & (ends > turn + 40)) <= 0.05


@pytest.mark.parametrize("rho", RHOS)
def test_a_rising_run_is_falsely_stopped_in_at_most_five_percent(rho: float) -> None:
    """The least slope that must not be stopped, 80 runs of 6 horizons (standard error 2.4 %). The
    textbook's test, looked at as often, stops far more."""
    n = 6 * 40
    line = np.arange(n) / 40
    curves = line + 2.0 * ar1(np.random.default_rng(10), 80, n, rho)
    assert np.isfinite(stop_steps(RULE, curves)).mean() <= 0.05
    assert np.mean([naive_stops(curve, 40, 40, 1.0) for curve in curves]) > 0.2


@pytest.mark.parametrize(("sd", "rho"), [(1, 0.8), (2, 0.5), (3, 0.0)])
def test_a_flat_run_is_saved_thirty_percent(sd: float, rho: float) -> None:
    """600 steps, a horizon of 100, noise in units of delta; 30 runs."""
    curves = sd * ar1(np.random.default_rng(11), 30, 600, rho)
    ends = stop_steps(PlateauRule(100, 1.0), curves)
    assert np.mean(1 - np.minimum(ends, 600) / 600) >= 0.3


def test_flat_steps_foretells_the_median_stop() -> None:
    rng = np.random.default_rng(12)
    for sd, rho in ((1.0, 0.0), (2.0, 0.5)):
        ends = stop_steps(RULE, sd * ar1(rng, 40, 800, rho))
        assert np.median(ends) == pytest.approx(RULE.flat_steps(sd, rho), rel=0.42)
    # Values ten steps apart are a tenth as many: the window is 10^(1/3) as long.
    wide, narrow = (PlateauRule(1000, 1.0).flat_steps(1.0, 0.0, s) for s in (80.0, 10.0))
    assert wide / narrow == pytest.approx(2.0)
    assert RULE.flat_steps(0.0) == 40.0
    assert RULE.flat_steps(0.0, spacing=5.0) == pytest.approx(40 * 2**1.5)


def test_a_saturating_run_is_stopped_when_little_is_left() -> None:
    """20 (1 - exp(-t / 40)) rises by delta over the horizon until t = 40 log(20 (1 - 1 / e)) = 101;
    20 runs of 600 steps."""
    t = np.arange(1, 601)
    curves = 20 * (1 - np.exp(-t / 40)) + 0.7 * ar1(np.random.default_rng(13), 20, 600, 0.5)
    ends = stop_steps(RULE, curves)
    assert np.all(ends > 101)
    assert np.median(ends) < 400


def test_patience_stops_runs_that_still_rise() -> None:
    """Why it is no patience rule: noise of 0.02 and an evaluation every 20 steps, a reward that
    rises from 0.4 to 0.8 over 2000 steps."""
    rule = PlateauRule(horizon=200, delta=0.04)
    curves = np.linspace(0.4, 0.8, 2000) + 0.02 * ar1(np.random.default_rng(14), 40, 2000, 0.5)
    assert np.mean([patience_stops(curve, 20, 3, 0.02) for curve in curves]) > 0.9
    sparse = curves[:, ::20]
    ends = [(rule.replay(np.arange(0, 2000, 20), c) or [None])[-1] for c in sparse]
    assert sum(look is not None and look.stop for look in ends) <= 2


@pytest.mark.parametrize(
    ("steps", "values", "said"),
    [
        ([1, 2, 3], [1.0, 2.0], "as many steps as values"),
        ([1, 3, 3], [1.0, 2.0, 3.0], "increase"),
        ([1, 2, np.nan], [1.0, 2.0, 3.0], "increase"),
        ([1, 2, 3], [1.0, np.nan, 3.0], "finite"),
    ],
)
def test_what_is_no_curve(steps: list[float], values: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RULE.look(steps, values)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("rho", RHOS)
@pytest.mark.parametrize("slope", [1, 2, 4])
def test_false_stops_of_many_runs(slope: int, rho: float) -> None:
    """500 runs of 10 horizons, noise of 4 delta (standard error 1 %): the upper end of the 95 %
    interval is below 5 %."""
    n = 10 * 40
    line = np.arange(n) * slope / 40
    ends = stop_steps(RULE, line + 4.0 * ar1(np.random.default_rng(15), 500, n, rho))
    assert wilson(float(np.isfinite(ends).mean()), 500)[1] < 0.05

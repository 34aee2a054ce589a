"""Measures the plateau rule on simulated curves; prints the tables of docs/results/simulations.md.

OMP_NUM_THREADS=1 python scripts/plateau_error.py [--runs 300] [--seed 0]

Curves are in units of delta and of steps, with a value every step, a horizon of 100 and AR(1)
noise of the standard deviation given. ``--runs`` is the number of curves of the least slope that
must not be stopped; steeper ones take a third of it, flat and saturating ones a fifth, and single
looks five times as many. About seven minutes of one core.
"""

import argparse
from collections.abc import Callable

import numpy as np
from scipy.signal import lfilter

from butwait.statistics.intervals import wilson
from butwait.statistics.plateau import PlateauRule, fit_trend

HORIZON = 100
RHOS = (0.0, 0.5, 0.8)
RULE = PlateauRule(HORIZON, 1.0)


def noise(rng: np.random.Generator, runs: int, n: int, rho: float) -> np.ndarray:
    """(runs, n) stationary AR(1) noise of standard deviation 1."""
    shocks = rng.standard_normal((runs, n)) * np.sqrt(1 - rho**2)
    shocks[:, 0] /= np.sqrt(1 - rho**2)
    return lfilter([1.0], [1.0, -rho], shocks, axis=1)


def stops(curves: np.ndarray) -> np.ndarray:
    """(runs,) step at which the rule stops each curve; infinite where it does not."""
    steps = np.arange(1, curves.shape[1] + 1)
    last = [(RULE.replay(steps, curve) or [None])[-1] for curve in curves]
    return np.array([look.step if look is not None and look.stop else np.inf for look in last])


def one_look(rng: np.random.Generator, runs: int) -> None:
    """How often the bound of one look is too low."""
    print("\n| values | nominal | rho 0 | rho 0.5 | rho 0.8 | rho 0.9 |")
    print("| --- | --- | --- | --- | --- | --- |")
    for n in (25, 100, 400):
        steps = np.arange(float(n))
        levels = (0.05, 0.01)
        missed = np.zeros((len(levels), 4))
        for column, rho in enumerate((*RHOS, 0.9)):
            for curve in noise(rng, runs, n, rho):
                trend = fit_trend(steps, curve)
                missed[:, column] += [trend.upper(level) < 0 for level in levels]
        for level, row in zip(levels, missed / runs, strict=True):
            cells = " | ".join(f"{100 * rate:.1f} %" for rate in row)
            print(f"| {n} | {100 * level:g} % | {cells} |", flush=True)


def rising(rng: np.random.Generator, runs: int) -> None:
    """False stops of straight curves."""
    print("\n| slope, in delta / horizon | sd / delta | rho 0 | rho 0.5 | rho 0.8 |")
    print("| --- | --- | --- | --- | --- |")
    n = 10 * HORIZON
    for slope, sd in ((1, 1), (1, 4), (2, 4), (4, 4)):
        line = np.arange(n) * slope / HORIZON
        count = runs if slope == 1 else runs // 3
        cells = []
        for rho in RHOS:
            found = np.isfinite(stops(line + sd * noise(rng, count, n, rho))).mean()
            low, high = wilson(float(found), count)
            cells.append(f"{100 * found:.1f} % [{100 * low:.1f}, {100 * high:.1f}]")
        print(f"| {slope} | {sd} | {' | '.join(cells)} |", flush=True)


def savings(
    title: str,
    mean: Callable[[np.ndarray], np.ndarray],
    lengths: tuple[int, ...],
    rng: np.random.Generator,
    runs: int,
) -> None:
    """Steps that are saved, as a share of the run, and early stops.

    A stop is early where the mean curve still rises by delta or more over the horizon.
    """
    print(f"\n{title}\n\n| steps | sd / delta | rho 0 | rho 0.5 | rho 0.8 |")
    print("| --- | --- | --- | --- | --- |")
    for n in lengths:
        steps = np.arange(1, n + 1)
        for sd in (1, 2, 4):
            cells = []
            for rho in RHOS:
                ends = stops(mean(steps) + sd * noise(rng, runs, n, rho))
                done = ends[np.isfinite(ends)]
                early = np.sum(mean(done + HORIZON) - mean(done) >= 1) / runs
                saved = 1 - np.minimum(ends, n) / n
                error = saved.std(ddof=1) / np.sqrt(runs)
                cells.append(
                    f"{100 * saved.mean():.0f} ± {100 * error:.0f} % "
                    f"({100 * len(done) / runs:.0f}, {100 * early:.1f})"
                )
            print(f"| {n} | {sd} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    rising(rng, options.runs)
    few = options.runs // 5
    savings("Flat from the start", lambda t: 0.0 * t, (600, 2000), rng, few)
    savings(
        "Saturating: 20 (1 - exp(-t / 80))",
        lambda t: 20 * (1 - np.exp(-t / 80)),
        (1000, 2000),
        rng,
        few,
    )
    one_look(np.random.default_rng([options.seed, 1]), 5 * options.runs)


if __name__ == "__main__":
    main()

"""Simulated curves, and the plain rules that the plateau rule is compared with."""

import numpy as np
from scipy import stats

from butwait.statistics.plateau import PlateauRule


def ar1(rng: np.random.Generator, runs: int, n: int, rho: float) -> np.ndarray:
    """(runs, n) stationary AR(1) noise of standard deviation 1."""
    noise = rng.standard_normal((runs, n))
    for t in range(1, n):
        noise[:, t] = rho * noise[:, t - 1] + np.sqrt(1 - rho**2) * noise[:, t]
    return noise


def stop_steps(rule: PlateauRule, curves: np.ndarray) -> np.ndarray:
    """(runs,) step at which the rule stops each curve of steps 1, 2, ...; inf where it does not."""
    steps = np.arange(1, curves.shape[1] + 1)
    last = [(rule.replay(steps, curve) or [None])[-1] for curve in curves]
    return np.array([look.step if look is not None and look.stop else np.inf for look in last])


def naive_stops(curve: np.ndarray, window: int, horizon: float, delta: float) -> bool:
    """The textbook's test at every quarter window: independent noise, 5 % at each look."""
    quantile = stats.t.ppf(0.95, window - 2)
    for end in range(window, len(curve) + 1, window // 4):
        fit = stats.linregress(np.arange(window), curve[end - window : end])
        if (fit.slope + quantile * fit.stderr) * horizon < delta:
            return True
    return False


def patience_stops(curve: np.ndarray, every: int, patience: int, delta: float) -> bool:
    """Stop when ``patience`` values in a row do not beat the best by ``delta``."""
    best, waited = -np.inf, 0
    for value in curve[::every]:
        best, waited = (value, 0) if value > best + delta else (best, waited + 1)
        if waited == patience:
            return True
    return False

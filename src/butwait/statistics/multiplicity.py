"""Adjusted p-values where several comparisons are made at once.

Holm for claims against a baseline (no false claim at all), Benjamini-Hochberg for exploration
(few false claims among those made).
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's adjusted p-values (Holm 1979), in the given order: float64 (m,)."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


def benjamini_hochberg(p_values: ArrayLike) -> np.ndarray:
    """Benjamini and Hochberg's adjusted p-values (1995), in the given order: float64 (m,)."""
    p = np.asarray(p_values, dtype=np.float64)
    return p if p.size == 0 else np.asarray(stats.false_discovery_control(p, method="bh"))

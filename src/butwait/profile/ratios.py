"""How many times as large a figure is in one source as in another, with an interval."""

from dataclasses import dataclass

import numpy as np

from butwait.profile.figures import Measured
from butwait.records import Key

DRAWS = 2000
"""Bootstrap samples."""

_BLOCK = 100
"""Samples drawn at a time, which bounds the memory."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """``mean of source / mean of baseline``; None where a mean is missing or the baseline's is 0.
    ``interval`` is None where the data cannot tell one."""

    ratio: float | None
    interval: tuple[float, float] | None


def ratios(
    source: Measured, baseline: Measured, key: Key, *, draws: int = DRAWS, level: float = 0.95
) -> dict[str, Ratio]:
    """Figure -> the ratio of means, with a percentile bootstrap over questions.

    A question is drawn with all of its solutions. One that both sources have is drawn for both at
    once, so what makes it long for both cancels; those of one source alone are drawn apart. The
    same key gives the same intervals.

    No interval: fewer than two questions in a group that is drawn, a sample whose baseline mean
    is 0, or a ratio of 0, which every sample repeats and none doubts.
    """
    names = [name for name in source.columns if name in baseline.columns]
    top, bottom = _totals(source, names), _totals(baseline, names)
    shared = [question for question in top if question in bottom]
    groups = [
        _stacked(shared, top, bottom, len(names)),
        _stacked([q for q in top if q not in bottom], top, {}, len(names)),
        _stacked([q for q in bottom if q not in top], {}, bottom, len(names)),
    ]
    groups = [group for group in groups if len(group)]
    whole = _ratio(sum(group.sum(axis=0) for group in groups)[None])[0]
    if any(len(group) < 2 for group in groups):
        bounds = np.full((2, len(names)), np.nan)
    else:
        tail = (1 - level) / 2
        with np.errstate(invalid="ignore"):
            bounds = np.quantile(_draws(groups, key, draws), (tail, 1 - tail), axis=0)
    bounds[:, whole == 0] = np.nan
    found = np.stack([whole, *bounds]).astype(object)
    found[np.isnan([whole, *bounds])] = None
    return {
        name: Ratio(ratio, None if low is None or high is None else (low, high))
        for name, ratio, low, high in zip(names, *found.tolist(), strict=True)
    }


def shared_questions(source: Measured, baseline: Measured) -> int:
    """Questions that both sources have."""
    a, b = ({s.question for s in of.source.solutions} for of in (source, baseline))
    return len(a & b)


def _totals(measured: Measured, names: list[str]) -> dict[str, np.ndarray]:
    """Question -> float64 (2, figures): sums over its solutions, and how many have the figure."""
    table = np.stack([measured.columns[name] for name in names], axis=1)
    parts = np.stack([np.nan_to_num(table), ~np.isnan(table)], axis=1)
    totals: dict[str, np.ndarray] = {}
    for solution, row in zip(measured.source.solutions, parts, strict=True):
        totals[solution.question] = totals.get(solution.question, 0) + row
    return totals


def _stacked(
    questions: list[str], top: dict[str, np.ndarray], bottom: dict[str, np.ndarray], width: int
) -> np.ndarray:
    """float64 (questions, 4 * width): the totals of both sources, zero where one has none."""
    none = np.zeros((2, width))
    rows = [np.concatenate([top.get(q, none), bottom.get(q, none)]).ravel() for q in questions]
    return np.array(rows).reshape(len(questions), 4 * width)


def _draws(groups: list[np.ndarray], key: Key, draws: int) -> np.ndarray:
    """float64 (draws, figures): the ratio in each bootstrap sample."""
    samples = []
    for block in range(0, draws, _BLOCK):
        size = min(_BLOCK, draws - block)
        sums = np.zeros((size, groups[0].shape[1]))
        for number, group in enumerate(groups):
            generator = key.derive("group", number).at(iteration=block).generator()
            times = generator.multinomial(len(group), np.full(len(group), 1 / len(group)), size)
            sums += times @ group
        samples.append(_ratio(sums))
    return np.concatenate(samples)


def _ratio(sums: np.ndarray) -> np.ndarray:
    """(m, 4 * figures) -> (m, figures); NaN where the ratio does not exist."""
    top, top_n, bottom, bottom_n = sums.reshape(len(sums), 4, -1).swapaxes(0, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = (top / top_n) / (bottom / bottom_n)
    return np.where(np.isfinite(ratio), ratio, np.nan)

"""Figures about solutions and trainings: accuracy against tokens, lengths, logged curves.

Each takes rows and returns inline SVG with a one-sentence reading.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from butwait.report import formats
from butwait.report.collect import Evaluation
from butwait.report.formats import finite
from butwait.report.svg import (
    FEWEST_POINTS,
    NOT_DRAWN,
    Canvas,
    FigureBlock,
    Ink,
    LegendEntry,
    series_colour,
    series_variable,
)

MARKERS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"), ("P", "✚"))
"""Marker of matplotlib and the same sign for the legend, one a method."""


def accuracy_against_tokens(
    rows: Sequence[Evaluation], colours: Mapping[str, int]
) -> FigureBlock | None:
    """Accuracy against tokens (log scale), one panel a problem set.

    The large marker is pass@1 with its interval at the policy tokens of one attempt; a hollow one
    stands at policy plus reward-model tokens; small dots are majority votes of 2, 4, ... attempts
    at the tokens of so many. ``colours`` maps an evaluate stage to its series.
    """
    drawn = [row for row in rows if row.figure("pass_at_1") is not None and row.attempt_tokens]
    sets = list(dict.fromkeys(row.set for row in drawn))
    if not sets:
        return None
    readings = " ".join(_accuracy_reading(name, drawn) for name in sets)
    title = "Accuracy against generated tokens"
    if sum(1 + len(_votes(row)) for row in drawn) < FEWEST_POINTS:
        return FigureBlock(NOT_DRAWN, title, readings)
    methods = dict.fromkeys(row.method for row in drawn)
    markers = {method: MARKERS[i % len(MARKERS)] for i, method in enumerate(methods)}
    with Canvas("accuracy", "Accuracy against tokens", rows=len(sets), height=3.2) as canvas:
        for axes, name in zip(canvas.axes, sets, strict=True):
            members = [row for row in drawn if row.set == name]
            for row in members:
                colour = series_colour(colours[row.stage])
                _draw_votes(axes, row, colour)
                _draw_attempt(axes, row, colour, markers[row.method][0])
            _token_axis(axes, members)
            axes.set_title(f"{name} (n = {formats.count(members[0].figure('n'))})")
    legend = _accuracy_legend(drawn, colours, markers)
    return FigureBlock(canvas.svg, title, readings, legend)


def _total_tokens(row: Evaluation) -> float:
    """Policy and reward-model tokens of an attempt."""
    return row.attempt_tokens + row.attempt_reward_tokens


def _votes(row: Evaluation) -> list[tuple[float, float]]:
    """(policy tokens, accuracy) of majority votes of k > 1 attempts, by k."""
    tokens = row.attempt_tokens
    by_k = {int(k): finite(rate) for k, rate in (row.metrics.get("maj_at_k") or {}).items()}
    return [(k * tokens, rate) for k, rate in sorted(by_k.items()) if k > 1 and rate is not None]


def _draw_attempt(axes: Axes, row: Evaluation, colour: str, marker: str) -> None:
    rate, tokens = 100 * row.metrics["pass_at_1"], row.attempt_tokens
    if bounds := row.metrics.get("interval"):
        ends = [100 * bound for bound in bounds]
        axes.plot([tokens] * 2, ends, "_-", color=colour, linewidth=1.4, markersize=9)
    total = _total_tokens(row)
    if row.attempt_reward_tokens:
        axes.plot([tokens, total], [rate, rate], color=colour, linewidth=1, linestyle=":")
        axes.plot(total, rate, marker, color=colour, markerfacecolor=Ink.PAPER, markersize=7)
    axes.plot(tokens, rate, marker, color=colour, markersize=7.5, zorder=3)


def _draw_votes(axes: Axes, row: Evaluation, colour: str) -> None:
    points = [(row.attempt_tokens, row.metrics["pass_at_1"]), *_votes(row)]
    if len(points) > 1:
        x, y = zip(*points, strict=True)
        percent = [100 * rate for rate in y]
        axes.plot(x, percent, ".-", color=colour, linewidth=0.9, markersize=5, alpha=0.75)


def _token_axis(axes: Axes, rows: Sequence[Evaluation]) -> None:
    values = [tokens for row in rows for tokens, _ in _votes(row)]
    values += [value for row in rows for value in (row.attempt_tokens, _total_tokens(row))]
    axes.set_xscale("log")
    axes.set_xlim(min(values) / 1.5, max(values) * 1.5)
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    axes.set_xlabel("tokens generated (log scale)")
    axes.set_ylim(0, 100)
    axes.set_ylabel("accuracy (%)")


def _tick(tokens: float) -> str:
    """50 -> "50", 2000 -> "2 k"."""
    return f"{tokens:g}" if tokens < 1000 else f"{tokens / 1000:g} k"


def _accuracy_legend(
    rows: Sequence[Evaluation],
    colours: Mapping[str, int],
    markers: Mapping[str, tuple[str, str]],
) -> tuple[LegendEntry, ...]:
    stages = dict.fromkeys(row.stage for row in rows)
    entries = [LegendEntry("▬", series_variable(colours[stage]), stage) for stage in stages]
    entries += [LegendEntry(sign, "var(--ink)", method) for method, (_, sign) in markers.items()]
    if any(row.attempt_reward_tokens for row in rows):
        entries.append(LegendEntry("○", "var(--ink)", "hollow: with reward-model tokens"))
    if any(_votes(row) for row in rows):
        entries.append(LegendEntry("•", "var(--ink)", "dots: majority of 2, 4, … attempts"))
    return tuple(entries)


def _accuracy_reading(name: str, rows: Sequence[Evaluation]) -> str:
    members = [row for row in rows if row.set == name]
    best = max(members, key=lambda row: row.metrics["pass_at_1"])
    cheapest = min(members, key=_total_tokens)
    text = f"On {name} one attempt is right most often for {_place(best)}"
    return f"{text}; the cheapest is {_place(cheapest)}." if cheapest is not best else f"{text}."


def _place(row: Evaluation) -> str:
    reward = " with the reward model's" if row.attempt_reward_tokens else ""
    return (
        f"{row.stage}/{row.method}, {formats.percent(row.figure('pass_at_1'))} at "
        f"{formats.compact(_total_tokens(row))} tokens{reward}"
    )


_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True)
class LengthRow:
    """Lengths of one group of solutions.

    Attributes:
        label: what they are.
        quantiles: tokens at 5, 25, 50, 75 and 95 %.
        n: how many solutions.
        colour: index of the series.
    """

    label: str
    quantiles: Sequence[float]
    n: int
    colour: int


def length_row(label: str, tokens: np.ndarray, colour: int) -> LengthRow | None:
    """The quantiles of ``tokens`` (solutions,); None where there is no solution."""
    if tokens.size == 0:
        return None
    return LengthRow(label, np.quantile(tokens, _LEVELS).tolist(), int(tokens.size), colour)


def histogram_row(
    label: str, edges: Sequence[float], counts: Sequence[int], colour: int
) -> LengthRow | None:
    """The same from a histogram, linear within a bin; None where it is empty."""
    total = sum(counts)
    if not total or len(edges) != len(counts) + 1:
        return None
    cumulative = np.concatenate([[0.0], np.cumsum(counts) / total])
    return LengthRow(label, np.interp(_LEVELS, cumulative, edges).tolist(), total, colour)


def solution_lengths(rows: Sequence[LengthRow]) -> FigureBlock | None:
    """Each group as a box from the 25 % to the 75 % quantile, whiskers to 5 % and 95 %."""
    if not rows:
        return None
    with Canvas("lengths", "Solution lengths in tokens", height=0.75 + 0.36 * len(rows)) as canvas:
        axes = canvas.axes[0]
        for y, row in enumerate(rows):
            low, first, median, third, high = row.quantiles
            colour = series_colour(row.colour)
            axes.plot([low, high], [y, y], color=colour, linewidth=1.2)
            axes.barh(y, max(third - first, 0), left=first, height=0.5, color=colour, alpha=0.35)
            axes.plot([median, median], [y - 0.3, y + 0.3], color=colour, linewidth=2.4)
        axes.set_yticks(range(len(rows)), [f"{row.label}\nn = {row.n:,}" for row in rows])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0, labelsize=10)
        axes.set_xlim(0, 1.05 * max(row.quantiles[4] for row in rows) or 1)
        axes.set_xlabel("tokens a solution")
    medians = "; ".join(f"{row.label} {row.quantiles[2]:.0f}" for row in rows)
    reading = (
        f"Median lengths in tokens: {medians}. The bar is the middle half of the solutions, "
        "the line their middle 90 %."
    )
    return FigureBlock(canvas.svg, "Solution lengths", reading)


_CURVES = {
    "loss": "loss",
    "eval_loss": "held-out loss",
    "reward": "mean reward",
    "entropy": "entropy (nats a token)",
    "mean_token_accuracy": "token accuracy",
}
_MOST_CURVES = 3


def training_curves(stage: str, log: Sequence[dict[str, Any]], per: str) -> FigureBlock | None:
    """What was logged while ``stage`` trained, at most three curves, against the step; a loss is in
    nats a ``per``."""
    curves: dict[str, np.ndarray] = {}
    for name in _CURVES:
        points = [(finite(row.get("step")), finite(row.get(name))) for row in log]
        whole = [(step, value) for step, value in points if step is not None and value is not None]
        if len(whole) > 1 and len(curves) < _MOST_CURVES:
            curves[name] = np.array(whole)
    if not curves:
        return None
    reading, title = _course(*next(iter(curves.items()))), f"Training of {stage}"
    curves = {name: values for name, values in curves.items() if len(values) >= FEWEST_POINTS}
    if not curves:
        return FigureBlock(NOT_DRAWN, title, reading)
    with Canvas(
        f"training-{stage}", f"Training curves of {stage}", rows=len(curves), height=2.3
    ) as canvas:
        for axes, (name, values) in zip(canvas.axes, curves.items(), strict=True):
            axes.plot(values[:, 0], values[:, 1], color=series_colour(1))
            label = f"{_CURVES[name]} (nats a {per})" if "loss" in name else _CURVES[name]
            axes.set_ylabel(label.replace(" (", "\n("))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        canvas.axes[-1].set_xlabel("optimiser step")
    return FigureBlock(canvas.svg, title, reading)


def _course(name: str, values: np.ndarray) -> str:
    return (
        f"Over {len(values):,} logged steps the {_CURVES[name].split(' (')[0]} goes from "
        f"{values[0, 1]:.3g} to {values[-1, 1]:.3g}."
    )

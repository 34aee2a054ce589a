"""Figures about stages: reward-model calibration, effective sample size, training curves.

Each takes rows and returns inline SVG with a one-sentence reading.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from butwait.report.figures import FigureBlock
from butwait.report.formats import finite
from butwait.report.svg import Canvas, Ink, series_colour

_COLOUR = series_colour(1)


def reliability(name: str, audit: dict[str, Any]) -> FigureBlock | None:
    """Observed success against predicted probability; the diagonal is perfect calibration.

    ``audit`` is ``audit.json`` of a prm stage (see ``reward_models.audit``).
    """
    bins = audit.get("reliability") or []
    if not bins:
        return None
    predicted = np.array([b["mean_predicted"] for b in bins])
    observed = np.array([b["mean_observed"] for b in bins])
    n = np.array([b["n"] for b in bins], float)
    with Canvas(f"reliability-{name}", "Reliability diagram", height=3.4) as canvas:
        axes = canvas.axes[0]
        axes.plot([0, 100], [0, 100], color=Ink.MUTED, linewidth=1, linestyle="--")
        axes.plot(100 * predicted, 100 * observed, color=_COLOUR, linewidth=1.2)
        area = 14 + 130 * n / n.max()
        axes.scatter(100 * predicted, 100 * observed, s=area, color=_COLOUR, zorder=3)
        axes.set(xlim=(0, 100), ylim=(0, 100))
        axes.set_xlabel("predicted chance of a correct answer (%)")
        axes.set_ylabel("observed (%)")
    bias = 100 * float(n @ (predicted - observed) / n.sum())
    gap = 100 * float(n @ np.abs(predicted - observed) / n.sum())
    reading = (
        f"Over n = {n.sum():,.0f} held-out completions the predictions are off by {gap:.1f} points "
        f"on average (expected calibration error) and {abs(bias):.1f} points too "
        f"{'high' if bias > 0 else 'low'} overall. On the dashed line they would be exact; a "
        "larger dot holds more completions."
    )
    return FigureBlock(canvas.svg, "Calibration", reading)


def auc_by_depth(name: str, audit: dict[str, Any]) -> FigureBlock | None:
    """Within-question AUC on prefixes of each depth, from ``audit.json``."""
    rows = [row for row in audit.get("auc_by_depth") or [] if finite(row.get("auc")) is not None]
    if not rows:
        return None
    labels = [f"{row['depth']}{'+' if row.get('or_deeper') else ''}" for row in rows]
    auc = [row["auc"] for row in rows]
    with Canvas(f"auc-{name}", "AUC by depth of the prefix", height=3.4) as canvas:
        axes = canvas.axes[0]
        x = np.arange(len(rows))
        axes.axhline(0.5, color=Ink.MUTED, linewidth=1, linestyle="--")
        axes.plot(x, auc, "o-", color=_COLOUR, linewidth=1.2)
        axes.set_xticks(
            x, [f"{label}\n({row['prefixes']:,})" for label, row in zip(labels, rows, strict=True)]
        )
        axes.tick_params(axis="x", labelsize=10 if len(rows) < 8 else 8.5)
        axes.set_ylim(min(0.4, *auc) - 0.02, 1)
        axes.set_xlabel("steps in the prefix (number of prefixes)")
        axes.set_ylabel("within-question AUC")
    worst, best = int(np.argmin(auc)), int(np.argmax(auc))
    reading = (
        f"Among prefixes of one question and equal depth it ranks best at {labels[best]} steps "
        f"(AUC {auc[best]:.2f}, n = {rows[best]['prefixes']:,} prefixes) and worst at "
        f"{labels[worst]} ({auc[worst]:.2f}, n = {rows[worst]['prefixes']:,}); the dashed line is "
        "chance."
    )
    return FigureBlock(canvas.svg, "Ranking by depth", reading)


def ess_curve(name: str, ess: np.ndarray, resampled: np.ndarray) -> FigureBlock | None:
    """Effective sample size by step.

    ``ess`` is (trees, steps), the ESS as a share of the particles, NaN after a tree's end;
    ``resampled`` (trees, steps) says whether the step began with a resampling. None for searches
    of one step, which have no curve.
    """
    alive = np.isfinite(ess).sum(axis=0)
    steps = np.flatnonzero(alive >= max(1, ess.shape[0] // 20))
    if steps.size < 2:
        return None
    low, median, high = np.nanquantile(ess[:, steps], (0.1, 0.5, 0.9), axis=0)
    x = steps + 1
    with Canvas(f"ess-{name}", "Effective sample size by step", height=2.7) as canvas:
        axes = canvas.axes[0]
        axes.fill_between(x, 100 * low, 100 * high, color=_COLOUR, alpha=0.2, linewidth=0)
        axes.plot(x, 100 * median, color=_COLOUR, marker="o", markersize=4)
        axes.set_ylim(0, 104)
        axes.set_xlabel("step of the search")
        axes.set_ylabel("ESS (% of particles)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    worst = int(np.argmin(median))
    share = float(np.mean(resampled[:, steps][np.isfinite(ess[:, steps])]))
    reading = (
        f"Median over n = {ess.shape[0]:,} trees; the middle 80 % is shaded. Lowest at step "
        f"{x[worst]} ({100 * median[worst]:.0f} % of the particles, n = {alive[steps][worst]:,}); "
        f"{100 * share:.0f} % of the steps began with a resampling."
    )
    return FigureBlock(canvas.svg, "Effective sample size", reading)


_CURVES = {
    "loss": "loss",
    "eval_loss": "held-out loss",
    "reward": "mean reward",
    "entropy": "entropy (nats a token)",
    "mean_token_accuracy": "token accuracy",
}
_MOST_CURVES = 3


def training_curves(stage: str, kind: str, log: Sequence[dict[str, Any]]) -> FigureBlock | None:
    """What was logged while ``stage`` trained, at most three curves, against the step."""
    curves: dict[str, np.ndarray] = {}
    for name in _CURVES:
        points = [(finite(row.get("step")), finite(row.get(name))) for row in log]
        whole = [(step, value) for step, value in points if step is not None and value is not None]
        if len(whole) > 1 and len(curves) < _MOST_CURVES:
            curves[name] = np.array(whole)
    if not curves:
        return None
    unit = "nats a step label" if kind == "prm" else "nats a token"
    with Canvas(
        f"training-{stage}", f"Training curves of {stage}", rows=len(curves), height=2.3
    ) as canvas:
        for axes, (name, values) in zip(canvas.axes, curves.items(), strict=True):
            axes.plot(values[:, 0], values[:, 1], color=_COLOUR)
            label = f"{_CURVES[name]} ({unit})" if "loss" in name else _CURVES[name]
            axes.set_ylabel(label.replace(" (", "\n("))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        canvas.axes[-1].set_xlabel("optimiser step")
    name, values = next(iter(curves.items()))
    reading = (
        f"Over {len(values):,} logged steps the {_CURVES[name].split(' (')[0]} goes from "
        f"{values[0, 1]:.3g} to {values[-1, 1]:.3g}."
    )
    return FigureBlock(canvas.svg, f"Training of {stage}", reading)

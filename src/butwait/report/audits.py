"""What the audit of a reward model says: its figures, and how well it is calibrated and ranks."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from butwait.report.collect import read_json
from butwait.report.formats import finite
from butwait.report.kinds import Record
from butwait.report.svg import FEWEST_POINTS, NOT_DRAWN, Canvas, FigureBlock, Ink, series_colour

_COLOUR = series_colour(1)


def audits(run: Path, stages: Iterable[Record]) -> list[dict[str, Any]]:
    """Of every stage that has one, for the template: ``name``, ``audit`` as stored, ``figures``."""
    found = []
    for stage in stages:
        name = stage["name"]
        if (audit := read_json(run / name / "audit.json")) is not None:
            figures = (reliability(name, audit), auc_by_depth(name, audit))
            drawn = [figure for figure in figures if figure is not None]
            found.append({"name": name, "audit": audit, "figures": drawn})
    return found


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
    bias = 100 * float(n @ (predicted - observed) / n.sum())
    gap = 100 * float(n @ np.abs(predicted - observed) / n.sum())
    reading = (
        f"Over n = {n.sum():,.0f} held-out completions the predictions are off by {gap:.1f} points "
        f"on average (expected calibration error) and {abs(bias):.1f} points too "
        f"{'high' if bias > 0 else 'low'} overall."
    )
    if len(bins) < FEWEST_POINTS:
        return FigureBlock(NOT_DRAWN, "Calibration", reading)
    reading += " On the dashed line they would be exact; a larger dot holds more completions."
    with Canvas(f"reliability-{name}", "Reliability diagram", height=3.4) as canvas:
        axes = canvas.axes[0]
        axes.plot([0, 100], [0, 100], color=Ink.MUTED, linewidth=1, linestyle="--")
        axes.plot(100 * predicted, 100 * observed, color=_COLOUR, linewidth=1.2)
        area = 14 + 130 * n / n.max()
        axes.scatter(100 * predicted, 100 * observed, s=area, color=_COLOUR, zorder=3)
        axes.set(xlim=(0, 100), ylim=(0, 100))
        axes.set_xlabel("predicted chance of a correct answer (%)")
        axes.set_ylabel("observed (%)")
    return FigureBlock(canvas.svg, "Calibration", reading)


def auc_by_depth(name: str, audit: dict[str, Any]) -> FigureBlock | None:
    """Within-question AUC on prefixes of each depth, from ``audit.json``."""
    rows = [row for row in audit.get("auc_by_depth") or [] if finite(row.get("auc")) is not None]
    if not rows:
        return None
    labels = [f"{row['depth']}{'+' if row.get('or_deeper') else ''}" for row in rows]
    auc = [row["auc"] for row in rows]
    worst, best = int(np.argmin(auc)), int(np.argmax(auc))
    reading = (
        f"Among prefixes of one question and equal depth it ranks best at {labels[best]} steps "
        f"(AUC {auc[best]:.2f}, n = {rows[best]['prefixes']:,} prefixes) and worst at "
        f"{labels[worst]} ({auc[worst]:.2f}, n = {rows[worst]['prefixes']:,})"
    )
    if len(rows) < FEWEST_POINTS:
        return FigureBlock(NOT_DRAWN, "Ranking by depth", f"{reading}.")
    reading += "; the dashed line is chance."
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
    return FigureBlock(canvas.svg, "Ranking by depth", reading)

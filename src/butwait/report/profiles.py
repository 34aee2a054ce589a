"""Figures of a profile: lengths of several sets of solutions, and where they reflect.

Both read ``profile.json`` (``profile.findings``).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from butwait.report.collect import read_json
from butwait.report.kinds import Record
from butwait.report.svg import Canvas, FigureBlock, log_axis, series_colour

Profile = dict[str, Any]


def profiles(run: Path, stages: Iterable[Record]) -> list[dict[str, Any]]:
    """Of every stage that has one, for the template."""
    read = {stage["name"]: read_json(run / stage["name"] / "profile.json") for stage in stages}
    return [shown(name, profile) for name, profile in read.items() if profile is not None]


def shown(name: str, profile: Profile) -> dict[str, Any]:
    """One profile for the template; ``name`` keeps the figures' ids apart."""
    places = habit_places(name, profile)
    figures = [length_histograms(name, profile), *([places] if places else [])]
    return {"name": name, "sentences": profile["sentences"], "figures": figures}


def length_histograms(name: str, profile: Profile) -> FigureBlock:
    """A panel a source under each other, over the same bins (log scale): the share of its
    solutions in each."""
    sources, unit = profile["sources"], profile["unit"]
    edges, label = profile["length_edges"], f"Solution lengths in {unit}"
    with Canvas(f"{name}-lengths", label, rows=len(sources), height=1.9) as canvas:
        for number, (axes, source) in enumerate(zip(canvas.axes, sources, strict=True)):
            shares = _percent(source["length_counts"])
            axes.stairs(shares, edges, fill=True, color=series_colour(number), alpha=0.7)
            log_axis(axes)
            axes.set_xlim(edges[0], edges[-1])
            axes.set_title(f"{source['name']} (n = {source['n']:,})")
            axes.set_ylabel("solutions (%)")
        canvas.axes[-1].set_xlabel(f"{unit} a solution (log scale)")
    medians = "; ".join(f"{s['name']} {s['figures']['length']['median']:,.0f}" for s in sources)
    return FigureBlock(canvas.svg, label, f"Median lengths in {unit}: {medians}.")


def habit_places(name: str, profile: Profile, habit: str = "reflection") -> FigureBlock | None:
    """Where the phrases of a habit begin, as shares of all of them; None where there is none."""
    sources = [s for s in profile["sources"] if sum(s["place_counts"].get(habit, ()))]
    if not sources:
        return None
    order = [source["name"] for source in profile["sources"]]
    label = f"Where phrases of {habit} stand"
    with Canvas(f"{name}-{habit}", label, rows=len(sources), height=1.9) as canvas:
        for axes, source in zip(canvas.axes, sources, strict=True):
            counts = source["place_counts"][habit]
            edges = [100 * i / len(counts) for i in range(len(counts) + 1)]
            colour = series_colour(order.index(source["name"]))
            axes.stairs(_percent(counts), edges, fill=True, color=colour, alpha=0.7)
            axes.set_xlim(0, 100)
            axes.set_title(f"{source['name']} ({sum(counts):,} phrases)")
            axes.set_ylabel("phrases (%)")
        canvas.axes[-1].set_xlabel("place in the solution (%)")
    shares = "; ".join(
        f"{s['name']} {100 * s['figures'][f'{habit}_share']['mean']:.0f} %"
        for s in profile["sources"]
    )
    reading = f"Solutions with such a phrase: {shares}. Phrases are a proxy for the habit."
    return FigureBlock(canvas.svg, label, reading)


def _percent(counts: Sequence[int]) -> list[float]:
    return [100 * count / sum(counts) for count in counts]

"""What the trees of a search stage say: effective sample sizes, ancestors, one tree to draw.

Figures are made from outlines, one in memory at a time; only the drawn tree is read whole.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from butwait.report.formats import scalars
from butwait.report.kinds import Record
from butwait.report.samples import read_questions
from butwait.report.svg import FEWEST_POINTS, NOT_DRAWN, Canvas, FigureBlock, series_colour
from butwait.report.tree_drawing import MOST_TIPS, lay_out, tips
from butwait.search.outline import Outline
from butwait.search.storage import read_outlines, read_tree
from butwait.search.weights import effective_sample_size

MOST_TREES = 512
"""Trees read for the figures; a large run has more than a page needs."""

_IN_WORDS = frozenset({"problems", "solved", "solved_share", "interval", "mean_ess_share"})
"""Metrics that the page says in words."""


def searches(run: Path, stages: Iterable[Record]) -> list[dict[str, Any]]:
    """Of every search that has something to show, for the template."""
    found = []
    for stage in stages:
        name, metrics = stage["name"], stage.get("metrics") or {}
        trees = read_shapes(run / name / "trees")
        if not metrics and not trees:
            continue
        shown = example(trees)
        problem_set = (stage.get("settings") or {}).get("problems")
        question = read_questions(run, str(problem_set)).get(shown) if shown else None
        found.append(
            {
                "name": name,
                "metrics": metrics,
                "rest": {k: v for k, v in scalars(metrics).items() if k not in _IN_WORDS},
                "ancestry": final_ancestry(trees),
                "trees_read": len(trees),
                "figure": ess_curve(name, *ess_shares(trees)) if trees else None,
                "tree": lay_out(read_tree(run / name / "trees", shown)) if shown else None,
                "problem_id": shown,
                "question": question,
            }
        )
    return found


@dataclass(frozen=True, slots=True)
class Shape:
    """What is kept of one tree.

    Attributes:
        problem_id: whose tree.
        ess: ESS over N after each step.
        resampled: whether each step began with a resampling.
        particles, first_steps, paths: final particles, the different first steps that they descend
            from, their different paths.
        rank: how well it shows on a page, the least best; None where it has no step.
    """

    problem_id: str
    ess: Sequence[float]
    resampled: Sequence[bool]
    particles: int
    first_steps: int
    paths: int
    rank: tuple[bool, bool, bool, float] | None


def read_shapes(folder: Path) -> list[Shape]:
    """Of the first ``MOST_TREES`` trees, in stored order; empty without shards."""
    if not any(folder.glob("shard-*.parquet")):
        return []
    return [shape_of(tree) for tree in islice(read_outlines(folder), MOST_TREES)]


def shape_of(tree: Outline) -> Shape:
    """Its figures.

    Its rank prefers: some final particle is correct; some branch died; small enough to be drawn
    whole. Among those the number of branches nearest to two thirds of ``MOST_TIPS``.
    """
    populations = tree.populations() if tree.population_sizes.size else []
    ends, final = tips(tree.parents), set(tree.leaves.tolist())
    grades = zip(tree.grade_nodes.tolist(), tree.grades, strict=True)
    rank = (
        not any(node in final and grade == "correct" for node, grade in grades),
        final.issuperset(ends),
        len(ends) > MOST_TIPS,
        abs(len(ends) - 2 * MOST_TIPS / 3),
    )
    return Shape(
        problem_id=tree.problem_id,
        ess=[effective_sample_size(weights) / len(weights) for weights in populations],
        resampled=tree.population_resampled.tolist(),
        particles=len(tree.leaves),
        first_steps=len(set(_first_steps(tree.parents, tree.leaves).tolist())),
        paths=len(final),
        rank=rank if ends else None,
    )


def _first_steps(parents: np.ndarray, leaves: np.ndarray) -> np.ndarray:
    """int32 (M,): the root's child that each leaf descends from; the root itself for the root."""
    at = leaves
    while (deeper := parents[at] > 0).any():
        at = np.where(deeper, parents[at], at)
    return at


def ess_shares(trees: Sequence[Shape]) -> tuple[np.ndarray, np.ndarray]:
    """ESS over N after each step: float64 (trees, steps), NaN after a tree's end; and whether
    the step began with a resampling: bool, same shape."""
    steps = max((len(tree.ess) for tree in trees), default=0)
    shares = np.full((len(trees), steps), np.nan)
    resampled = np.zeros((len(trees), steps), bool)
    for row, tree in enumerate(trees):
        shares[row, : len(tree.ess)] = tree.ess
        resampled[row, : len(tree.ess)] = tree.resampled
    return shares, resampled


@dataclass(frozen=True, slots=True)
class Ancestry:
    """Attributes:
    particles: mean number of final particles a tree.
    first_steps: mean number of different first steps that they descend from.
    paths: mean number of different final paths.
    """

    particles: float
    first_steps: float
    paths: float


def final_ancestry(trees: Iterable[Shape]) -> Ancestry | None:
    """How many different ancestors the final particles have, over trees that have any."""
    final = [(tree.particles, tree.first_steps, tree.paths) for tree in trees if tree.particles]
    return Ancestry(*np.mean(final, axis=0).tolist()) if final else None


def example(trees: Iterable[Shape]) -> str | None:
    """The problem whose tree shows most on a page, by the rank of ``shape_of``; the first of
    equals."""
    ranked = [(tree.rank, number, tree) for number, tree in enumerate(trees) if tree.rank]
    return min(ranked)[2].problem_id if ranked else None


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
    x, title = steps + 1, "Effective sample size"
    reading = _ess_reading(ess, resampled, steps, median)
    if steps.size < FEWEST_POINTS:
        return FigureBlock(NOT_DRAWN, title, reading)
    with Canvas(f"ess-{name}", "Effective sample size by step", height=2.7) as canvas:
        axes = canvas.axes[0]
        axes.fill_between(x, 100 * low, 100 * high, color=series_colour(1), alpha=0.2, linewidth=0)
        axes.plot(x, 100 * median, color=series_colour(1), marker="o", markersize=4)
        axes.set_ylim(0, 104)
        axes.set_xlabel("step of the search")
        axes.set_ylabel("ESS (% of particles)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return FigureBlock(canvas.svg, title, reading)


def _ess_reading(
    ess: np.ndarray, resampled: np.ndarray, steps: np.ndarray, median: np.ndarray
) -> str:
    alive, worst = np.isfinite(ess).sum(axis=0), int(np.argmin(median))
    drawn = "; the middle 80 % is shaded" if steps.size >= FEWEST_POINTS else ""
    share = float(np.mean(resampled[:, steps][np.isfinite(ess[:, steps])]))
    return (
        f"Median over n = {ess.shape[0]:,} trees{drawn}. Lowest at step "
        f"{steps[worst] + 1} ({100 * median[worst]:.0f} % of the particles, n = "
        f"{alive[steps][worst]:,}); {100 * share:.0f} % of the steps began with a resampling."
    )

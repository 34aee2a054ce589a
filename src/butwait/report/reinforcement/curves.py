"""Curves over optimiser steps as small panels, and held-out accuracy, all arms in each.

A curve has at most ``MOST_POINTS`` points, each the mean of the steps around it. Where completions
are not samples of the policy alone, the curves that speak of them are dashed. Of an arm with
several seeds the mean over seeds is drawn, at the steps that all of them have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from butwait.report import formats
from butwait.report.reinforcement.runs import Arm, ends
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

MOST_POINTS = 60


@dataclass(frozen=True, slots=True)
class Group:
    """Panels of one idea.

    Attributes:
        name: keeps their ids apart.
        title: its heading.
        note: what to think of them.
        panels: figure of the log -> title of its panel, with its unit; shares are told in percent.
        drawn: whether they speak of the completions that the training drew.
    """

    name: str
    title: str
    note: str
    panels: Mapping[str, str]
    drawn: bool = True


GROUPS = (
    Group(
        "reward",
        "Reward and policy",
        "On the questions of the training. Entropy that falls to 0 ends exploration.",
        {
            "reward": "mean reward",
            "entropy": "entropy (nats a token)",
            "clip_ratio/region_mean": "clipped tokens (%)",
            "kl": "KL divergence to the start (nats a token)",
        },
    ),
    Group(
        "completions",
        "Completions",
        "Phrases of reflection are a proxy for the habit.",
        {
            "length": "length (tokens)",
            "truncated": "cut at the limit (%)",
            "no_answer": "without an answer (%)",
            "duplicates": "duplicates in a group (%)",
            "habits/reflection": "with a phrase of reflection (%)",
        },
    ),
    Group(
        "difficulty",
        "Accuracy by difficulty",
        "Questions by how often earlier generations solved them.",
        {
            "accuracy/never": "never solved before: right now (%)",
            "accuracy/rarely": "solved in up to 25 %: right now (%)",
            "accuracy/often": "solved in 25 to 75 %: right now (%)",
            "accuracy/mostly": "solved in over 75 %: right now (%)",
            "all_wrong_groups": "groups all wrong (%)",
        },
    ),
    Group(
        "searches",
        "Searches in the loop",
        "Means over the searches of a generation.",
        {
            "search/questions": "questions searched (a device)",
            "search/solved": "of these solved (%)",
            "search/ess": "effective sample size (%)",
            "search/ancestors": "distinct first steps (%)",
            "search/mu": "weight of the likelihood term",
            "search/nll": "its loss (nats a token)",
            "prm/auc": "AUC of the reward model",
        },
        drawn=False,
    ),
)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A group as the page shows it."""

    title: str
    reading: str
    panels: list[Markup]


def step_curves(arms: Sequence[Arm]) -> list[Drawn]:
    """The groups that some arm has a curve for."""
    return [drawn for group in GROUPS if (drawn := _group(group, arms)) is not None]


def _group(group: Group, arms: Sequence[Arm]) -> Drawn | None:
    """A panel for each figure that some arm logged twice and that is not 0 throughout."""
    curves = {name: {arm: mean_curve(arm, name) for arm in arms} for name in group.panels}
    logged = [name for name in curves if any(len(curve) > 1 for curve in curves[name].values())]
    shown = [name for name in logged if any(c[:, 1].any() for c in curves[name].values())]
    if not shown:
        return None
    panels = [
        _panel(f"rl-{group.name}-{i}", group, name, curves[name])
        for i, name in enumerate(shown)
        if max(map(len, curves[name].values())) >= FEWEST_POINTS
    ]
    parts = [group.note]
    bare = {name: title.split(" (")[0] for name, title in group.panels.items()}
    if len(arms) == 1 or len(panels) < len(shown):
        told = [
            f"{bare[name]}{f' of {arm.name}' if len(arms) > 1 else ''} "
            f"{_course(arm, name, group.panels[name])}"
            for name in shown
            for arm in arms
            if len(curves[name][arm]) > 1
        ]
        parts.append(f"From the first steps to the last: {'; '.join(told)}.")
    if zero := [bare[name] for name in logged if name not in shown]:
        parts.append(f"Always 0 and not drawn: {', '.join(zero)}.")
    return Drawn(group.title, " ".join(parts), panels)


def mean_curve(arm: Arm, figure: str) -> np.ndarray:
    """float64 (points, 2): step, and the mean over the seeds that log the figure."""
    curves = [curve for seed in arm.seeds if len(curve := seed.curve(figure))]
    if not curves:
        return np.zeros((0, 2))
    by_step = [dict(curve.tolist()) for curve in curves]
    shared = sorted(set.intersection(*(set(steps) for steps in by_step)))
    return np.array([(s, np.mean([c[s] for c in by_step])) for s in shared]).reshape(-1, 2)


def thinned(curve: np.ndarray) -> np.ndarray:
    """The same curve in at most ``MOST_POINTS`` means of neighbours, (points, 2)."""
    if len(curve) <= MOST_POINTS:
        return curve
    return np.array([part.mean(axis=0) for part in np.array_split(curve, MOST_POINTS)])


def _panel(name: str, group: Group, figure: str, curves: Mapping[Arm, np.ndarray]) -> Markup:
    title = group.panels[figure]
    with Canvas(name, f"{title} over optimiser steps", height=1.95) as canvas:
        (axes,) = canvas.axes
        for arm, curve in curves.items():
            steps, values = thinned(curve).T
            axes.plot(
                steps,
                values * (100 if _is_share(title) else 1),
                color=series_colour(arm.colour),
                linestyle=(0, (4, 2)) if group.drawn and not arm.of_policy else "-",
                linewidth=1.6,
            )
        axes.set_title(title)
        axes.margins(y=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.set_xlabel("optimiser step")
    return canvas.svg


def _is_share(title: str) -> bool:
    return title.endswith("(%)")


def _course(arm: Arm, figure: str, title: str) -> str:
    seen = [found for seed in arm.seeds if (found := ends(seed, figure)) is not None]
    first, last = (float(np.mean([getattr(e, end) for e in seen])) for end in ("first", "last"))
    if _is_share(title):
        return f"{formats.percent(first)} to {formats.percent(last)}"
    return f"{first:.3g} to {last:.3g}"


def arm_entry(arm: Arm) -> LegendEntry:
    """The line of an arm."""
    seeds = "" if len(arm.seeds) == 1 else f" (mean of {len(arm.seeds)} seeds)"
    return LegendEntry("▬", series_variable(arm.colour), f"{arm.name}{seeds}")


def legend(arms: Sequence[Arm]) -> list[LegendEntry]:
    """The arms; what a dashed line is, and a point, where that is not plain."""
    entries = [arm_entry(arm) for arm in arms]
    for drawn_from in dict.fromkeys(a.seeds[0].drawn_from for a in arms if not a.of_policy):
        names = ", ".join(a.name for a in arms if a.seeds[0].drawn_from == drawn_from)
        entries.append(LegendEntry("╍", "var(--ink)", f"dashed ({names}): {drawn_from}"))
    longest = max((len(seed.log) for arm in arms for seed in arm.seeds), default=0)
    if longest > MOST_POINTS:
        text = f"a point is the mean of up to {-(-longest // MOST_POINTS)} logged steps"
        entries.append(LegendEntry("•", "var(--ink)", text))
    return entries


def held_out(arms: Sequence[Arm]) -> list[FigureBlock]:
    """Accuracy at the looks against optimiser steps and against tokens; a figure for each set of
    held-out questions.

    Against tokens a line stands at what was sampled from the policy, and a dotted one with hollow
    markers at that and what the reward model ran.
    """
    looked = [arm for arm in arms if any(seed.looks for seed in arm.seeds)]
    sets = dict.fromkeys(arm.seeds[0].selection_set for arm in looked)
    return [
        _held_out_figure(i, name, [arm for arm in looked if arm.seeds[0].selection_set == name])
        for i, name in enumerate(sets)
    ]


def _held_out_figure(number: int, problem_set: str, arms: Sequence[Arm]) -> FigureBlock:
    title = f"Held-out accuracy on {problem_set}" if problem_set else "Held-out accuracy"
    if _few_looks(arms):
        return FigureBlock(NOT_DRAWN, title, _looks_reading(arms))
    with Canvas(f"rl-looks-{number}", title, rows=2, height=2.8) as canvas:
        by_step, by_token = canvas.axes
        for arm in arms:
            _draw(by_step, arm, "step")
            _draw(by_token, arm, "policy_tokens")
            if _has_reward_tokens(arm):
                _draw_total(by_token, arm)
        for axes in canvas.axes:
            low, high = axes.get_ylim()
            axes.set_ylim(max(0, low), min(100, high))
            axes.set_ylabel("accuracy (%)")
        by_step.set_xlabel("optimiser step")
        by_step.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
        by_token.set_xlabel("tokens")
        by_token.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        by_token.xaxis.set_major_formatter(FuncFormatter(lambda value, _: formats.compact(value)))
    return FigureBlock(canvas.svg, title, _looks_reading(arms), tuple(_looks_legend(arms)))


def _has_reward_tokens(arm: Arm) -> bool:
    return any(look.reward_tokens for seed in arm.seeds for look in seed.looks)


def _line(arm: Arm, place: str) -> tuple[np.ndarray, np.ndarray]:
    """Places (an attribute of a look) and accuracies in percent, (looks,) each; of several seeds
    the means, at the steps at which all of them looked."""
    by_step = [{look.step: look for look in seed.looks} for seed in arm.seeds if seed.looks]
    shared = sorted(set.intersection(*(set(looks) for looks in by_step)))
    several = [[looks[step] for looks in by_step] for step in shared]
    x = np.array([np.mean([getattr(look, place) for look in looks]) for looks in several])
    y = np.array([100 * np.mean([look.accuracy for look in looks]) for looks in several])
    return x, y


def _draw(axes: Axes, arm: Arm, place: str) -> None:
    colour = series_colour(arm.colour)
    axes.plot(*_line(arm, place), ".-", color=colour, markersize=7)
    if len(arm.seeds) == 1:
        _draw_certainty(axes, arm, place, colour)
        return
    for seed in arm.seeds:
        x = [getattr(look, place) for look in seed.looks]
        y = [100 * look.accuracy for look in seed.looks]
        axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.5)


def _draw_certainty(axes: Axes, arm: Arm, place: str, colour: str) -> None:
    """The interval of each look, and a ring around the one that is kept."""
    (seed,) = arm.seeds
    for look in seed.looks:
        if look.interval is not None:
            bar = [100 * bound for bound in look.interval]
            axes.plot([getattr(look, place)] * 2, bar, "_-", color=colour, linewidth=1, alpha=0.5)
    if seed.kept is not None:
        ring: dict[str, Any] = {"markersize": 12, "markeredgewidth": 1.5, "markeredgecolor": colour}
        at, rate = getattr(seed.kept, place), 100 * seed.kept.accuracy
        axes.plot(at, rate, "o", markerfacecolor="none", **ring)


def _draw_total(axes: Axes, arm: Arm) -> None:
    colour = series_colour(arm.colour)
    hollow: dict[str, Any] = {"markerfacecolor": Ink.PAPER, "markersize": 4.5, "linewidth": 1}
    axes.plot(*_line(arm, "all_tokens"), "o:", color=colour, **hollow)


def _looks_legend(arms: Sequence[Arm]) -> list[LegendEntry]:
    entries = [arm_entry(arm) for arm in arms]
    if any(len(arm.seeds) == 1 for arm in arms):
        entries.append(LegendEntry("◎", "var(--ink)", "ring: the look whose model is kept"))
    if any(len(arm.seeds) > 1 for arm in arms):
        entries.append(LegendEntry("─", "var(--ink)", "thin: single seeds"))
    if any(_has_reward_tokens(arm) for arm in arms):
        hollow = "hollow, dotted: with the reward model's tokens"
        entries.append(LegendEntry("○", "var(--ink)", hollow))
    return entries


def _looks_reading(arms: Sequence[Arm]) -> str:
    told = [_looks_course(arm) for arm in arms if len(_line(arm, "step")[0])]
    n = max((look.n for arm in arms for seed in arm.seeds for look in seed.looks), default=0)
    return (
        f"{'; '.join(told)}. Plain samples of the policy at the same {formats.count(n)} questions "
        f"at every look, never a search{_bars(arms)}. Tokens are those "
        "sampled from the policy by then, those of searches included and those of the looks left "
        "out."
    )


def _few_looks(arms: Sequence[Arm]) -> bool:
    return all(len(seed.looks) < FEWEST_POINTS for arm in arms for seed in arm.seeds)


def _bars(arms: Sequence[Arm]) -> str:
    return "" if _few_looks(arms) else "; bars are 95 % intervals of single looks"


def _looks_course(arm: Arm) -> str:
    x, y = _line(arm, "step")
    best = int(np.argmax(y))
    course = (
        f"{arm.name} begins at {y[0]:.1f} %, is best at step {x[best]:.0f} with {y[best]:.1f} %"
    )
    return f"{course} and ends at {y[-1]:.1f} %"

"""Accuracy on held-out questions while the policy is trained, all arms in one figure."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from butwait.report import formats
from butwait.report.figures import FigureBlock, LegendEntry
from butwait.report.reinforcement.curves import arm_entry
from butwait.report.reinforcement.runs import Arm, Look
from butwait.report.svg import Canvas, Ink, series_colour

Place = Callable[[Look], float]
"""Where a look stands on the horizontal axis."""


def held_out(arms: Sequence[Arm]) -> list[FigureBlock]:
    """Accuracy at the looks against optimizer steps and against tokens; a figure for each set of
    held-out questions.

    Against tokens a line stands at what was sampled from the policy, and a dotted one with hollow
    markers at that and what the reward model ran.
    """
    looked = [arm for arm in arms if any(seed.looks for seed in arm.seeds)]
    sets = dict.fromkeys(arm.seeds[0].selection_set for arm in looked)
    return [
        _figure(i, name, [arm for arm in looked if arm.seeds[0].selection_set == name])
        for i, name in enumerate(sets)
    ]


def _figure(number: int, problem_set: str, arms: Sequence[Arm]) -> FigureBlock:
    title = f"Held-out accuracy on {problem_set}" if problem_set else "Held-out accuracy"
    with Canvas(f"rl-looks-{number}", title, rows=2, height=2.8) as canvas:
        by_step, by_token = canvas.axes
        for arm in arms:
            _draw(by_step, arm, _steps)
            _draw(by_token, arm, _policy_tokens)
            if _has_reward_tokens(arm):
                _draw_total(by_token, arm)
        for axes in canvas.axes:
            low, high = axes.get_ylim()
            axes.set_ylim(max(0, low), min(100, high))
            axes.set_ylabel("accuracy (%)")
        by_step.set_xlabel("optimizer step")
        by_step.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
        by_token.set_xlabel("tokens")
        by_token.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        by_token.xaxis.set_major_formatter(FuncFormatter(lambda value, _: formats.compact(value)))
    return FigureBlock(canvas.svg, title, _reading(arms), _legend(arms))


def _steps(look: Look) -> float:
    return look.step


def _policy_tokens(look: Look) -> float:
    return look.policy_tokens


def _all_tokens(look: Look) -> float:
    return look.policy_tokens + look.reward_tokens


def _has_reward_tokens(arm: Arm) -> bool:
    return any(look.reward_tokens for seed in arm.seeds for look in seed.looks)


def _line(arm: Arm, place: Place) -> tuple[np.ndarray, np.ndarray]:
    """Places and accuracies in percent, (looks,) each; of several seeds the means, at the steps at
    which all of them looked."""
    by_step = [{look.step: look for look in seed.looks} for seed in arm.seeds if seed.looks]
    shared = sorted(set.intersection(*(set(looks) for looks in by_step)))
    several = [[looks[step] for looks in by_step] for step in shared]
    x = np.array([np.mean([place(look) for look in looks]) for looks in several])
    y = np.array([100 * np.mean([look.accuracy for look in looks]) for looks in several])
    return x, y


def _draw(axes: Axes, arm: Arm, place: Place) -> None:
    colour = series_colour(arm.colour)
    axes.plot(*_line(arm, place), ".-", color=colour, markersize=7)
    if len(arm.seeds) == 1:
        _draw_certainty(axes, arm, place, colour)
        return
    for seed in arm.seeds:
        x, y = [place(look) for look in seed.looks], [100 * look.accuracy for look in seed.looks]
        axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.5)


def _draw_certainty(axes: Axes, arm: Arm, place: Place, colour: str) -> None:
    """The interval of each look, and a ring around the one that is kept."""
    (seed,) = arm.seeds
    for look in seed.looks:
        if look.interval is not None:
            ends = [100 * bound for bound in look.interval]
            axes.plot([place(look)] * 2, ends, "_-", color=colour, linewidth=1, alpha=0.5)
    if seed.kept is not None:
        ring: dict[str, Any] = {"markersize": 12, "markeredgewidth": 1.5, "markeredgecolor": colour}
        at, rate = place(seed.kept), 100 * seed.kept.accuracy
        axes.plot(at, rate, "o", markerfacecolor="none", **ring)


def _draw_total(axes: Axes, arm: Arm) -> None:
    colour = series_colour(arm.colour)
    hollow: dict[str, Any] = {"markerfacecolor": Ink.PAPER, "markersize": 4.5, "linewidth": 1}
    axes.plot(*_line(arm, _all_tokens), "o:", color=colour, **hollow)


def _legend(arms: Sequence[Arm]) -> tuple[LegendEntry, ...]:
    entries = [arm_entry(arm) for arm in arms]
    if any(len(arm.seeds) == 1 for arm in arms):
        entries.append(LegendEntry("◎", "var(--ink)", "ring: the look whose model is kept"))
    if any(len(arm.seeds) > 1 for arm in arms):
        entries.append(LegendEntry("─", "var(--ink)", "thin: single seeds"))
    if any(_has_reward_tokens(arm) for arm in arms):
        hollow = "hollow, dotted: with the reward model's tokens"
        entries.append(LegendEntry("○", "var(--ink)", hollow))
    return tuple(entries)


def _reading(arms: Sequence[Arm]) -> str:
    told = [_course(arm) for arm in arms if len(_line(arm, _steps)[0])]
    n = max((look.n for arm in arms for seed in arm.seeds for look in seed.looks), default=0)
    return (
        f"{'; '.join(told)}. Plain samples of the policy at the same {formats.count(n)} questions "
        "at every look, never a search; bars are 95 % intervals of single looks. Tokens are those "
        "sampled from the policy by then, those of searches included and those of the looks left "
        "out."
    )


def _course(arm: Arm) -> str:
    x, y = _line(arm, _steps)
    best = int(np.argmax(y))
    course = (
        f"{arm.name} begins at {y[0]:.1f} %, is best at step {x[best]:.0f} with {y[best]:.1f} %"
    )
    return f"{course} and ends at {y[-1]:.1f} %"

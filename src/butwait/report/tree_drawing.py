"""A search tree laid out for the page: steps to the right, one row a branch."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from butwait.records import SearchTree
from butwait.report.formats import clip
from butwait.search.summary import descendants, weight_below

ROW, LEFT, TOP, WIDTH, RIGHT = 19, 14, 14, 900, 96
"""Layout in SVG units: height of a row, margins, width, and room for the answers."""


MOST_TIPS = 36
"""Branches drawn."""

MOST_STEPS = 600
"""Steps drawn; with longer reasoning fewer branches fit."""

_LEVEL = 0.72
"""Part of an edge that runs level under its label, after the bend."""


@dataclass(frozen=True, slots=True)
class Dot:
    """One step, where it is drawn.

    Attributes:
        x, y: place in SVG units.
        edge: SVG path from the step before; "" for the root.
        live: whether a final particle descends from it.
        weight: share of the final weight that goes through it.
        reward: the reward model's probability in percent, None where it gave none.
        tooltip: the step's text.
        label: the beginning of the text where there is room for it.
        verdict: "correct", "wrong", ... at the end of a path, else "".
        answer: the graded answer at the end of a path.
        copies: final particles that stand on it.
    """

    x: float
    y: float
    edge: str
    live: bool
    weight: float
    reward: int | None
    tooltip: str
    label: str
    verdict: str
    answer: str
    copies: int


@dataclass(frozen=True, slots=True)
class Drawing:
    """Attributes:
    width, height: in SVG units.
    dots: every step drawn, the root first.
    steps: (text, reward in percent) of the path with the most final weight.
    hidden: branches left out for lack of room.
    """

    width: int
    height: int
    dots: list[Dot]
    steps: list[tuple[str, int | None]]
    hidden: int


def tips(parents: np.ndarray) -> list[int]:
    """Nodes without children, by index, the root left out; ``parents`` is (K,), -1 the root's."""
    ends = np.setdiff1d(np.arange(1, len(parents)), parents)
    return [int(end) for end in ends]


def lay_out(tree: SearchTree) -> Drawing:
    """The drawing of ``tree``: as many branches as fit: the live ones with the most weight
    first, but with room for dead ones."""
    weight, alive = weight_below(tree), descendants(tree) > 0
    ends = tips(np.array([node.parent for node in tree.nodes]))
    live = sorted((end for end in ends if alive[end]), key=lambda end: -weight[end])
    dead = [end for end in ends if not alive[end]]
    most_live = 2 * MOST_TIPS // 3
    order = live[:most_live] + dead[: MOST_TIPS - most_live] + live[most_live:] + dead
    shown = _that_fit(tree, list(dict.fromkeys(order)))
    places = _places(tree, shown)
    depths = {node: depth for node, (depth, _) in places.items()}
    step_width = (WIDTH - LEFT - RIGHT) / max(1, *depths.values())
    room = int((_LEVEL * step_width - 8) / 5)
    copies = Counter(tree.leaves.tolist())

    def dot(node: int) -> Dot:
        depth, row = places[node]
        x, y = LEFT + depth * step_width, TOP + row * ROW
        up_y = TOP + places[max(tree.nodes[node].parent, 0)][1] * ROW
        text = tree.nodes[node].text.strip()
        grade = tree.grades.get(node)
        return Dot(
            x=round(x, 1),
            y=round(y, 1),
            edge=_edge(x - step_width, up_y, x, y) if node else "",
            live=bool(alive[node]),
            weight=round(float(weight[node]), 3),
            reward=_reward(tree, node),
            tooltip=clip(text, 200),
            label=_label(text, room),
            verdict=grade.status if grade else "",
            answer=_label((grade.answer if grade else None) or "", 14),
            copies=copies[node],
        )

    heaviest = int(tree.leaves[int(np.argmax(tree.log_weights))]) if len(tree.leaves) else 0
    return Drawing(
        width=WIDTH,
        height=round(2 * TOP + (len(shown) - 1) * ROW),
        dots=[dot(node) for node in sorted(places)],
        steps=[
            (clip(tree.nodes[node].text.strip(), 400), _reward(tree, node))
            for node in tree.path(heaviest)
        ],
        hidden=len(ends) - len(shown),
    )


def _that_fit(tree: SearchTree, ends: list[int]) -> list[int]:
    """The first of ``ends`` whose paths fit the page, at least one, by index."""
    shown: list[int] = []
    drawn: set[int] = set()
    for end in ends[:MOST_TIPS]:
        larger = drawn.union(tree.path(end))
        if shown and len(larger) > MOST_STEPS:
            break
        shown.append(end)
        drawn = larger
    return sorted(shown)


def _places(tree: SearchTree, shown: list[int]) -> dict[int, tuple[int, float]]:
    """node -> (depth, row): branches in depth-first order a row each, a parent half-way between
    its first and last child."""
    children: dict[int, list[int]] = {}
    kept = sorted({node for end in shown for node in tree.path(end)})
    for node in kept:
        children.setdefault(tree.nodes[node].parent, []).append(node)
    order, stack = [], [(0, 0)]
    while stack:
        node, depth = stack.pop()
        order.append((node, depth))
        stack.extend((child, depth + 1) for child in reversed(children.get(node, [])))
    rows: dict[int, float] = {}
    for row, node in enumerate(node for node, _ in order if node not in children):
        rows[node] = float(row)
    for node, _ in reversed(order):
        if node in children:
            rows[node] = (rows[children[node][0]] + rows[children[node][-1]]) / 2
    return {node: (depth, rows[node]) for node, depth in order}


def _edge(x0: float, y0: float, x1: float, y1: float) -> str:
    bend = x0 + (1 - _LEVEL) * (x1 - x0)
    middle = (x0 + bend) / 2
    points = f"{middle:.1f},{y0:.1f} {middle:.1f},{y1:.1f} {bend:.1f},{y1:.1f}"
    return f"M{x0:.1f},{y0:.1f} C{points} H{x1:.1f}"


def _reward(tree: SearchTree, node: int) -> int | None:
    logit = tree.nodes[node].reward_logit
    return None if np.isnan(logit) else round(100 * float(expit(logit)))


def _label(text: str, room: int) -> str:
    """The text in one line where ``room`` characters hold a useful part of it, else ""."""
    line = " ".join(text.split())
    if room < 6:
        return ""
    return line if len(line) <= room else line[: room - 1] + "…"

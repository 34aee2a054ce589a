"""Draws a search tree as an SVG file that can be read on light and on dark pages.

    python scripts/draw_tree.py RUN/STAGE --out tree.svg [--problem ID]

The drawing is that of the report. An image knows nothing of the page around it, so it gets a ground
of its own, and the report's colours for both themes as plain numbers, which every viewer knows.
"""

import argparse
import re
from pathlib import Path

from butwait.report.page import templates
from butwait.report.searches import example, read_shapes
from butwait.report.tree_drawing import lay_out
from butwait.search.storage import read_tree

MARGIN = 12
"""Around the drawing, in SVG units."""


def image(folder: Path, problem_id: str | None = None) -> str:
    """The tree of ``problem_id``, or the one that the report shows, of a search stage's folder."""
    shown = problem_id or example(read_shapes(folder / "trees"))
    if shown is None:
        raise SystemExit(f"{folder} has no tree to draw")
    drawing = lay_out(read_tree(folder / "trees", shown))
    svg = str(templates().get_template("macros.html").module.tree(drawing, shown))  # type: ignore[attr-defined]
    rewards = sorted({dot.reward for dot in drawing.dots if dot.reward is not None})
    svg = re.sub(r'style="fill: color-mix\(in srgb, var\(--high\) (\d+)%.*?"', r'class="r\1"', svg)
    svg = svg.replace('style="fill: var(--muted)"', 'class="unjudged"')
    width, height = drawing.width + 2 * MARGIN, drawing.height + 2 * MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="{-MARGIN} {-MARGIN} {width} {height}" '
    )
    light, dark = _themes()
    style = (
        "text { font: 9.5px system-ui, 'DejaVu Sans', sans-serif; }\n"
        "path { fill: none; stroke-linecap: round; } .dead { opacity: .5; }\n"
        f"{_rules(light, rewards)}\n"
        f"@media (prefers-color-scheme: dark) {{\n{_rules(dark, rewards)}\n}}"
    )
    ground = f'<rect class="ground" x="{-MARGIN}" y="{-MARGIN}" width="{width}" height="{height}"/>'
    svg = re.sub(r'<svg viewBox="[^"]*" ', head, svg, count=1)
    svg = svg.replace(">\n", f">\n<style>\n{style}\n</style>\n{ground}\n", 1)
    return "\n".join(line for line in svg.splitlines() if line.strip()) + "\n"


def _themes() -> list[dict[str, str]]:
    """The report's colours by name, for light and for dark."""
    environment = templates()
    style = environment.get_template("style.html").render()
    return [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", block))
        for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    ]


def _rules(colours: dict[str, str], rewards: list[int]) -> str:
    rules = [
        f".ground {{ fill: {colours['paper']}; }}",
        f"path {{ stroke: {colours['muted']}; }} .unjudged {{ fill: {colours['muted']}; }}",
        f"text {{ fill: {colours['ink']}; }}",
        *(
            f".{verdict} {{ fill: {colours[colour]}; font-weight: 700; }}"
            for verdict, colour in (("correct", "good"), ("wrong", "bad"))
        ),
        *(f".r{r} {{ fill: {_mix(colours['low'], colours['high'], r / 100)}; }}" for r in rewards),
    ]
    return "\n".join(rules)


def _mix(low: str, high: str, share: float) -> str:
    """A colour between two of the form "#rrggbb", as CSS mixes them in srgb."""
    pairs = ((int(low[i : i + 2], 16), int(high[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", type=Path, help="a search stage's folder, RUN/STAGE")
    parser.add_argument("--out", type=Path, required=True, help="the SVG file")
    parser.add_argument("--problem", help="its id; without it the tree that the report shows")
    given = parser.parse_args()
    given.out.write_text(image(given.stage, given.problem), encoding="utf-8")


if __name__ == "__main__":
    main()

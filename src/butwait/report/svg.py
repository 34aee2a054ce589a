"""matplotlib figures as inline SVG that follows the page's light or dark theme.

A figure is drawn with the stand-in colours of ``Ink``; ``inline`` turns each into the CSS variable
of the page's style sheet, so that one drawing serves both themes and the printer. Text stays text
(selectable, in the page's font). No pyplot: nothing is kept between figures.
"""

import io
import re
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter


class Ink:
    """Stand-in colours. Each is found again in the SVG and replaced, so they are unusual."""

    TEXT = "#0a0b01"
    MUTED = "#0a0b02"
    GRID = "#0a0b03"
    PAPER = "#0a0b04"
    SERIES = tuple(f"#0a0c0{i}" for i in range(1, 9))
    """Eight colours told apart with any colour vision (Okabe and Ito 2008), by order of use."""


_VARIABLES = {
    Ink.TEXT: "var(--ink)",
    Ink.MUTED: "var(--muted)",
    Ink.GRID: "var(--rule)",
    Ink.PAPER: "var(--paper)",
} | {colour: f"var(--s{i})" for i, colour in enumerate(Ink.SERIES, start=1)}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "butwait",
    "text.parse_math": False,  # names may hold dollar signs
    "font.size": 11.5,
    "axes.labelsize": 11.5,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": Ink.MUTED,
    "axes.labelcolor": Ink.TEXT,
    "axes.titlecolor": Ink.TEXT,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": Ink.GRID,
    "grid.linewidth": 0.8,
    "xtick.color": Ink.MUTED,
    "ytick.color": Ink.MUTED,
    "xtick.labelcolor": Ink.TEXT,
    "ytick.labelcolor": Ink.TEXT,
    "text.color": Ink.TEXT,
    "lines.linewidth": 1.8,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}

FEWEST_POINTS = 3
"""Of a chart; what has fewer is told in a sentence."""

WIDTH = 4.9
"""Inches. A figure this wide stays readable when a 400-pixel screen shrinks it."""


def series_colour(index: int) -> str:
    """The ``index``-th series colour; they repeat after eight."""
    return Ink.SERIES[index % len(Ink.SERIES)]


def series_variable(index: int) -> str:
    """The same colour for HTML: "var(--s1)"."""
    return f"var(--s{index % len(Ink.SERIES) + 1})"


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """A sign in its colour (CSS), and what it stands for."""

    sign: str
    colour: str
    text: str


@dataclass(frozen=True, slots=True)
class FigureBlock:
    """A figure as the page shows it: drawing, legend, and what to read from it. Without a drawing
    (there are fewer than ``FEWEST_POINTS``) the reading is all."""

    svg: Markup
    title: str
    reading: str
    legend: tuple[LegendEntry, ...] = ()


NOT_DRAWN = Markup("")


class Canvas:
    """A figure of ``rows`` panels under each other, drawn inside ``with Canvas(...) as canvas``.

    Attributes:
        axes: the panels, top to bottom.
        svg: the inline SVG, once the block has ended.
    """

    def __init__(self, name: str, label: str, *, rows: int = 1, height: float = 3.0) -> None:
        """``name`` keeps ids unique on the page; ``label`` is read out by screen readers;
        ``height`` is inches a panel."""
        self._name, self._label = name, label
        self._size = (WIDTH, height * rows)
        self._rows = rows
        self._context = mpl.rc_context(_STYLE)
        self.svg = NOT_DRAWN

    def __enter__(self) -> "Canvas":
        self._context.__enter__()
        self._figure = Figure(figsize=self._size, layout="constrained")
        FigureCanvasSVG(self._figure)
        self.axes: list[Axes] = list(self._figure.subplots(self._rows, 1, squeeze=False)[:, 0])
        return self

    def __exit__(self, kind: type | None, *rest: object) -> None:
        try:
            if kind is None:
                buffer = io.StringIO()
                self._figure.savefig(buffer, format="svg", metadata={"Date": None})
                self.svg = inline(buffer.getvalue(), self._name, self._label)
        finally:
            self._context.__exit__(None, None, None)


def inline(text: str, name: str, label: str) -> Markup:
    """A stand-alone SVG file of matplotlib as an element of an HTML page."""
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
    body = body.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
    body = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, variable)
    return Markup(body)


def log_axis(axes: Axes) -> None:
    """A logarithmic x axis with plain numbers at its ticks: mathematics is not typeset here."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("e+", "e")))
    axes.xaxis.set_minor_formatter(NullFormatter())

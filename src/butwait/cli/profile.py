"""``butwait profile``: what sets of solutions look like, side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from butwait.profile.figures import TokenCounter, measure, models
from butwait.profile.findings import findings
from butwait.profile.patterns import load_patterns
from butwait.profile.sources import read_source
from butwait.records import UserError
from butwait.running.files import check_output, write_json
from butwait.running.terminal import console, plain, visible

MISSING = "–"


@dataclass(frozen=True, slots=True)
class ProfileOptions:
    """What to profile; see ``butwait profile --help``."""

    sources: Sequence[str]
    column: str | None = None
    tokenizer: str | None = None
    patterns: Path | None = None
    step_end: str = "\n\n"
    seed: int = 0


def profile(options: ProfileOptions, out: Path | None, html: Path | None = None) -> None:
    """Prints the profile; writes all of it to ``out``, and its figures to the page ``html``.

    Raises UserError for bad input.
    """
    if not options.step_end:
        raise UserError("--step-end must not be empty")
    read = [Path(spec.partition("=")[2] or spec) for spec in options.sources]
    for option, target in (("--out", out), ("--html", html)):
        if target is not None:
            check_output(target, *read, option=option)
    patterns = load_patterns(options.patterns)
    sources = [s for spec in options.sources for s in read_source(spec, options.column)]
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two sources are called {name!r}; name them apart with NAME=PATH")
    counter = None if options.tokenizer is None else _counter(options.tokenizer)
    measured = measure(sources, patterns, step_end=options.step_end, count_tokens=counter)
    found = findings(measured, options.seed)
    if out is not None:
        write_json(out, found)
    if html is not None:
        from butwait.report.page import write_profile

        write_profile(html, found)
    screen = console()
    for sentence in found["sentences"]:
        screen.print(plain(sentence), highlight=False)
    if counter is None and len(policies := models(sources)) > 1:
        screen.print(
            f"Lengths are in words, as the sources come from {len(policies)} models whose tokens "
            f"do not compare ({', '.join(map(plain, policies))}); --tokenizer counts by one.",
            highlight=False,
        )
    table = _table(found)
    unbound = screen.options.update_width(10_000)
    if screen.measure(table, options=unbound).maximum <= screen.width:
        screen.print(table)
    else:
        _show_lines(screen, found)
    screen.print(
        "First the mean, then the quartiles and median in brackets. Counts of phrases are a proxy "
        "for habits of reasoning.",
        style="dim",
    )


def _counter(name: str) -> TokenCounter:
    from butwait.engines.models import load_tokenizer
    from butwait.engines.settings import ModelSettings

    tokenizer = load_tokenizer(ModelSettings(name=name))
    return lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def _table(found: dict[str, Any]) -> Table:
    """A column a source and, after each but the first, its ratio to the first."""
    table = Table()
    table.add_column("")
    ratios = [None, *found["ratios"]]
    for source, ratio in zip(found["sources"], ratios, strict=True):
        table.add_column(plain(source["name"]), justify="right")
        if ratio is not None:
            table.add_column(f"x {plain(ratio['baseline'])}", justify="right")
    for label, cells in _rows(found):
        line = []
        for number, cell in enumerate(cells):
            line += [cell[0]] if number == 0 else list(cell)
        table.add_row(plain(label), *line)
    return table


_LONGEST_NAME = 30


def _show_lines(screen: Console, found: dict[str, Any]) -> None:
    """The same figures for a narrow terminal: a line a source below each figure's name."""
    names = [visible(source["name"]) for source in found["sources"]]
    names = [n if len(n) <= _LONGEST_NAME else f"{n[: _LONGEST_NAME - 1]}…" for n in names]
    rows = _rows(found, shown=str)
    wide = max(map(len, names))
    most = max(len(figure) for _, cells in rows for figure, _ in cells)
    for label, cells in rows:
        screen.print(Text(visible(label), style="bold"))
        for name, (figure, ratio) in zip(names, cells, strict=True):
            times = f"  x {ratio}" if ratio else ""
            screen.print(Text(f"  {name:{wide}}  {figure:{most if times else 0}}{times}"))


def _rows(
    found: dict[str, Any], shown: Callable[[str], str] = plain
) -> list[tuple[str, list[tuple[str, str]]]]:
    """(label, (figure, ratio) of each source), from the plain counts to the habits, each made fit
    to be ``shown``."""
    sources = found["sources"]
    rows = [
        (label, [(f"{source[name]:,}", "") for source in sources])
        for label, name in (("solutions", "n"), ("questions", "questions"))
    ]
    labels = {"length": found["unit"], "answer_place": "answer first at"}
    for name in sources[0]["figures"]:
        label = labels.get(name, name.replace("_", " "))
        share = name.endswith("_share") or name in ("answer_place", "repetition")
        cells = []
        for number, source in enumerate(sources):
            ratio = found["ratios"][number - 1]["figures"][name] if number else None
            figure = _figure(source["figures"][name], share, name)
            cells.append((shown(figure), shown(_ratio(ratio))))
        rows.append((label, cells))
    for habit in sources[0]["places"]:
        cells = [(shown(_figure(s["places"][habit], True, "")), "") for s in sources]
        rows.append((f"{habit.replace('_', ' ')} stands at", cells))
    for label, name in (("distinct 4-grams", "diversity"), ("duplicates", "duplicates")):
        rows.append((label, [(_percent(s[name]), "") for s in sources]))
    return rows


def _figure(summary: dict[str, Any], share: bool, name: str) -> str:
    if summary["mean"] is None:
        return MISSING
    shown = _percent if share else _plain
    if name.endswith("_share"):
        return shown(summary["mean"])
    quartiles = ", ".join(shown(summary[q]) for q in ("low", "median", "high"))
    return f"{shown(summary['mean'])} [{quartiles}]"


def _ratio(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if row["ratio"] is None:
        return MISSING
    if row["interval"] is None:
        return f"{row['ratio']:.2f}"
    return f"{row['ratio']:.2f} [{row['interval'][0]:.2f}, {row['interval'][1]:.2f}]"


def _percent(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.0f}%"


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"

"""The figures of an audit, for a person to read."""

from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from butwait.running.terminal import plain

Figures = dict[str, Any]


def shown(found: Figures) -> Iterator[RenderableType]:
    """Tables and sentences, from what ``audit_prm`` found."""
    yield f"[bold]Audit of {plain(found['reward_model'])}[/bold] (95 % intervals over questions)"
    if bench := found.get("processbench"):
        yield _first_errors(bench)
        if bench["too_long"]:
            yield f"{bench['too_long']:,} solutions are longer than the model takes: left out."
    if trees := found.get("trees"):
        yield _trees(trees)
        yield _depths(trees["auc_by_depth"])
        if trees["too_long"]:
            yield f"{trees['too_long']:,} nodes are beyond what the model takes: left out."
        if trees["resampled"]:
            yield (
                "These trees were resampled by rewards: paths that the model disliked early have "
                "few outcomes or none. A stage without resampling says more."
            )
        yield f"[bold]{plain(trees['verdict'])}[/bold]"
    else:
        yield (
            "Labelled solutions do not tell how many particles the model can guide: audit it on "
            "the policy's own trees (--trees)."
        )
    if found["clipped"]:
        yield f"{found['clipped']:,} logits were clipped to ±12."


def _first_errors(bench: Figures) -> Table:
    table = Table(
        title=f"First error: {bench['solutions']:,} solutions of {bench['questions']:,} questions",
        caption="n: erroneous + right solutions. *: one half of the questions, at the threshold\n"
        "that is best on the other half.",
        padding=(0, 0),
    )
    for name in ("set", "below", "F1", "errors found", "right kept", "n"):
        table.add_column(name, justify="left" if name == "set" else "right", no_wrap=True)
    rows = list(bench["fixed"].items())
    if bench["chosen"] is not None:
        rows.append(("half*", bench["chosen"]))
    for name, row in rows:
        table.add_row(
            plain(name.removeprefix("ProcessBench/")),
            f"{row['threshold']:.2f}",
            figure(row, "f1"),
            figure(row, "accuracy_erroneous"),
            figure(row, "accuracy_correct"),
            f"{row['erroneous']}+{row['correct']}",
        )
    return table


def _trees(trees: Figures) -> Table:
    counts = f"{trees['trees']:,} trees ({', '.join(map(plain, trees['samplers']))})"
    table = Table(title=f"Recorded trees: {counts}", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    found = trees["bellman"]
    prefixes = f"{trees['prefixes']:,} prefixes"
    table.add_row("within-question AUC", figure(trees, "within_question_auc"), prefixes)
    table.add_row("AUC", figure(trees, "auc"), prefixes)
    table.add_row("calibration error (ECE)", figure(trees, "ece"), prefixes)
    table.add_row(
        "completions that verify", figure(trees, "base_rate"), f"{trees['completions']:,} outcomes"
    )
    table.add_row("Bellman drift", figure(found, "drift"), f"{found['families']:,} nodes")
    table.add_row("Bellman residual", figure(found, "residual"), f"{found['siblings']:,} nodes")
    return table


def _depths(rows: list[Figures]) -> Table:
    table = Table(title="Within-question AUC by number of steps")
    for name in ("steps", "AUC", "verify", "prefixes"):
        table.add_column(name, justify="right")
    for row in rows:
        depth = f"{row['depth']}{'+' if row['or_deeper'] else ''}"
        auc = _text(row["auc"], row["interval"])
        table.add_row(depth, auc, f"{row['base_rate']:.1%}", f"{row['prefixes']:,}")
    return table


def figure(figures: Figures, name: str) -> str:
    """A figure with its interval."""
    return _text(figures[name], figures[f"{name}_interval"])


def _text(value: float | None, interval: list[float] | None) -> str:
    if value is None:
        return "–"
    bounds = "" if interval is None else f" \\[{interval[0]:.3f}, {interval[1]:.3f}]"
    return f"{value:.3f}{bounds}"

"""``butwait plateau``: where the stopping rule would have ended a run."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from butwait.cli.curves import Curve, read_curve
from butwait.records import UserError
from butwait.running.files import check_output, write_json
from butwait.running.mistakes import refused
from butwait.running.terminal import console, plain
from butwait.statistics.plateau import FEWEST_VALUES, PlateauRule, Verdict
from butwait.training.settings import PlateauSettings


def plateau(
    log: Path,
    column: str,
    step_column: str | None,
    lower_is_better: bool,
    settings: dict[str, Any],
    out: Path | None,
) -> None:
    """Prints where the rule with these ``PlateauSettings`` would have stopped the run.

    Writes all figures and looks to ``out``. Raises UserError for bad input.
    """
    try:
        rule = PlateauSettings(**settings).rule()
    except ValidationError as error:
        first = refused(PlateauSettings, settings, error)[0]
        raise UserError(f"--{first.place[0]}{first.what}") from error
    if out is not None:
        check_output(out, log, option="--json")
    curve = read_curve(log, column, step_column)
    sign = -1.0 if lower_is_better else 1.0
    looks = rule.replay(curve.steps, sign * curve.values)
    found = _figures(rule, curve, looks, sign)
    if out is not None:
        write_json(out, found)
    _show(found, console())


def _figures(rule: PlateauRule, curve: Curve, looks: list[Verdict], sign: float) -> dict[str, Any]:
    """All that is printed, by name; means are in the curve's own units."""
    first, last = float(curve.steps[0]), float(curve.steps[-1])
    stop = looks[-1] if looks and looks[-1].stop else None
    # The look that came nearest to a stop speaks for a run that was not stopped.
    shown = stop or min(looks, key=lambda look: look.upper, default=None)
    means = _means(curve, rule.shortest)
    found = {
        "log": str(curve.path),
        "column": curve.column,
        "values": len(curve.steps),
        "repeated": curve.repeated,
        "left_out": curve.left_out,
        "first_step": first,
        "last_step": last,
        "rule": asdict(rule),
        "lower_is_better": sign < 0,
        "stopped_at": None,
        "saved_steps": 0.0,
        "saved_share": 0.0,
        "mean_window": rule.shortest,
        "at_stop": None,
        "best_later": None,
        "at_end": _best(means, curve, curve.steps == last, sign),
        "flat_steps": None,
        "shown": None,
        "looks": [asdict(look) for look in looks],
    }
    if shown is not None:
        spacing = float(np.median(np.diff(curve.steps)))
        found["shown"] = asdict(shown)
        found["flat_steps"] = rule.flat_steps(shown.noise, shown.rho, spacing)
    if stop is not None:
        found["stopped_at"] = stop.step
        found["saved_steps"] = last - stop.step
        found["saved_share"] = (last - stop.step) / (last - first)
        found["at_stop"] = _best(means, curve, curve.steps == stop.step, sign)
        found["best_later"] = _best(means, curve, curve.steps > stop.step, sign)
    return found


def _means(curve: Curve, window: float) -> np.ndarray:
    """(n,) mean of the values of the last ``window`` steps at every step."""
    starts = np.searchsorted(curve.steps, curve.steps - window, side="right")
    sums = np.concatenate([[0.0], np.cumsum(curve.values)])
    counts = np.arange(1, len(curve.values) + 1) - starts
    return (sums[1:] - sums[starts]) / counts


def _best(
    means: np.ndarray, curve: Curve, among: np.ndarray, sign: float
) -> dict[str, float] | None:
    """The best mean among some steps, and its step; None without steps."""
    if not among.any():
        return None
    best = np.flatnonzero(among)[np.argmax(sign * means[among])]
    return {"step": float(curve.steps[best]), "mean": float(means[best])}


def _show(found: dict[str, Any], console: Console) -> None:
    for sentence in _sentences(found):
        console.print(plain(sentence), highlight=False)
    if found["shown"] is not None:
        console.print(_table(found))


def _sentences(found: dict[str, Any]) -> list[str]:
    rule = found["rule"]
    about = (
        f"{found['column']} of {found['log']}: {found['values']:,} values, steps "
        f"{found['first_step']:g} to {found['last_step']:g}"
    )
    for count, what in (
        (found["repeated"], "logged again, the last counts"),
        (found["left_out"], "left out that are not finite"),
    ):
        about += f"; {count} {what}" if count else ""
    sentences = [f"{about}."]
    shown = found["shown"]
    if shown is None:
        sentences.append(
            f"Never stops: too short for a look, which takes {found['mean_window']:g} steps "
            f"(--window) and {FEWEST_VALUES} values."
        )
    elif shown["stop"]:
        confidence = f"{100 * rule['confidence']:g} % confidence over all looks"
        sentences.append(
            f"Stops at step {shown['step']:g}: {shown['reason']} ({confidence}). That saves "
            f"{found['saved_steps']:g} steps, {100 * found['saved_share']:.0f} % of the run."
        )
    else:
        sentences.append(
            f"Never stops. Of {len(found['looks'])} looks that at step {shown['step']:g} comes "
            f"nearest: {shown['reason']}, and {rule['delta']:g} would be worth going on for."
        )
    if found["flat_steps"] is not None:
        sentences.append(
            f"With this noise half of all flat curves would be stopped after about "
            f"{found['flat_steps']:.0f} steps."
        )
    return sentences


def _table(found: dict[str, Any]) -> Table:
    """The look that decided, or came nearest, and what the curve did after it."""
    look, horizon = found["shown"], found["rule"]["horizon"]
    rows = [
        ("window", f"{look['window']:.4g} steps"),
        (f"improvement in {horizon:g} steps", f"{look['slope'] * horizon:.4g}"),
        ("upper bound of it", f"{look['upper']:.4g}"),
        ("noise: standard deviation", f"{look['noise']:.3g}"),
        ("noise: correlation of neighbours", f"{look['rho']:.2f}"),
    ]
    labels = {"at_stop": "at the stop", "best_later": "best later", "at_end": "at the end"}
    for name, label in labels.items():
        if found[name] is not None:
            mean, step = found[name]["mean"], found[name]["step"]
            rows.append((f"{label} (step {step:g})*", f"{mean:.4g}"))
    table = Table(
        show_header=False,
        caption=f"*: mean of the {found['mean_window']:g} steps up to there",
    )
    table.add_column()
    table.add_column(justify="right")
    for row in rows:
        table.add_row(*row)
    return table

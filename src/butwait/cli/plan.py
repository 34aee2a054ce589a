"""``butwait plan``: what a recipe takes before it begins, as tables of 80 columns and as JSON."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from butwait.planning.devices import DEVICES
from butwait.planning.json_form import as_json, duration, hours
from butwait.planning.memory import GB
from butwait.planning.plan import plan_recipe
from butwait.planning.stage_plan import Plan, StagePlan
from butwait.recipe.recipe import Recipe
from butwait.records import UserError
from butwait.running.files import check_output, write_json
from butwait.running.terminal import console, plain

UNKNOWN = "–"
WIDTH = 80


def plan(recipe: Recipe, pilot: int | None, out: Path | None, run_dir: Path | None) -> None:
    """Prints the plan, and writes all of it to ``out``.

    Args:
        recipe: what would be run.
        pilot: problems of each search and evaluation that are run for it; None: none.
        out: a JSON file.
        run_dir: the run's folder, in which a pilot's trees are kept.

    Raises UserError for an output that cannot be written, a recipe that cannot run as it is written
    (after all that can be planned of it), and what a pilot's run raises.
    """
    if out is not None:
        check_output(out, option="--json")
    measured: dict[str, Any] = {}
    shares: dict[str, float] = {}
    if pilot is not None and not any(s.refused for s in plan_recipe(recipe).stages.values()):
        from butwait.pipeline.pilot import run_pilot

        measured, shares = run_pilot(recipe, pilot, run_dir or Path("runs") / recipe.name)
    planned = plan_recipe(recipe, shares)
    found = as_json(planned)
    for name, figures in measured.items():
        found["stages"][name]["pilot"] = figures
    if out is not None:
        write_json(out, found)
    screen = console(highlight=False, width=min(WIDTH, console().width))
    _show(screen, recipe, planned, found)
    if refused := [(n, s.refused) for n, s in planned.stages.items() if s.refused]:
        told = "; ".join(dict.fromkeys(why for _, why in refused))
        names = ", ".join(name for name, _ in refused)
        raise UserError(f"{recipe.name} cannot run as it is written ({names}): {told}")
    if measured:
        screen.print(_pilot_table(measured))
        screen.print(
            "Intervals of 95 %. Seconds are of this process alone, without `workers` and without "
            "loading models. The pilot is kept in RUN/.pilot; the run computes its problems anew.",
            style="dim",
        )


def _show(screen: Console, recipe: Recipe, planned: Plan, found: dict[str, Any]) -> None:
    screen.print(plain(f"{found['verdict']}."))
    for told in planned.missing:
        screen.print(plain(f"{told}."))
    if rows := _rows(recipe, planned):
        screen.print(_memory_table(rows))
        screen.print(_work_table(rows))
    screen.print(_device_table(planned))
    screen.print("Assumed (docs/plan.md):", style="dim")
    for told in planned.assumed:
        screen.print(plain(f"- {told}"), style="dim")


def _rows(recipe: Recipe, planned: Plan) -> list[tuple[str, StagePlan]]:
    """The stages that take anything, by what they are called; seeds that take the same are one."""
    taking = [
        (recipe.stages[name].arm or name, name, stage)
        for name, stage in planned.stages.items()
        if stage.parts or stage.work.drawn or stage.disk
    ]
    rows = []
    for (arm, stage), same in groupby(taking, lambda row: (row[0], row[2])):
        names = [name for _, name, _ in same]
        rows.append((f"{arm} ×{len(names)}" if len(names) > 1 else names[0], stage))
    return rows


def _table(title: str) -> Table:
    """Without lines between its columns, which leave names no room."""
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, collapse_padding=True)


def _memory_table(rows: Sequence[tuple[str, StagePlan]]) -> Table:
    table = _table("Memory of one device, GB (10^9 bytes)")
    table.add_column("stage", overflow="fold")
    for title in ("weights", "cache", "rest", "all", "one path", "KV B/token"):
        table.add_column(title, justify="right")
    table.add_column("fits on")
    for name, stage in rows:
        weights = sum(v for k, v in stage.parts.items() if "weights" in k)
        cache = sum(v for k, v in stage.parts.items() if "KV" in k)
        whole = stage.bytes_on(False)
        table.add_row(
            plain(name),
            *(
                _gb(v if stage.parts else None)
                for v in (weights, cache, whole - weights - cache, whole)
            ),
            _gb(stage.least_on(False) if stage.least else None),
            UNKNOWN if stage.kv_bytes is None else f"{stage.kv_bytes:,.0f}",
            _fits_on(stage),
        )
    return table


def _fits_on(stage: StagePlan) -> str:
    if not stage.parts:
        return "any"
    return stage.best or (f"({stage.tight})" if stage.tight else "none")


def _work_table(rows: Sequence[tuple[str, StagePlan]]) -> Table:
    table = _table("Work of each: tokens, operations, disk, time")
    table.add_column("stage", overflow="fold")
    for title in ("drawn", "scored", "in training", "PFLOP", "disk GB", "on an H100"):
        table.add_column(title, justify="right")
    for name, stage in rows:
        work, spent = stage.work, stage.fits["H100"].hours
        table.add_row(
            plain(name),
            *(_count(n) for n in (work.drawn, work.scored, work.trained)),
            UNKNOWN if stage.flops is None else _short(stage.flops / 1e15),
            _gb(stage.disk),
            UNKNOWN if spent is None else duration(spent),
        )
    return table


def _device_table(planned: Plan) -> Table:
    table = _table("The whole recipe, by the device")
    for title in ("device", "stages that fit", "tight", "do not", "time"):
        table.add_column(title, justify="left" if title == "device" else "right")
    for device in DEVICES:
        verdicts = [stage.fits[device.name].verdict for stage in planned.stages.values()]
        spent = hours(planned, device.name)
        table.add_row(
            device.name,
            *(str(verdicts.count(each)) for each in ("fits", "tight", "no")),
            UNKNOWN if spent is None else duration(spent),
        )
    return table


def _pilot_table(measured: dict[str, Any]) -> Table:
    table = _table("Projected from the pilot")
    table.add_column("stage", overflow="fold")
    for title in ("problems", "tokens", "seconds", "solved, %", "peak GB"):
        table.add_column(title, justify="right")
    for name, row in measured.items():
        table.add_row(
            plain(name),
            f"{row['pilot']} of {row['problems']}",
            _between(row["tokens"], _count),
            _between(row["seconds"], _short),
            _between(row["solved_share"], lambda share: f"{100 * share:.0f}"),
            UNKNOWN if row["peak_gb"] is None else f"{row['peak_gb']['estimate']:.2f}",
        )
    return table


def _between(figure: dict[str, Any], write: Any) -> str:
    low, high = figure["interval"]
    return f"{write(figure['estimate'])} [{write(low)}, {write(high)}]"


def _gb(count: float | None) -> str:
    if count is None:
        return UNKNOWN
    gb = count / GB
    return f"{gb:.0f}" if gb >= 100 else f"{gb:.1f}" if gb >= 1 else f"{gb:.2f}"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _count(tokens: float) -> str:
    for unit, sign in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if tokens >= unit:
            return f"{tokens / unit:.3g}{sign}"
    return f"{tokens:.0f}"

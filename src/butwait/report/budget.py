"""Budget ladders of a run's evaluations and searches, from what lies on disk."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from butwait.engines.flops import DecoderFlops, flops_of
from butwait.engines.load import ENGINES
from butwait.engines.settings import ModelSettings
from butwait.evaluation.ladder import (
    Rung,
    are_apart,
    attempt_flops,
    best_of_ladder,
    check_sampler,
    vote_ladder,
)
from butwait.evaluation.logs.grading import BUTWAIT
from butwait.evaluation.metrics import outcomes
from butwait.evaluation.storage import read_attempts
from butwait.report import formats
from butwait.report.collect import Evaluation
from butwait.report.kinds import Record, Records, ReportedKinds, kind_of
from butwait.report.svg import (
    FEWEST_POINTS,
    Canvas,
    FigureBlock,
    LegendEntry,
    log_axis,
    series_colour,
    series_variable,
)
from butwait.search.storage import read_outlines


@dataclass(frozen=True, slots=True)
class Ladder:
    """One way to spend a budget.

    Attributes:
        key: "stage/set/method", or the stage of a search.
        how: what n samples are made: "vote", "best of n", or "one attempt".
        rungs: the smallest budget first.
    """

    key: str
    how: str
    rungs: list[Rung]


def budgets(
    run: Path, rows: Iterable[Evaluation], records: Records, kinds: ReportedKinds
) -> dict[str, Any] | None:
    """For the template; None where all ladders have fewer than ``FEWEST_POINTS`` budgets."""
    ladders = evaluation_ladders(run, rows, records, kinds)
    for name, record in records.items():
        if has_ladder(record) and any((run / name / "trees").glob("shard-*.parquet")):
            ladders.append(search_ladder(run / name, record))
    if sum(len(ladder.rungs) for ladder in ladders) < FEWEST_POINTS:
        return None
    return {"ladders": ladders, "figure": budget_figure(ladders)}


def evaluation_ladders(
    run: Path, rows: Iterable[Evaluation], records: Records, kinds: ReportedKinds
) -> list[Ladder]:
    """Of every evaluation with attempts on disk a vote of 1, 2, 4, ... of its attempts; of an arm
    the first seed's."""
    found = []
    for row in rows:
        row = replace(row, seeds=row.seeds[:1])
        imported = (records.get(row.stages[0]) or {}).get("imported") or {}
        if imported.get("graded_by", BUTWAIT) != BUTWAIT:
            continue  # which of the wrong answers agree is not known
        folder = run / row.stages[0] / "attempts" / row.set / row.method
        if not any(folder.glob("shard-*.parquet")):
            continue
        scored = [
            o for o in outcomes(read_attempts(folder, texts=False)).values() if not o.excluded
        ]
        if not scored:
            continue
        shapes = _shapes(records.get(row.stages[0], {}), records, kinds)
        flops = attempt_flops((a for one in scored for a in one.attempts), *shapes)
        rungs = vote_ladder(scored, flops)
        key = f"{row.stages[0]}/{row.set}/{row.method}"  # of an arm the first seed's, as it says
        found.append(Ladder(key, "vote" if len(rungs) > 1 else "one attempt", rungs))
    return found


def search_ladder(stage: Path, record: Record) -> Ladder:
    """Best of 1, 2, 4, ... by reward, of a search of whole samples.

    Raises UserError for another sampler: run its sizes apart.
    """
    sampler = ((record.get("settings") or {}).get("sampler") or {}).get("kind")
    if sampler is not None:
        check_sampler(sampler)
    cost, metrics = record.get("cost") or {}, record.get("metrics") or {}
    parts = [cost.get("policy_flops"), cost.get("reward_flops")]
    rungs = best_of_ladder(read_outlines(stage / "trees"), None)
    if None not in parts and metrics.get("problems"):
        each = sum(parts) / metrics["problems"] / rungs[-1].n  # type: ignore[arg-type]
        rungs = [replace(rung, flops=rung.n * each) for rung in rungs]
    return Ladder(stage.name, "best of n", rungs)


def has_ladder(record: Record) -> bool:
    """Whether a search is one of whole samples, and scored."""
    sampler = ((record.get("settings") or {}).get("sampler") or {}).get("kind")
    return are_apart(str(sampler)) and bool((record.get("cost") or {}).get("reward_tokens"))


def _shapes(
    record: Mapping[str, Any], records: Records, kinds: ReportedKinds
) -> tuple[DecoderFlops | None, DecoderFlops | None]:
    """Of the policy and of the reward model of an evaluation. Models that were trained in a run
    have the shape of the recipe's."""
    settings = record.get("settings") or {}
    recipe = settings.get("recipe") or {}
    model, engine = recipe.get("model"), (recipe.get("engine") or {}).get("kind")
    base = None if model is None else ModelSettings.model_validate(model)
    policy = None
    if base is not None and engine is not None and engine in ENGINES and ENGINES[engine].runs_model:
        policy = flops_of(base)
    if given := settings.get("reward_model"):
        from butwait.reward_models.load import REWARD_MODELS, decoder

        pair = decoder(REWARD_MODELS.parse(given))
        return policy, None if pair is None else flops_of(pair[0], head=pair[1])
    trained = any(
        kind_of(records.get(name, {}), kinds).gives == "reward model"
        for name in record.get("from") or ()
    )
    return policy, flops_of(base, head=False) if trained and base is not None else None


def budget_figure(ladders: Sequence[Ladder]) -> FigureBlock | None:
    """Accuracy against generated tokens and against operations, the ladders beside each other with
    their intervals; None for fewer than ``FEWEST_POINTS``, which the table tells. A ladder whose
    tokens are not known, as of a log that keeps none, is left out."""
    ladders = [ladder for ladder in ladders if ladder.rungs[0].tokens]
    if sum(len(ladder.rungs) for ladder in ladders) < FEWEST_POINTS:
        return None
    known = [ladder for ladder in ladders if ladder.rungs[0].flops]
    title = "Accuracy against the budget"
    with Canvas("budget", title, rows=2 if known else 1, height=3.0) as canvas:
        for axes, drawn, name, label in zip(
            canvas.axes,
            (ladders, known),
            ("tokens", "flops"),
            ("tokens generated a question (log scale)", "operations a question (log scale)"),
            strict=False,
        ):
            for ladder in drawn:
                _draw(axes, ladder, name, ladders.index(ladder))
            log_axis(axes)
            axes.set_xlabel(label)
            axes.set_ylim(0, 100)
            axes.set_ylabel("accuracy (%)")
    best = max(
        (
            (rung.accuracy, -rung.tokens, ladder, rung)
            for ladder in ladders
            for rung in ladder.rungs
        ),
        key=lambda each: each[:2],
    )[2:]
    reading = (
        f"Right most often is {best[0].key} by {_of(best[0], best[1])}, "
        f"{formats.percent(best[1].accuracy)} at {formats.compact(best[1].tokens)} tokens a "
        "question. Shaded are 95 % intervals for problems like these."
    )
    legend = tuple(
        LegendEntry("▬", series_variable(i), f"{ladder.key} ({ladder.how})")
        for i, ladder in enumerate(ladders)
    )
    return FigureBlock(canvas.svg, title, reading, legend)


def _of(ladder: Ladder, rung: Rung) -> str:
    return "one attempt" if rung.n == 1 else f"{ladder.how}, n = {rung.n}"


def _draw(axes: Axes, ladder: Ladder, name: str, number: int) -> None:
    colour, x = series_colour(number), [getattr(rung, name) for rung in ladder.rungs]
    low, high = zip(*(rung.interval for rung in ladder.rungs), strict=True)
    percent = [100 * rung.accuracy for rung in ladder.rungs]
    if len(x) > 1:
        ends = [100 * v for v in low], [100 * v for v in high]
        axes.fill_between(x, *ends, color=colour, alpha=0.15, linewidth=0)
    else:
        axes.plot(x * 2, [100 * low[0], 100 * high[0]], "_-", color=colour, linewidth=1.2)
    axes.plot(x, percent, "o-", color=colour, markersize=4.5)

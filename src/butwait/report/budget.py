"""Budget ladders of a run's evaluations and searches, from what lies on disk."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
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
from butwait.evaluation.metrics import ProblemOutcome, outcomes
from butwait.evaluation.storage import read_attempts
from butwait.report import formats
from butwait.report.collect import Evaluation
from butwait.report.figures import MARKERS
from butwait.report.kinds import PageMaterial, Record, Records, ReportedKinds, kind_of
from butwait.report.samples import read_questions
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
        set: the problem set.
        stage: the evaluation, its arm, or the search.
        method: of the evaluation; the sampler of a search.
        how: what n samples are made: "vote", "best of n", or "one attempt".
        rungs: the smallest budget first.
    """

    key: str
    set: str
    stage: str
    method: str
    how: str
    rungs: list[Rung]


def budgets(
    material: PageMaterial, rows: Iterable[Evaluation], records: Records
) -> dict[str, Any] | None:
    """For the template; None where all ladders have fewer than ``FEWEST_POINTS`` budgets.
    ``summary`` is what ``summary.json`` holds: key -> set, how and rungs."""
    run = material.run
    ladders = evaluation_ladders(run, rows, records, material.kinds)
    for name, record in records.items():
        if has_ladder(record) and any((run / name / "trees").glob("shard-*.parquet")):
            ladders.append(search_ladder(run / name, record))
    if sum(len(ladder.rungs) for ladder in ladders) < FEWEST_POINTS:
        return None
    summary = {
        one.key: {"set": one.set, "how": one.how, "rungs": [asdict(rung) for rung in one.rungs]}
        for one in ladders
    }
    figures = budget_figures(ladders, material.colours)
    return {"ladders": ladders, "figures": figures, "summary": summary}


def evaluation_ladders(
    run: Path, rows: Iterable[Evaluation], records: Records, kinds: ReportedKinds
) -> list[Ladder]:
    """Of every evaluation with attempts on disk a vote of 1, 2, 4, ... of its attempts; of an arm
    the first seed's."""
    found = []
    shapes = cache(lambda stage: _shapes(records.get(stage, {}), records, kinds))
    for row in rows:
        stage = row.stages[0]
        record = records.get(stage) or {}
        if (record.get("imported") or {}).get("graded_by", BUTWAIT) != BUTWAIT:
            continue  # which of the wrong answers agree is not known
        folder = run / stage / "attempts" / row.set / row.method
        if not any(folder.glob("shard-*.parquet")):
            continue
        scored = [
            o for o in outcomes(read_attempts(folder, texts=False)).values() if not o.excluded
        ]
        clusters = _clusters(run, row.set, record, scored)
        if not scored or (clusters is None and _clustered(record, row.set)):
            continue  # without the questions' file nobody knows how wide the intervals are
        flops = attempt_flops((a for one in scored for a in one.attempts), *shapes(stage))
        rungs = vote_ladder(scored, flops, clusters)
        key = f"{stage}/{row.set}/{row.method}"  # of an arm the first seed's, as it says
        how = "vote" if len(rungs) > 1 else "one attempt"
        found.append(Ladder(key, row.set, row.stage, row.method, how, rungs))
    return found


def _clustered(record: Record, problem_set: str) -> str | None:
    """The column of the questions that names their cluster, where an evaluation has one."""
    return ((record.get("settings") or {}).get("clusters") or {}).get(problem_set)


def _clusters(
    run: Path, problem_set: str, record: Record, scored: Sequence[ProblemOutcome]
) -> list[str] | None:
    """The cluster of each problem, as the run keeps it; None where it keeps none."""
    column = _clustered(record, problem_set)
    if column is None:
        return None
    asked = read_questions(run, problem_set)
    named = [
        ((asked.get(one.problem_id) or {}).get("metadata") or {}).get(column) for one in scored
    ]
    return None if None in named else [str(name) for name in named]


def search_ladder(stage: Path, record: Record) -> Ladder:
    """Best of 1, 2, 4, ... by reward, of a search of whole samples.

    Raises UserError for another sampler: run its sizes apart.
    """
    settings = record.get("settings") or {}
    sampler = (settings.get("sampler") or {}).get("kind")
    if sampler is not None:
        check_sampler(sampler)
    cost, metrics = record.get("cost") or {}, record.get("metrics") or {}
    parts = [cost.get("policy_flops"), cost.get("reward_flops")]
    rungs = best_of_ladder(read_outlines(stage / "trees"), None)
    if None not in parts and metrics.get("problems"):
        each = sum(parts) / metrics["problems"] / rungs[-1].n  # type: ignore[arg-type]
        rungs = [replace(rung, flops=rung.n * each) for rung in rungs]
    problem_set = str(settings.get("problems") or "")
    return Ladder(stage.name, problem_set, stage.name, str(sampler or ""), "best of n", rungs)


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
        from butwait.reward_models.load import REWARD_MODELS, reward_model_flops

        return policy, reward_model_flops(REWARD_MODELS.parse(given), base)
    trained = any(
        kind_of(records.get(name, {}), kinds).gives == "reward model"
        for name in record.get("from") or ()
    )
    return policy, flops_of(base, head=False) if trained and base is not None else None


def budget_figures(ladders: Sequence[Ladder], colours: Mapping[str, int]) -> list[FigureBlock]:
    """A figure a problem set: accuracy against generated tokens and against operations, the ladders
    beside each other with their intervals. A stage has one colour and a method one marker, on all
    of them.

    A set with fewer than ``FEWEST_POINTS`` has none, the table tells them; nor has a ladder whose
    tokens are not known, as of a log that keeps none. ``colours``: evaluate stage, or arm, -> index
    of its series; searches follow them.
    """
    ladders = [ladder for ladder in ladders if ladder.rungs[0].tokens]
    stages = dict(colours)
    for ladder in ladders:
        stages.setdefault(ladder.stage, len(stages))
    methods = dict.fromkeys(ladder.method for ladder in ladders)
    markers = {method: MARKERS[i % len(MARKERS)] for i, method in enumerate(methods)}
    signs = {
        ladder.key: (stages[ladder.stage], *markers[ladder.method])
        for ladder in ladders  # a key is of one ladder
    }
    sets = dict.fromkeys(ladder.set for ladder in ladders)
    figures = []
    for number, name in enumerate(sets):
        members = [ladder for ladder in ladders if ladder.set == name]
        if sum(len(ladder.rungs) for ladder in members) >= FEWEST_POINTS:
            title = "Accuracy against the budget" + (f", {name}" if len(sets) > 1 else "")
            figures.append(_figure(f"budget-{number}", title, members, signs))
    return figures


_Signs = Mapping[str, tuple[int, str, str]]
"""Of a ladder, by its key: index of its colour, marker of matplotlib, sign of the legend."""


def _figure(name: str, title: str, ladders: Sequence[Ladder], signs: _Signs) -> FigureBlock:
    known = [ladder for ladder in ladders if ladder.rungs[0].flops]
    with Canvas(name, title, rows=2 if known else 1, height=3.0) as canvas:
        for axes, drawn, quantity, label in zip(
            canvas.axes,
            (ladders, known),
            ("tokens", "flops"),
            ("tokens generated a question (log scale)", "operations a question (log scale)"),
            strict=False,
        ):
            for ladder in drawn:
                colour, marker, _ = signs[ladder.key]
                _draw(axes, ladder, quantity, series_colour(colour), marker)
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
        LegendEntry(sign, series_variable(colour), f"{ladder.key} ({ladder.how})")
        for ladder in ladders
        for colour, _, sign in (signs[ladder.key],)
    )
    return FigureBlock(canvas.svg, title, reading, legend)


def _of(ladder: Ladder, rung: Rung) -> str:
    return "one attempt" if rung.n == 1 else f"{ladder.how}, n = {rung.n}"


def _draw(axes: Axes, ladder: Ladder, quantity: str, colour: str, marker: str) -> None:
    x = [getattr(rung, quantity) for rung in ladder.rungs]
    low, high = zip(*(rung.interval for rung in ladder.rungs), strict=True)
    percent = [100 * rung.accuracy for rung in ladder.rungs]
    if len(x) > 1:
        ends = [100 * v for v in low], [100 * v for v in high]
        axes.fill_between(x, *ends, color=colour, alpha=0.15, linewidth=0)
    else:
        axes.plot(x * 2, [100 * low[0], 100 * high[0]], "_-", color=colour, linewidth=1.2)
    axes.plot(x, percent, f"{marker}-", color=colour, markersize=4.5)

"""``butwait plan-eval``: how many questions and samples find a gain?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from butwait.api.comparing import read_stored
from butwait.api.sides import unfinished
from butwait.evaluation.compare import TYPICAL_SPREAD, Outcomes
from butwait.evaluation.metrics import outcomes
from butwait.evaluation.planned import ALIKE, MOST_SAMPLES, Design, plan
from butwait.planning.known import facts
from butwait.records import UserError
from butwait.running.files import check_output, expanded, write_json
from butwait.running.tables import names_file, read_table
from butwait.running.terminal import console, plain
from butwait.statistics import power

MOST_QUESTIONS = 1_000_000


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What to plan for; see ``butwait plan-eval --help``. Points and percent."""

    problems: str
    detect: float
    pilot: Sequence[str] = ()
    rate: float = 30
    spread: float | None = None
    power: float = 80
    checkpoints: int = 1
    margin: float | None = None
    row: str | None = None


@dataclass(frozen=True, slots=True)
class Noise:
    """Attributes:
    variance: of one attempt.
    spread: of true gains; None where it was not measured.
    bound: whether the variance is an upper bound, as of one attempt a question.
    left_out: evaluations of the pilot's runs and arms that are not finished.
    """

    variance: float
    spread: float | None
    bound: bool = False
    left_out: Sequence[Path] = ()


def plan_eval(options: PlanOptions, out: Path | None) -> None:
    """Prints the plan; all figures go to ``out``. Raises UserError for bad input."""
    for name in ("detect", "rate", "power", "margin"):
        value = getattr(options, name)
        if value is not None and not 0 < value < 100:
            raise UserError(f"--{name} {value:g}: a number between 0 and 100 is meant")
    if options.spread is not None and not 0 <= options.spread < 100:
        raise UserError(f"--spread {options.spread:g}: points from 0 to below 100 are meant")
    if options.row is not None and not options.pilot:
        raise UserError("--row names a row of a --pilot; give both")
    if len(options.pilot) > 2:
        raise UserError("--pilot: one evaluation, or two of which the first is the baseline")
    if out is not None:
        check_output(out, Path(options.problems), option="--json")
    n = questions_of(options.problems)
    noise = _noise(options)
    spread = noise.spread if options.spread is None else options.spread / 100
    design = Design(
        n=n,
        detect=options.detect / 100,
        variance=noise.variance,
        spread=TYPICAL_SPREAD if spread is None else spread,
        power=options.power / 100,
        checkpoints=options.checkpoints,
    )
    margin = None if options.margin is None else options.margin / 100
    found = plan(design, margin)
    found["set"] = {"name": options.problems} | found["set"]
    found["notes"] = [f"{unfinished(stage)} and was left out." for stage in noise.left_out]
    if out is not None:
        write_json(out, found)
    screen = console()
    for line in _told(options, found, noise, spread is None):
        screen.print(plain(line), highlight=False)
        screen.print()
    screen.print(_table(found))


def questions_of(name: str) -> int:
    """How many questions a set has: one that is known by name, a file, or a number.

    Raises UserError where that is not known.
    """
    if name.isdecimal():
        if not 2 <= int(name) <= MOST_QUESTIONS:
            raise UserError(f"--problems {name}: from 2 to {MOST_QUESTIONS:,} questions are meant")
        return int(name)
    known = facts()["sets"]
    if name in known:
        return int(known[name]["problems"])
    path = expanded(name)
    if path.exists() or names_file(name):
        size = len(read_table(path))
        if size < 2:
            raise UserError(
                f"--problems {name}: it holds {size} rows, and two questions are needed"
            )
        return size
    raise UserError(
        f"--problems {name}: how many questions it has is not known; give a file, a number, or one "
        f"of {', '.join(known)}"
    )


def _noise(options: PlanOptions) -> Noise:
    """Of the pilot, or of a set like AIME with the rate that is assumed."""
    if not options.pilot:
        rate = options.rate / 100
        return Noise(rate * (1 - rate) * ALIKE / (ALIKE + 1), None)
    stored, left_out = read_stored(options.pilot, options.row)
    pilots = [[outcomes(seed) for seed in seeds] for seeds in stored]
    variances, made = [], []
    for place, seeds in zip(options.pilot, pilots, strict=True):
        of_seeds = []
        for seed in seeds:
            scored = [one for one in seed.values() if not one.excluded]
            if not scored:
                raise UserError(f"--pilot {place}: no question of it could be scored")
            graded = np.array([len(one.graded) for one in scored])
            correct = np.array([one.first_correct() for one in scored])
            of_seeds.append(power.sampling_variance(correct, graded))
            made.append(int(graded.max()))
        variances.append(np.mean(of_seeds))
    variance = float(np.mean(variances))
    if variance == 0:
        raise UserError(
            f"--pilot {', '.join(options.pilot)}: no question was solved at one attempt and missed "
            "at another, so it shows no noise; take a pilot with more attempts, or --rate"
        )
    bound = min(made) == 1  # what noise a side has is not known of one attempt
    spread = None
    if len(pilots) == 2 and not bound:
        spread = _gain_spread(pilots[0], pilots[1], variance)
    return Noise(variance, spread, bound, left_out)


def _gain_spread(a: Sequence[Outcomes], b: Sequence[Outcomes], variance: float) -> float:
    """Of true gains from ``a`` to ``b``, each a pilot's seeds: rates are means over them."""
    names = [name for name in a[0] if not any(seed[name].excluded for seed in (*a, *b))]

    def rates(seeds: Sequence[Outcomes]) -> np.ndarray:
        return np.mean([[seed[name].rate for name in names] for seed in seeds], axis=0)

    def noise(seeds: Sequence[Outcomes]) -> float:
        each = [1 / len(seed[name].graded) for seed in seeds for name in names]
        return variance * float(np.mean(each)) / len(seeds)

    return power.gain_spread(rates(b) - rates(a), noise(a) + noise(b)) if names else 0.0


def _told(
    options: PlanOptions, found: dict[str, Any], noise: Noise, typical: bool
) -> Iterator[str]:
    gain, name = f"{options.detect:g} points", options.problems
    has = f"{found['set']['n']:,} questions"
    on = has if name.isdecimal() else f"{name} ({has})"
    chance = f"{100 * found['power']:.0f}% power"
    if found["enough"]:
        yield f"{on} with k = {found['k']} samples each find a gain of {gain} with {chance}."
    else:
        limit = found["smallest_of_all"]
        if limit is None:
            why = ", whatever k: questions like them find no gain, however large"
        elif limit < found["detect"]:  # more samples than are looked for would do
            why = f" with {MOST_SAMPLES:,} samples each"
        else:
            why = f", whatever k: questions like them stop at {100 * limit:.1f} points"
        yield (
            f"NOT ENOUGH: {on} cannot find a gain of {gain}{why}. {found['n']:,} questions with k "
            f"= {found['k']} find it with {chance}."
        )
    alone = found["these_problems"]["k"]
    known = f"k = {MOST_SAMPLES:,} is not enough" if alone is None else f"k = {alone} is enough"
    yield f"For a claim about these {found['set']['n']:,} questions alone, {known}."
    if options.checkpoints > 1:
        yield (
            f"Of {options.checkpoints} checkpoints the best is compared: each test is at "
            f"{100 * (1 - found['level']):.2g}% (Bonferroni), and were all the same, the best "
            f"would still look {100 * found['checkpoints']['luck']:.1f} points better than it is. "
            "Evaluate the chosen one again, on samples that did not choose it."
        )
    if "no_loss" in found:
        share = f"{100 * found['no_loss']['power']:.0f}% of runs"
        yield (
            f"That no more than {options.margin:g} points are lost is shown, where nothing is "
            f"lost, in {share} with {found['n']:,} questions and k = {found['k']}."
        )
    bound = ", an upper bound, as there is one attempt a question" if noise.bound else ""
    of = f"of the pilot{bound}" if options.pilot else f"of a set like AIME at {options.rate:g}%"
    varied = " (assumed: --spread, or two pilots)" if typical else ""
    yield (
        f"Noise {of}: a sampling variance of {found['variance']:.3f} an attempt; true gains vary "
        f"by {100 * found['spread']:.1f} points over questions{varied}."
    )
    for note in found["notes"]:
        yield f"Note: {note}"


def _table(found: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    n = f"{found['set']['n']:,}"
    headings = ["k", "power", f"these {n} alone", "smallest gain", "questions needed"]
    headings += ["no loss"] if "no_loss" in found else []
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for step in found["curve"]:
        smallest = step["minimum_detectable_effect"]
        cells = [
            str(step["k"]),
            f"{100 * step['power']:.0f}%",
            f"{100 * step['power_these_problems']:.0f}%",
            "–" if smallest is None else f"{100 * smallest:.1f}",
            f"{step['n']:,}",
        ]
        if "no_loss" in found:
            cells.append(f"{100 * step['power_no_loss']:.0f}%")
        table.add_row(*cells)
    return table

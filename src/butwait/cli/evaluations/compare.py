"""``butwait compare``: is it a difference?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from rich.table import Table

from butwait.api.comparing import Compared, compare_stored
from butwait.api.sides import Answered, unfinished
from butwait.evaluation.compare import ALPHA, p_text
from butwait.evaluation.flags import flags
from butwait.evaluation.logs.grading import answered, disagreements
from butwait.records import UserError
from butwait.running.files import check_output, write_json
from butwait.running.terminal import console, plain, visible

MOST_QUESTIONS = 12
"""Of the questions that were won, and of those that were lost, on the terminal."""


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """What to compare; see ``butwait compare --help``."""

    sources: Sequence[str]
    row: str | None = None
    common: bool = False
    theirs: bool = False
    scorer: str | None = None
    margin: float | None = None


def compare(options: CompareOptions, out: Path | None, html: Path | None) -> None:
    """Prints the verdict and what it rests on; all of it goes to ``out``, a page to ``html``.

    Raises UserError for bad input.
    """
    if options.margin is not None and not 0 < options.margin < 100:
        raise UserError(f"--margin {options.margin:g}: points between 0 and 100 are meant")
    if options.scorer is not None and not options.theirs:
        raise UserError("--scorer names whose verdicts --theirs takes; give both")
    sources = [Path(part) for source in options.sources for part in (source, *source.split(","))]
    for option, target in (("--json", out), ("--html", html)):
        if target is not None:
            check_output(target, *sources, option=option)
    compared = compare_stored(
        options.sources,
        row=options.row,
        common=options.common,
        theirs=options.theirs,
        scorer=options.scorer,
        margin=None if options.margin is None else options.margin / 100,
    )
    found = compared.figures | {"notes": list(_notes(compared))}
    if out is not None:
        write_json(out, found | {"left_out": compared.left_out})
    if html is not None:
        from butwait.report.page import write_comparison

        texts = {name: problem.question for name, problem in compared.problems.items()}
        write_comparison(html, found, texts)
    screen = console()
    screen.print(plain(found["verdict"]), style="bold", highlight=False)
    screen.print(_table(found))
    _print_questions(screen, compared)
    _print_groups(screen, found)
    for line in _lines(found):
        screen.print()
        screen.print(plain(line), highlight=False)


def _table(found: dict[str, Any]) -> Table:
    ending = _common_ending([model["name"] for model in found["models"]])
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column(plain(f"…{ending}" if ending else ""), overflow="fold")
    for heading in ("correct", "95% CI", "n x k", "cut", "no answer", "won-lost", "p"):
        table.add_column(heading, justify="right", no_wrap=True)
    of_first = {c["b"]: c for c in found["comparisons"] if c["a"] == found["models"][0]["name"]}
    several = len(found["models"]) > 2
    for model in found["models"]:
        status, (low, high) = model["status"], model["interval"]
        total = sum(status.values())
        against = of_first.get(model["name"])
        table.add_row(
            plain(model["name"].removesuffix(ending)),
            f"{100 * model['pass_at_1']:.1f}%",
            plain(f"[{100 * low:.1f}, {100 * high:.1f}]"),
            f"{model['n']} x {model['k']}"
            + (f" x {seeds}" if (seeds := model.get("seeds")) else ""),
            f"{100 * status['truncated'] / total:.0f}%",
            f"{100 * status['no_answer'] / total:.0f}%",
            f"{against['wins']}-{against['losses']}" if against else "",
            p_text(against["p_holm" if several else "p"])[2:].strip("= ") if against else "",
        )
    return table


def _common_ending(names: Sequence[str]) -> str:
    """What all names end in, the problem set and the method mostly: it would take their column's
    room in every row."""
    parts = [name.split("/")[::-1] for name in names]
    shared = list(takewhile(lambda same: len(set(same)) == 1, zip(*parts, strict=False)))
    shared = shared[: min(map(len, parts)) - 1]  # something is left of each
    return "".join(f"/{same[0]}" for same in reversed(shared))


def _print_questions(screen: Any, compared: Compared) -> None:
    """Which questions the second one won and lost, where there are two."""
    found = compared.figures
    if len(found["models"]) != 2:
        return
    rows = [q for q in found["questions"] if q["gains"][0]]
    for told, sign in (("won", 1), ("lost", -1)):
        chosen = sorted(
            (q for q in rows if sign * q["gains"][0] > 0), key=lambda q: -sign * q["gains"][0]
        )
        if not chosen:
            continue
        screen.print()
        screen.print(plain(f"{found['b']} {told} {len(chosen)}:"), highlight=False)
        for question in chosen[:MOST_QUESTIONS]:
            scores = [
                f"{c}/{g}" for c, g in zip(question["correct"], question["graded"], strict=True)
            ]
            text = visible(compared.problems[question["id"]].question)
            line = f"  {visible(question['id'])}  {scores[0]} -> {scores[1]}  {text}"
            width = screen.width - 1
            screen.print(
                plain(line if len(line) <= width else line[: width - 1] + "…"), highlight=False
            )
        if len(chosen) > MOST_QUESTIONS:
            screen.print(f"  and {len(chosen) - MOST_QUESTIONS} more (--json, --html)")


def _print_groups(screen: Any, found: dict[str, Any]) -> None:
    if len(found["models"]) > 2:
        screen.print()
        screen.print("Not told apart (p adjusted by Holm):", highlight=False)
        for number, group in enumerate(found["groups"], 1):
            screen.print(plain(f"  {number}. {', '.join(group)}"), highlight=False)


def _lines(found: dict[str, Any]) -> Iterator[str]:
    """What evidence would take, the claim of no loss, and what a careful reader must know."""
    if len(found["models"]) == 2 and found["advice"]:
        yield f"What it would take: {found['advice']}"
    if "no_loss" in found:
        test = found["no_loss"]
        margin, p = 100 * test["margin"], test["p_no_loss"]
        shown = "NO LOSS" if p < ALPHA else "NOT SHOWN that nothing was lost"
        yield (
            f"{shown}: that {found['b']} loses less than {margin:g} points, {p_text(p)} "
            f"(one-sided); that it is within {margin:g} points, {p_text(test['p_equivalent'])} "
            "(TOST)."
        )
    for note in found["notes"]:
        yield f"Note: {note}"


def _notes(compared: Compared) -> Iterator[str]:
    found = compared.figures
    for stage in compared.unfinished:
        yield f"{unfinished(stage)} and was left out."
    if compared.left_out:
        yield f"{compared.left_out} questions are not on all sides and were left out."
    for model in found["models"]:
        yield from flags(model["name"], model)
    if found.get("excluded"):
        yield f"{found['excluded']} questions could not be scored on a side; n leaves them out."
    for side in compared.sides:
        yield from _theirs(side)


def _theirs(side: Answered) -> Iterator[str]:
    """How the log's own scores differ from the verdicts that were compared."""
    if side.log is None:
        return
    for scorer in side.log.log.scores:
        others = list(disagreements(side.log, scorer))
        if others:
            first = others[0]
            yield (
                f"{side.name}: {scorer!r} of the log differs from butwait's grading at "
                f"{len(others)} attempt{'s' * (len(others) > 1)}, first at {first['id']}: "
                f"{answered(first)}, {first['ours']} here and {first['theirs']:g} there."
            )

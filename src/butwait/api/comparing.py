"""Evaluations of the same questions, wherever they are stored."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from butwait.api.matching import matched
from butwait.api.sides import (
    Answered,
    LogSide,
    Reader,
    Side,
    StageSide,
    Stored,
    seeds_of,
)
from butwait.evaluation.arms import compare_arms
from butwait.evaluation.compare import compare as compare_two
from butwait.evaluation.many import compare_all
from butwait.evaluation.storage import read_attempts
from butwait.problems.grading import Grader
from butwait.records import Attempt, Problem, UserError
from butwait.running.expected import meant


@dataclass(frozen=True)
class Comparison:
    """How ``b`` does against the baseline ``a``, question by question; ``str`` says it in words.
    Rates and differences are fractions.

    Attributes:
        a, b: "stage/set/method"; of a stored log, its model and task.
        rate_a, rate_b: shares of correct attempts.
        difference: rate_b - rate_a.
        interval: of the difference, 95 %, over problems like these.
        p: of the exact sign-flip test; of a t test over questions and seeds, where there are seeds.
        n: questions.
        k: attempts a question that are compared, of each side.
        wins, losses: questions on which b has more, fewer correct attempts.
        evidence: whether p is below 0.05.
        sentence: what was found, and where it is no evidence, what evidence would take.
        figures: all numbers (docs/evaluation.md).
    """

    a: str
    b: str
    rate_a: float
    rate_b: float
    difference: float
    interval: tuple[float, float]
    p: float
    n: int
    k: int
    wins: int
    losses: int
    evidence: bool
    sentence: str
    figures: Mapping[str, Any] = field(repr=False)

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True)
class Compared:
    """Several evaluations, compared.

    Attributes:
        figures: all that ``many.compare_all`` found.
        sides: the evaluations, as they were read, the baseline first.
        problems: that are compared, by the baseline's ids.
        left_out: questions, on whatever side, that are not on all sides.
        unfinished: evaluations of the runs, which were left out.
    """

    figures: dict[str, Any]
    sides: Sequence[Answered]
    problems: Mapping[str, Problem]
    left_out: int
    unfinished: Sequence[Path] = ()


def compare(
    a: Stored | Sequence[Stored],
    b: Stored | Sequence[Stored],
    *,
    row: str | tuple[str, str] | None = None,
) -> Comparison:
    """How ``b`` does against the baseline ``a``: ``print(compare(base, after))``.

    Paired by question, whatever run, set or id each was evaluated with. The numbers are those of a
    report. Logs of lm-eval, lighteval and inspect are graded as butwait grades.

    Args:
        a, b: what ``evaluate`` gave, folders of evaluations (``"runs/mine/after"``), or stored
            logs; a list: the seeds of an arm.
        row: ``SET/METHOD``, or one of each side, where there are several; None: the only one, or
            the only pair by the same method.

    Raises:
        UserError: no evaluation is there, the questions differ or were judged by other answers,
            several rows could be meant, or nothing could be scored.
    """
    with Grader() as grader:
        reader = Reader(grader)
        sides = [
            [seed for stored in _listed(each) for seed in seeds_of(reader.one(stored))]
            for each in (a, b)
        ]
        rows = _rows([each[0] for each in sides], row)
        everything = [
            [_answered(side, name) for side in each] for each, name in zip(sides, rows, strict=True)
        ]
        names = _names([each[0] for each in everything])
        named = [
            [replace(side, name=name) for side in each]
            for each, name in zip(everything, names, strict=True)
        ]
        attempts, _, _ = matched([side for each in named for side in each], grader)
    of_a, of_b = attempts[: len(named[0])], attempts[len(named[0]) :]
    if len(of_a) == len(of_b) == 1:
        found = compare_two(names[0], of_a[0], names[1], of_b[0])
    else:
        trained = [each[0].name for each in named if each[0].trained]
        found = compare_arms(names[0], of_a, names[1], of_b, trained)
    low, high = found["interval"]
    kept = ("a", "b", "rate_a", "rate_b", "p", "n", "k", "wins", "losses", "evidence", "sentence")
    return Comparison(
        difference=found["delta"],
        interval=(low, high),
        figures=found,
        **{name: found[name] for name in kept},
    )


def compare_stored(
    stored: Sequence[str | Path],
    *,
    row: str | None = None,
    common: bool = False,
    theirs: bool = False,
    scorer: str | None = None,
    margin: float | None = None,
) -> Compared:
    """Every pair of several evaluations; what ``butwait compare`` tells.

    Args:
        stored: runs, folders of evaluations, or stored logs; the first is the baseline. A run
            stands for all of its finished evaluations where it is alone. The seeds of an arm are
            one: "RUN/ARM", or their places with commas between.
        row: ``SET/METHOD`` (of a run also ``STAGE/SET/METHOD``), where there are several.
        common: compare the questions that all have.
        theirs: take the verdicts of logs in place of butwait's.
        scorer: whose, where a log has several.
        margin: the greatest loss that does not matter, a fraction.

    Raises UserError as ``compare`` does, and for fewer than two evaluations.
    """
    with Grader() as grader:
        reader = Reader(grader, theirs, scorer)
        groups = [reader.sides(each) for each in stored]
        seeds = [seed for group in groups for side in group for seed in seeds_of(side)]
        if theirs and not any(isinstance(seed, LogSide) for seed in seeds):
            raise UserError("compare: --theirs is of logs of other packages, and none is named")
        answered = _chosen(groups, row)
        if len(answered) < 2:
            raise UserError(
                f"compare: {answered[0].place} is one evaluation; name two, or a run that holds "
                f"several{_told(reader.left_out)}"
            )
        names = _names(answered)
        sides = [replace(side, name=name) for side, name in zip(answered, names, strict=True)]
        every = [one for side in sides for one in (side, *side.others)]
        attempts, problems, lost = matched(every, grader, common)
    parts = iter(attempts)
    arms = {side.name: [next(parts) for _ in (side, *side.others)] for side in sides}
    firsts = {name: seeds[0] for name, seeds in arms.items()}
    others = {name: seeds[1:] for name, seeds in arms.items()}
    trained = [side.name for side in sides if side.trained]
    figures = compare_all(firsts, margin, others, trained)
    return Compared(figures, every, problems, lost, reader.left_out)


def _told(unfinished: Sequence[Path]) -> str:
    """The evaluations of a run that are not finished, for a message."""
    if not unfinished:
        return ""
    return f" ({', '.join(map(str, unfinished))} is not finished)"


def read_stored(
    stored: Sequence[str | Path], row: str | None = None
) -> tuple[list[list[list[Attempt]]], list[Path]]:
    """The attempts of one or several evaluations of the same questions, of each those of its
    seeds; and the seeds, or evaluations of a run, that are not finished and were left out.

    Args:
        stored: evaluations, arms or logs, one row of each.
        row: ``SET/METHOD``, where there are several.

    Raises UserError as ``compare_stored`` does, and where several rows of one could be meant.
    """
    with Grader() as grader:
        reader = Reader(grader)
        sides = _one_each(_meant([[reader.one(each, partly=True)] for each in stored], row))
        arms = [(side, *side.others) for side in sides]
        parts = iter(matched([seed for arm in arms for seed in arm], grader)[0])
    return [[next(parts) for _ in arm] for arm in arms], reader.left_out


def read_row(stage: Path, row: str | None) -> tuple[StageSide, dict[str, Any], list[Attempt]]:
    """An evaluation, and figures and attempts of a row of it, with texts.

    Raises UserError where there is no finished evaluation, no such row, or several of either.
    """
    with Grader() as grader:
        side = Reader(grader).one(stage)
    if isinstance(side, LogSide):
        raise UserError(f"{stage} is a log: make a stage of it first (butwait import)")
    if not isinstance(side, StageSide):
        seeds = ", ".join(str(seed.path) for seed in side.seeds)
        raise UserError(f"{stage} is an arm of several seeds; name one of them ({seeds})")
    if row is None and len(side.rows) > 1:
        raise UserError(f"{stage} has several rows; name one by --row ({', '.join(side.rows)})")
    chosen = row or side.rows[0]
    figures = side.figures(chosen)
    name, _, method = chosen.partition("/")
    return side, figures, read_attempts(side.path / "attempts" / name / method)


def _chosen(groups: Sequence[Sequence[Side]], row: str | None) -> list[Answered]:
    """An evaluation of each group; all of the only one."""
    options = _meant(groups, row)
    if len(options) > 1:
        return _one_each(options)
    sets = {option.set for option in options[0]}
    if len(sets) > 1:
        raise UserError(
            f"compare: the run evaluates several sets ({', '.join(sorted(sets))}); name the "
            "evaluations that are to be compared"
        )
    return [_answered(option.side, option.row) for option in options[0]]


def _meant(groups: Sequence[Sequence[Side]], row: str | None) -> list[list["_Option"]]:
    """The evaluations of each group that may be meant: those of the row, if one is named."""
    options = [[option for side in group for option in _options(side)] for group in groups]
    if row is not None:
        known = dict.fromkeys(o.names[-1] for group in options for o in group if o.names)
        options = [[o for o in group if not o.names or row in o.names] for group in options]
        if not all(options):
            raise UserError(
                f"compare: not every side has a row {row!r}{meant(row, list(known))} (there are: "
                f"{', '.join(known)})"
            )
    return options


def _one_each(options: list[list["_Option"]]) -> list[Answered]:
    """The evaluation of each group. Raises UserError where several could be meant."""
    if any(len(group) > 1 for group in options):
        options = _shared(options)
    return [_answered(group[0].side, group[0].row) for group in options]


@dataclass(frozen=True)
class _Option:
    """An evaluation that may be meant, with the names that it goes by, the longest first; a log
    has none, as it is one."""

    side: Side
    row: str
    set: str
    names: tuple[str, ...]


def _options(side: Side) -> list[_Option]:
    first = seeds_of(side)[0]
    if isinstance(first, LogSide):
        return [_Option(side, "", first.log.log.task, ())]
    assert not isinstance(side, LogSide)
    if not side.rows:
        raise UserError(f"compare: the seeds of {first.path} have no row that all of them have")
    return [
        _Option(side, row, row.partition("/")[0], (f"{side.name}/{row}", row)) for row in side.rows
    ]


def _shared(options: list[list[_Option]]) -> list[list[_Option]]:
    """The only evaluation that all groups have by the same name, whole, then without the stage,
    then by the method alone. Raises UserError where there is none, as of a single group."""
    ways = (lambda o: o.names[0], lambda o: o.row, lambda o: o.row.partition("/")[2])
    for name in ways if len(options) > 1 else ():
        times = [Counter(map(name, group)) for group in options]
        tables = [
            {name(option): option for option in group if count[name(option)] == 1}
            for group, count in zip(options, times, strict=True)
        ]
        pairs = zip(tables, options, strict=True)
        kept = set.intersection(*(set(table) for table, group in pairs if len(group) > 1))
        if len(kept) == 1:
            chosen = kept.pop()
            return [
                [table[chosen]] if len(group) > 1 else group
                for table, group in zip(tables, options, strict=True)
            ]
    told = "; ".join(
        f"of {_place(group)}: {', '.join(option.names[0] for option in group)}"
        for group in options
        if len(group) > 1
    )
    raise UserError(f"compare: several rows could be meant; name one by --row ({told})")


def _place(group: Sequence[_Option]) -> Path:
    """The stage that all of them are of, else their run."""
    paths = {option.side.path for option in group}
    return paths.pop() if len(paths) == 1 else group[0].side.path.parent


def _answered(side: Side, row: str) -> Answered:
    return side.answered() if isinstance(side, LogSide) else side.answered(row)


def _names(sides: Sequence[Answered]) -> list[str]:
    """Their names, as short as tells them apart: of a log its model, then its task too; of any
    where it is."""
    names = [side.log.log.model if side.log else side.name for side in sides]
    for longer in ([side.name for side in sides], [side.place for side in sides]):
        names = [
            long if names.count(name) > 1 else name
            for name, long in zip(names, longer, strict=True)
        ]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"compare: {twice} is named twice; name two evaluations")
    return names


def _rows(
    sides: Sequence[StageSide | LogSide], row: str | tuple[str, str] | None
) -> tuple[str, str]:
    """The rows of the two sides that are meant; "" of a log, which is one."""
    a, b = (side.rows if not isinstance(side, LogSide) else [""] for side in sides)
    if isinstance(row, str):
        return row, row
    if row is not None:
        first, second = row
        return first, second
    if len(a) == len(b) == 1:
        return a[0], b[0]
    pairs = [(x, y) for x in a for y in b if x == y] or [
        (x, y) for x in a for y in b if x.partition("/")[2] == y.partition("/")[2]
    ]
    if len(pairs) != 1:
        raise UserError(
            f"compare: several rows could be meant; name one by row (of {sides[0].path}: "
            f"{', '.join(a)}; of {sides[1].path}: {', '.join(b)})"
        )
    return pairs[0]


def _listed(stored: Stored | Sequence[Stored]) -> Sequence[Stored]:
    if isinstance(stored, list | tuple):
        if not stored:
            raise UserError("compare: there is no evaluation in an empty list")
        return stored
    return [stored]  # type: ignore[list-item]

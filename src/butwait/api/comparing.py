"""Two evaluations of the same questions, wherever they are stored."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from butwait.api.finished import Evaluation
from butwait.evaluation.arms import compare_arms
from butwait.evaluation.compare import compare as compare_two
from butwait.evaluation.storage import read_attempts
from butwait.problems.overlap import text_id
from butwait.records import Attempt, Problem, UserError
from butwait.running.expected import meant
from butwait.running.stages import read_stage
from butwait.stages.problem_sets import stored_problem_set

Stored = Evaluation | str | Path
"""What ``evaluate`` gave, or the folder of an evaluation (RUN/STAGE)."""


@dataclass(frozen=True)
class Comparison:
    """How ``b`` does against the baseline ``a``, question by question; ``str`` says it in words.
    Rates and differences are fractions.

    Attributes:
        a, b: "stage/set/method".
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


def compare(
    a: Stored | Sequence[Stored],
    b: Stored | Sequence[Stored],
    *,
    row: str | tuple[str, str] | None = None,
) -> Comparison:
    """How ``b`` does against the baseline ``a``: ``print(compare(base, after))``.

    Paired by question, whatever run, set or id each was evaluated with. The numbers are those of a
    report.

    Args:
        a, b: what ``evaluate`` gave, or folders of evaluations (``"runs/mine/after"``); a list: the
            seeds of an arm.
        row: ``SET/METHOD``, or one of each side, where there are several; None: the only one, or
            the only pair by the same method.

    Raises:
        UserError: no evaluation is there, the questions differ or were judged by other answers,
            several rows could be meant, or nothing could be scored.
    """
    sides = [[_Side.of(stored) for stored in _listed(each)] for each in (a, b)]
    rows = _rows(sides[0][0], sides[1][0], row)
    everything = [
        [_answered(side, name) for side in each] for each, name in zip(sides, rows, strict=True)
    ]
    names = [f"{each[0].arm}/{name}" for each, name in zip(sides, rows, strict=True)]
    if names[0] == names[1]:
        runs = (each[0].path.parent for each in sides)
        names = [f"{run}/{name}" for run, name in zip(runs, names, strict=True)]
    first = everything[0][0]
    for each, name in zip(everything, names, strict=True):
        for other in each:
            _same_questions(first, other, f"{names[0]} and {name}")
    attempts = [[side.attempts for side in each] for each in everything]
    if all(len(each) == 1 for each in attempts):
        found = compare_two(names[0], attempts[0][0], names[1], attempts[1][0])
    else:
        found = compare_arms(names[0], attempts[0], names[1], attempts[1])
    low, high = found["interval"]
    kept = ("a", "b", "rate_a", "rate_b", "p", "n", "k", "wins", "losses", "evidence", "sentence")
    return Comparison(
        difference=found["delta"],
        interval=(low, high),
        figures=found,
        **{name: found[name] for name in kept},
    )


@dataclass(frozen=True)
class _Side:
    """One evaluation on disk."""

    path: Path
    record: Mapping[str, Any]
    chosen: str | None = None

    @classmethod
    def of(cls, stored: Stored) -> "_Side":
        if isinstance(stored, Evaluation):
            return cls(stored.path, stored.record)
        if not isinstance(stored, str | Path):
            raise UserError(
                f"compare: evaluations are what evaluate gave, or their folders, and this is a "
                f"{type(stored).__name__}"
            )
        path = Path(stored).expanduser()
        chosen = None
        if path.parent.parent.name == "attempts":
            path, chosen = path.parents[2], f"{path.parent.name}/{path.name}"
        stage = read_stage(path)
        if stage is None or not (path / "attempts").is_dir():
            raise UserError(f"compare: {stored} is no folder of an evaluation (RUN/STAGE)")
        if not stage.complete:
            raise UserError(f"compare: the evaluation {path} is not finished; run its stage first")
        return cls(path, stage.record, chosen)

    @property
    def rows(self) -> list[str]:
        return [self.chosen] if self.chosen else list(self.record["metrics"])

    @property
    def arm(self) -> str:
        return str(self.record["settings"].get("arm") or self.path.name)


@dataclass(frozen=True)
class _Answered:
    """Attempts by question: their ids are those of the texts.

    Attributes:
        attempts: in the order of the evaluation.
        problems: by the same ids.
    """

    attempts: list[Attempt]
    problems: Mapping[str, Problem]


def _answered(side: _Side, row: str) -> _Answered:
    if row not in side.record["metrics"]:
        known = list(side.record["metrics"])
        told = f"{side.path} has no row {row!r}{meant(row, known)}"
        raise UserError(f"compare: {told} (there are: {', '.join(known)})")
    name, _, method = row.partition("/")
    file = side.path.parent / "problems" / f"{name}.jsonl"
    stored = stored_problem_set(file) if file.is_file() else None
    wanted = side.record["problem_sets"][name]["fingerprint"]
    if stored is None or stored.fingerprint != wanted:
        raise UserError(
            f"compare: {file} does not hold the questions that {side.path} attempted any more, or "
            "its verifier is another one now; run that evaluation again"
        )
    times: Counter[str] = Counter()
    ids, problems = {}, {}
    for problem in stored.problems:
        text = text_id(problem.question)
        times[text] += 1
        ids[problem.id] = f"{text}-{times[text]}"
        problems[ids[problem.id]] = problem
    attempts = read_attempts(side.path / "attempts" / name / method, texts=False)
    return _Answered([replace(a, problem_id=ids[a.problem_id]) for a in attempts], problems)


def _same_questions(one: _Answered, other: _Answered, names: str) -> None:
    only = one.problems.keys() ^ other.problems.keys()
    if only:
        text = next(s.problems[i] for s in (one, other) for i in s.problems if i in only).question
        raise UserError(
            f"compare: {names} have different questions ({len(only)} stand in one of them only, "
            f"such as {text[:80]!r}); compare evaluations of the same questions"
        )
    for name, problem in one.problems.items():
        same = other.problems[name]
        if set(problem.golds) != set(same.golds) or problem.verifier != same.verifier:
            raise UserError(
                f"compare: {names} judge {problem.question[:80]!r} by different gold answers or "
                f"verifiers ({problem.golds} and {same.golds}); evaluate both by the same"
            )


def _rows(a: _Side, b: _Side, row: str | tuple[str, str] | None) -> tuple[str, str]:
    """The rows of the two sides that are meant."""
    if isinstance(row, str):
        return row, row
    if row is not None:
        first, second = row
        return first, second
    if len(a.rows) == len(b.rows) == 1:
        return a.rows[0], b.rows[0]
    pairs = [(x, y) for x in a.rows for y in b.rows if x == y] or [
        (x, y) for x in a.rows for y in b.rows if x.partition("/")[2] == y.partition("/")[2]
    ]
    if len(pairs) != 1:
        raise UserError(
            f"compare: several rows could be meant; name one by row (of {a.path}: "
            f"{', '.join(a.rows)}; of {b.path}: {', '.join(b.rows)})"
        )
    return pairs[0]


def _listed(stored: Stored | Sequence[Stored]) -> Sequence[Stored]:
    if isinstance(stored, list | tuple):
        if not stored:
            raise UserError("compare: there is no evaluation in an empty list")
        return stored
    return [stored]  # type: ignore[list-item]

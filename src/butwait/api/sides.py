"""Evaluations wherever they are stored, stages of runs or logs of others, on the same questions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from butwait.api.finished import Evaluation
from butwait.evaluation.logs.detect import read_log
from butwait.evaluation.logs.grading import PROMPT, GradedLog, grade_log, score_log
from butwait.evaluation.storage import read_attempts
from butwait.problems.grading import Grader
from butwait.problems.overlap import normalised, text_id
from butwait.records import Attempt, Problem, UserError
from butwait.running.expected import meant
from butwait.running.stages import read_stage
from butwait.stages.kinds import STAGES
from butwait.stages.problem_sets import stored_problem_set

Stored = Evaluation | str | Path
"""What ``evaluate`` gave, the folder of an evaluation (RUN/STAGE), or a stored log."""


@dataclass(frozen=True)
class Answered:
    """One evaluation.

    Attributes:
        name: "stage/set/method", or the model and task of a log.
        place: where it is, as it was given.
        attempts: in the order of the evaluation.
        problems: by id.
        log: of a stored log, what it holds.
    """

    name: str
    place: str
    attempts: list[Attempt]
    problems: Mapping[str, Problem]
    log: GradedLog | None = None


@dataclass(frozen=True)
class StageSide:
    """A finished evaluation of a run, of which a row is chosen."""

    path: Path
    record: Mapping[str, Any]
    chosen: str | None = None

    @property
    def rows(self) -> list[str]:
        return [self.chosen] if self.chosen else list(self.record["metrics"])

    @property
    def arm(self) -> str:
        return str(self.record["settings"].get("arm") or self.path.name)

    def answered(self, row: str) -> Answered:
        """The attempts of a row. Raises UserError where there is no such row, or the run does not
        hold its questions any more."""
        if row not in self.record["metrics"]:
            known = list(self.record["metrics"])
            told = f"{self.path} has no row {row!r}{meant(row, known)}"
            raise UserError(f"compare: {told} (there are: {', '.join(known)})")
        name, _, method = row.partition("/")
        file = self.path.parent / "problems" / f"{name}.jsonl"
        stored = stored_problem_set(file) if file.is_file() else None
        try:
            wanted = self.record["problem_sets"][name]["fingerprint"]
        except (KeyError, TypeError) as error:
            raise UserError(
                f"compare: {self.path / 'stage.json'} does not say which questions were attempted; "
                "run that evaluation again"
            ) from error
        if stored is None or stored.fingerprint != wanted:
            raise UserError(
                f"compare: {file} does not hold the questions that {self.path} attempted any more, "
                "or its verifier is another one now; run that evaluation again"
            )
        attempts = read_attempts(self.path / "attempts" / name / method, texts=False)
        problems = {problem.id: problem for problem in stored.problems}
        return Answered(f"{self.arm}/{row}", f"{self.path}/{row}", attempts, problems)


@dataclass(frozen=True)
class LogSide:
    """A stored log of another package."""

    path: Path
    log: GradedLog

    def answered(self) -> Answered:
        found = self.log.log
        problems = {problem.id: problem for problem in self.log.problems}
        name = f"{found.model}/{found.task}"
        return Answered(name, str(self.path), self.log.attempts, problems, self.log)


Side = StageSide | LogSide


@dataclass
class Reader:
    """Reads evaluations; logs are graded, or by their own scores where ``theirs`` says so."""

    grader: Grader
    theirs: bool = False
    scorer: str | None = None

    def sides(self, stored: Stored) -> list[Side]:
        """The evaluations that are meant: one, or those of a whole run.

        Raises UserError where there is none, it is not finished, or it cannot be read.
        """
        if isinstance(stored, Evaluation):
            return [StageSide(stored.path, stored.record)]
        if not isinstance(stored, str | Path):
            raise UserError(
                f"compare: evaluations are what evaluate gave, or their folders, and this is a "
                f"{type(stored).__name__}"
            )
        path = Path(stored).expanduser()
        chosen = None
        if path.parent.parent.name == "attempts" and (path.parents[2] / "stage.json").is_file():
            path, chosen = path.parents[2], f"{path.parent.name}/{path.name}"
        if (path / "stage.json").is_file():
            return [self._stage(path, chosen)]
        if path.is_dir() and (inside := sorted(path.glob("*/stage.json"))):
            return self._run(path, [record.parent for record in inside])
        if not path.exists():
            raise UserError(
                f"compare: {stored} is no folder of an evaluation (RUN/STAGE) and no log: it is "
                "not there"
            )
        log = read_log(path)
        scored = score_log(log, self.scorer) if self.theirs else grade_log(log, self.grader)
        return [LogSide(path, scored)]

    def _stage(self, path: Path, chosen: str | None) -> StageSide:
        stage = read_stage(path)
        if stage is None or not (path / "attempts").is_dir():
            raise UserError(f"compare: {path} is no folder of an evaluation (RUN/STAGE)")
        if not stage.complete:
            raise UserError(f"compare: the evaluation {path} is not finished; run its stage first")
        return StageSide(path, stage.record, chosen)

    def _run(self, path: Path, stages: Sequence[Path]) -> list[Side]:
        records = {stage: read_stage(stage) for stage in stages}
        evaluations = [
            stage
            for stage, found in records.items()
            if found is not None and _gives(found.record) == "evaluation"
        ]
        if not evaluations:
            raise UserError(f"compare: the run {path} holds no evaluation yet")
        return [self._stage(stage, None) for stage in evaluations]


def _gives(record: Mapping[str, Any]) -> str:
    kind = str(record.get("kind"))
    return STAGES[kind].gives if kind in STAGES else ""


def matched(
    sides: Sequence[Answered], grader: Grader, common: bool = False
) -> tuple[list[list[Attempt]], dict[str, Problem], int]:
    """The attempts of all sides with the first one's ids of the questions.

    A question is found on another side by its text; where one of them keeps whole prompts, by the
    text within it; else by its id, if gold answer and half of the words are the same too.

    Args:
        sides: the baseline first.
        grader: compares gold answers that are written differently.
        common: leave out questions that are not on all sides.

    Returns:
        the attempts of each side; the problems that are compared, by id; how many questions were
        left out, on whatever side.

    Raises:
        UserError: the questions differ and ``common`` is not asked for, none is on all sides, or
            two sides judge one by different gold answers.
    """
    first = sides[0]
    names = {name: name for name in first.problems}
    maps = [names]
    for other in sides[1:]:
        maps.append(_pairs(first, other))
    kept = [name for name in first.problems if all(name in found.values() for found in maps)]
    lost = sum(len(side.problems) for side in sides) - len(kept) * len(sides)
    for other, found in zip(sides[1:], maps[1:], strict=True):
        _check(first, other, found, common)
        _same_golds(first, other, found, grader)
    if not kept:
        told = ", ".join(side.name for side in sides)
        raise UserError(f"compare: no question is common to {told}")
    wanted = set(kept)
    attempts = [
        [
            attempt if found[name] == name else replace(attempt, problem_id=found[name])
            for attempt in side.attempts
            for name in [attempt.problem_id]
            if found.get(name) in wanted
        ]
        for side, found in zip(sides, maps, strict=True)
    ]
    return attempts, {name: first.problems[name] for name in kept}, lost


def _pairs(first: Answered, other: Answered) -> dict[str, str]:
    """id of ``other`` -> id of ``first``, of the questions that both have."""
    by_text = {key: name for name, key in _keys(first).items()}
    found = {name: by_text[key] for name, key in _keys(other).items() if key in by_text}
    if _prompts(first) or _prompts(other):
        mine, theirs = _open(first, other, found)
        found |= _within(first, mine, other, theirs)
    mine, theirs = _open(first, other, found)
    for name in {*mine} & {*theirs}:
        if _alike(first.problems[name], other.problems[name]):
            found[name] = name
    return found


def _open(
    first: Answered, other: Answered, found: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """The questions of both that have no partner yet."""
    met = set(found.values())
    mine = [name for name in first.problems if name not in met]
    return mine, [name for name in other.problems if name not in found]


def _keys(side: Answered) -> dict[str, str]:
    """id -> a key of the text; the second of two equal texts has another one."""
    times: Counter[str] = Counter()
    keys = {}
    for problem in side.problems.values():
        text = text_id(problem.question)
        times[text] += 1
        keys[problem.id] = f"{text}-{times[text]}"
    return keys


def _prompts(side: Answered) -> bool:
    return any(problem.metadata.get(PROMPT) for problem in side.problems.values())


def _within(
    first: Answered, mine: Sequence[str], other: Answered, theirs: Sequence[str]
) -> dict[str, str]:
    """Pairs of which one text stands in the other, and in no other one."""
    ours = {name: normalised(first.problems[name].question) for name in mine}
    candidates: dict[str, list[str]] = {}
    for name in theirs:
        text = normalised(other.problems[name].question)
        candidates[name] = [own for own, held in ours.items() if held in text or text in held]
    times = Counter(own for found in candidates.values() for own in found)
    return {
        name: found[0]
        for name, found in candidates.items()
        if len(found) == 1 and times[found[0]] == 1
    }


def _alike(a: Problem, b: Problem) -> bool:
    """Whether two questions with one id are one: they have a gold answer and half of the words in
    common."""
    words = [set(normalised(problem.question).split()) for problem in (a, b)]
    shared = len(words[0] & words[1])
    return bool(set(a.golds) & set(b.golds)) and 2 * shared >= min(map(len, words)) > 0


def _check(first: Answered, other: Answered, found: Mapping[str, str], common: bool) -> None:
    met = set(found.values())
    only = [p.question for name, p in first.problems.items() if name not in met]
    only += [p.question for name, p in other.problems.items() if name not in found]
    if only and not common:
        raise UserError(
            f"compare: {first.name} and {other.name} have different questions ({len(only)} stand "
            f"in one of them only, such as {only[0][:80]!r}); compare evaluations of the same "
            "questions, or only the questions that both have (--common)"
        )


def _same_golds(first: Answered, other: Answered, found: Mapping[str, str], grader: Grader) -> None:
    for theirs, mine in found.items():
        one, same = first.problems[mine], other.problems[theirs]
        if one.verifier == same.verifier and (
            set(one.golds) == set(same.golds) or _equal(one, same, grader)
        ):
            continue
        raise UserError(
            f"compare: {first.name} and {other.name} judge {one.question[:80]!r} by different gold "
            f"answers or verifiers ({one.golds} and {same.golds}); evaluate both by the same"
        )


def _equal(a: Problem, b: Problem, grader: Grader) -> bool:
    """Whether every gold answer of one side is one of the other's, by value."""
    if not a.golds or not b.golds:
        return False
    kind = a.answer_kind if a.answer_kind == b.answer_kind else "math"

    def covers(these: Sequence[str], those: Sequence[str]) -> bool:
        return all(any(grader.equal(x, y, kind) for y in those) for x in these)

    return covers(a.golds, b.golds) and covers(b.golds, a.golds)

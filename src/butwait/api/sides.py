"""Evaluations wherever they are stored, stages of runs or logs of others, on the same questions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from butwait.api.finished import Evaluation
from butwait.evaluation.logs.detect import read_log
from butwait.evaluation.logs.grading import GradedLog, grade_log, score_log
from butwait.evaluation.storage import read_attempts
from butwait.problems.grading import Grader
from butwait.records import Attempt, Problem, UserError
from butwait.report.planned import FILE as PLAN
from butwait.running.expected import meant
from butwait.running.files import expanded
from butwait.running.run_state import read_json
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
        others: of an arm, the evaluations of its other seeds.
        trained: whether a training of the run made the model; of a log nobody knows.
    """

    name: str
    place: str
    attempts: list[Attempt]
    problems: Mapping[str, Problem]
    log: GradedLog | None = None
    others: tuple["Answered", ...] = ()
    trained: bool = False


@dataclass(frozen=True)
class StageSide:
    """A finished evaluation of a run, of which a row is chosen."""

    path: Path
    record: Mapping[str, Any]
    chosen: str | None = None

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def rows(self) -> list[str]:
        return [self.chosen] if self.chosen else list(self.record["metrics"])

    @property
    def arm(self) -> str:
        return str(self.record["settings"].get("arm") or self.path.name)

    def figures(self, row: str) -> dict[str, Any]:
        """The metrics of a row. Raises UserError where there is no such row, or another one is
        named by its folder."""
        known, place = list(self.record["metrics"]), self.path
        if self.chosen is not None and self.chosen in known:
            known, place = [self.chosen], self.path / "attempts" / self.chosen
        if row not in known:
            told = f"{place} has no row {row!r}{meant(row, known)}"
            raise UserError(f"compare: {told} (there are: {', '.join(known)})")
        return dict(self.record["metrics"][row])

    def answered(self, row: str) -> Answered:
        """The attempts of a row. Raises UserError as ``figures`` does, and where the run does not
        hold its questions any more."""
        self.figures(row)
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
        name, place = f"{self.arm}/{row}", f"{self.path}/{row}"
        return Answered(name, place, attempts, problems, trained=self.trained)

    @property
    def trained(self) -> bool:
        """Whether it takes from a stage that gives a model."""
        run = self.path.parent
        records = (read_json(run / source / "stage.json") for source in self.record.get("from", ()))
        kinds = {str(record.get("kind")) for record in records}
        return any(kind in STAGES and STAGES[kind].gives == "model" for kind in kinds)


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


@dataclass(frozen=True)
class ArmSide:
    """The same training with several seeds, each evaluated.

    Attributes:
        name: of the arm; of seeds from several runs the first one's.
        place: where it is, as it was given.
        seeds: their evaluations, at least two.
    """

    name: str
    place: str
    seeds: Sequence[StageSide | LogSide]

    @property
    def path(self) -> Path:
        return self.seeds[0].path

    @property
    def rows(self) -> list[str]:
        """Those that all seeds have."""
        shared = [set(seed.rows) for seed in self.seeds if isinstance(seed, StageSide)]
        first = self.seeds[0]
        rows = first.rows if isinstance(first, StageSide) else []
        return [row for row in rows if all(row in found for found in shared)]

    def answered(self, row: str) -> Answered:
        """The attempts of a row, of all seeds. Raises UserError as ``StageSide.answered`` does."""
        first, *others = (
            seed.answered() if isinstance(seed, LogSide) else seed.answered(row)
            for seed in self.seeds
        )
        return replace(first, place=self.place, others=tuple(others))


Side = StageSide | LogSide | ArmSide


def seeds_of(side: Side) -> Sequence[StageSide | LogSide]:
    """Of an arm its seeds; of another side itself."""
    return side.seeds if isinstance(side, ArmSide) else [side]


@dataclass
class Reader:
    """Reads evaluations; logs are graded, or by their own scores where ``theirs`` says so.

    Attributes:
        left_out: evaluations of runs that are not finished.
    """

    grader: Grader
    theirs: bool = False
    scorer: str | None = None
    left_out: list[Path] = field(default_factory=list)

    def sides(self, stored: Stored) -> list[Side]:
        """The evaluations that are meant: one, or those of a whole run, of which the finished ones
        are taken. The seeds of an arm (``RUN/ARM``, or their places with commas between) are one.

        Raises UserError where there is none, it is not finished, or it cannot be read.
        """
        if isinstance(stored, Evaluation):
            return [StageSide(stored.path, stored.record)]
        if not isinstance(stored, str | Path):
            raise UserError(
                f"compare: evaluations are what evaluate gave, or their folders, and this is a "
                f"{type(stored).__name__}"
            )
        path = expanded(stored)
        chosen = None
        if path.parent.parent.name == "attempts" and (path.parents[2] / "stage.json").is_file():
            path, chosen = path.parents[2], f"{path.parent.name}/{path.name}"
        if (path / "stage.json").is_file():
            return [self._stage(path, chosen)]
        if path.is_dir() and (inside := sorted(path.glob("*/stage.json"))):
            return self._run(path, [record.parent for record in inside])
        if not path.exists() and (arm := self._arm(path)):
            return [arm]
        if not path.exists() and "," in str(stored):
            return [self._seeds(str(stored))]
        if not path.exists():
            raise UserError(
                f"compare: {stored} is no folder of an evaluation (RUN/STAGE) and no log: it is "
                "not there"
            )
        log = read_log(path)
        scored = score_log(log, self.scorer) if self.theirs else grade_log(log, self.grader)
        return [LogSide(path, scored)]

    def one(self, stored: Stored, partly: bool = False) -> Side:
        """The only evaluation, or arm, that is meant.

        Args:
            stored: as ``sides`` takes it.
            partly: whether what is not finished may be missing (it is in ``left_out``).

        Raises UserError as ``sides`` does, and where there are several, or some are not finished.
        """
        before = len(self.left_out)
        sides = self.sides(stored)
        places = [str(seed.path) for side in sides for seed in seeds_of(side)]
        lacking = list(map(str, self.left_out[before:]))
        if len(sides) > 1:
            names = ", ".join([*places, *lacking])
            raise UserError(
                f"compare: {stored} is a run with several evaluations; name one ({names})"
            )
        if lacking and not partly:
            raise UserError(
                f"compare: {unfinished(', '.join(lacking))}; run its stage first, or name what is "
                f"finished ({', '.join(places)})"
            )
        return sides[0]

    def _stage(self, path: Path, chosen: str | None) -> StageSide:
        stage = read_stage(path)
        if stage is None or not (path / "attempts").is_dir():
            raise UserError(f"compare: {path} is no folder of an evaluation (RUN/STAGE)")
        if not stage.complete:
            raise UserError(f"compare: {unfinished(path)}; run its stage first")
        return StageSide(path, stage.record, chosen)

    def _run(self, path: Path, stages: Sequence[Path]) -> list[Side]:
        records = {stage: read_stage(stage) for stage in stages}
        evaluations = {
            stage: found
            for stage, found in records.items()
            if found is not None and _gives(found.record) == "evaluation"
        }
        if not evaluations:
            raise UserError(f"compare: the run {path} holds no evaluation yet")
        finished = [stage for stage, found in evaluations.items() if found.complete]
        if not finished:
            raise UserError(
                f"compare: no evaluation of the run {path} is finished; run its stages first"
            )
        self.left_out += [stage for stage in evaluations if stage not in finished]
        planned = list(read_json(path / PLAN).get("stages") or ())
        sides = [self._stage(stage, None) for stage in finished]
        sides.sort(key=lambda side: _place_in(planned, side))  # the first is the baseline
        arms: dict[str, list[StageSide]] = {}
        for side in sides:
            arms.setdefault(side.arm, []).append(side)
        return [
            seeds[0] if len(seeds) == 1 else ArmSide(name, str(path / name), seeds)
            for name, seeds in arms.items()
        ]

    def _arm(self, path: Path) -> Side | None:
        """The arm of a run that is called so; None where there is none."""
        stages = [record.parent for record in sorted(path.parent.glob("*/stage.json"))]
        found = [(stage, read_stage(stage)) for stage in stages]
        seeds = [
            (stage, record.complete)
            for stage, record in found
            if record is not None
            and _gives(record.record) == "evaluation"
            and (record.record.get("settings") or {}).get("arm") == path.name
        ]
        if not seeds:
            return None
        finished = [self._stage(stage, None) for stage, complete in seeds if complete]
        if not finished:
            raise UserError(f"compare: no seed of the arm {path} is finished; run its stages first")
        self.left_out += [stage for stage, complete in seeds if not complete]
        return finished[0] if len(finished) == 1 else ArmSide(path.name, str(path), finished)

    def _seeds(self, given: str) -> Side:
        """Evaluations that are the seeds of one arm."""
        seeds: list[StageSide | LogSide] = []
        for place in filter(None, map(str.strip, given.split(","))):
            seeds += seeds_of(self.one(place, partly=True))
        places = [seed.path.resolve() for seed in seeds]
        if twice := next((path for path in places if places.count(path) > 1), None):
            raise UserError(f"compare: {twice} is named twice among the seeds of {given}")
        if len({type(seed) for seed in seeds}) > 1:
            raise UserError(f"compare: {given} names stages and logs; seeds are of one kind")
        if not seeds:
            raise UserError(f"compare: {given} is no folder of an evaluation: no seed is named")
        first = seeds[0]
        if len(seeds) == 1:
            return first
        name = first.name if isinstance(first, StageSide) else first.log.log.model
        return ArmSide(name, given, seeds)


def unfinished(place: str | Path) -> str:
    """What is said of an evaluation that is left out, or may not be."""
    return f"the evaluation {place} is not finished"


def _place_in(planned: Sequence[str], side: StageSide) -> tuple[bool, int]:
    """The base model before trained ones, and these in the recipe's order."""
    known = side.name in planned
    return side.trained, planned.index(side.name) if known else len(planned)


def _gives(record: Mapping[str, Any]) -> str:
    kind = str(record.get("kind"))
    return STAGES[kind].gives if kind in STAGES else ""

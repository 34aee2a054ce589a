"""A finished search stage, as far as a reward model must know it to score its trees again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from butwait.engines.load import ENGINES
from butwait.engines.settings import ModelSettings
from butwait.problems.kinds.files import read_rows
from butwait.problems.settings import PromptSettings
from butwait.records import Problem, SearchTree, UserError
from butwait.running.stages import read_stage
from butwait.search.storage import read_trees
from butwait.stages.kinds import STAGES


@dataclass(frozen=True, slots=True, eq=False)
class RecordedStage:
    """Attributes:
    path: RUN/STAGE.
    trees: its search trees.
    problems: of its run, by id.
    policy: the model that was searched; None where the engine had a policy of its own.
    prompt: how that model was shown questions.
    """

    path: Path
    trees: list[SearchTree]
    problems: dict[str, Problem]
    policy: ModelSettings | None
    prompt: PromptSettings

    def problem(self, name: str) -> Problem:
        """Raises UserError where the run does not keep it."""
        if name not in self.problems:
            raise UserError(
                f"the question {name!r} of {self.path} stands in none of the files of "
                f"{self.path.parent / 'problems'}: its tree cannot be scored again"
            )
        return self.problems[name]


def read_recorded_stage(path: Path) -> RecordedStage:
    """The stage at RUN/STAGE. Raises UserError where there is none with trees."""
    stage = read_stage(path)
    if stage is None:
        raise UserError(f"{path} is no stage of a run (it has no stage.json); give RUN/STAGE")
    trees = list(read_trees(path / "trees"))
    try:
        shared = stage.record["settings"]["recipe"]
        by_model = ENGINES[shared["engine"]["kind"]].runs_model
        prompt = PromptSettings.model_validate(shared["prompt"])
        policy = _policy(path.parent, stage.record, shared["model"]) if by_model else None
    except (KeyError, TypeError, ValidationError) as error:
        raise UserError(f"{path / 'stage.json'} does not say which model was searched") from error
    problems = _problems(path.parent / "problems", stage.record["settings"].get("problems"))
    return RecordedStage(path, trees, problems, policy, prompt)


def _policy(run: Path, record: dict[str, Any], model: dict[str, Any]) -> ModelSettings:
    """The recipe's model, or that of the stage which gave this one its model."""
    base = ModelSettings.model_validate(model)
    for source in record["from"]:
        before = read_stage(run / source)
        if before is not None and _gives(before.record["kind"]) == "model":
            folder = str(run / source / "model")
            return base.model_copy(update={"name": folder, "revision": None})
    return base


def _gives(kind: str) -> str:
    return STAGES[kind].gives if kind in STAGES else ""


def _problems(folder: Path, searched: str | None) -> dict[str, Problem]:
    """Of the set that was searched; of all where the stage names none."""
    problems = {}
    for file in sorted(folder.glob("*.jsonl")):
        if searched not in (None, file.stem):
            continue
        try:
            for row in read_rows(file):
                problems[row["id"]] = Problem(**row)
        except (TypeError, KeyError) as error:
            raise UserError(f"{file} is no problem set of a run: {error}") from error
    return problems

"""A recipe: a model, problem sets, and stages that take from one another.

It composes the layers' own settings and imports no torch. The kinds of stage are handed in as the
validation's context: ``Recipe.model_validate(content, context=STAGES)``. ``Recipe.order`` is the
order in which stages run; a stage may take from any earlier ones, so that a recipe can branch.
"""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    SerializeAsAny,
    ValidationInfo,
    model_validator,
)

from butwait.engines.kinds.transformers import TransformersSettings
from butwait.engines.load import EngineSettings
from butwait.engines.settings import ModelSettings
from butwait.problems.settings import ProblemSetSettings, PromptSettings
from butwait.recipe.checks import misfits
from butwait.recipe.misfits import MisfitsError
from butwait.recipe.seeds import with_copies
from butwait.recipe.stages import StageKind, StageSettings
from butwait.records.settings import Resource, Result, Settings, Shape
from butwait.running.kinds import Kinds
from butwait.workers.settings import WorkersSettings


def of_its_kind(stage: Any, info: ValidationInfo) -> Any:
    """A stage's settings by its ``kind``, of the kinds in the validation's context."""
    kinds: Any = info.context
    return kinds.parse(stage)


AnyStage = Annotated[SerializeAsAny[StageSettings], BeforeValidator(of_its_kind)]


class Recipe(Settings):
    """A run, whole: the same recipe and seed give the same numbers on the same machine."""

    name: Resource[str]
    """The run's name; the file's name by default. Runs go to ``runs/<name>``."""
    model: Result[ModelSettings]
    """The policy that is searched and trained."""
    seed: Result[int] = 0
    """Every random number of the run is a function of it."""
    threads: Shape[Annotated[int, Field(gt=0)] | None] = None
    """CPU threads of torch, in each worker too; None: as many as it takes by itself, or a worker's
    share of the cores. For a tiny model, or on a machine that others use, one is the fastest."""
    prompt: Result[PromptSettings] = PromptSettings()
    """How a question becomes a prompt."""
    engine: Result[EngineSettings] = TransformersSettings()
    """What runs the policy."""
    workers: Resource[WorkersSettings] = WorkersSettings()
    """Who searches, evaluates and rolls out: this process, others, or a Ray cluster."""
    problems: Result[dict[str, ProblemSetSettings]]
    """Problem sets by name."""
    stages: Result[dict[str, AnyStage]]
    """Stages by name."""

    _kinds: Kinds[StageKind] = PrivateAttr()

    @model_validator(mode="before")
    @classmethod
    def _seeds_are_written_out(cls, content: Any, info: ValidationInfo) -> Any:
        kinds: Any = info.context
        return with_copies(content, kinds)

    def model_post_init(self, context: Any) -> None:
        self._kinds = context
        if found := list(misfits(self)):
            raise MisfitsError(found)

    def kind(self, name: str) -> StageKind:
        """The record of a stage's kind."""
        return self._kinds.of(self.stages[name])

    def kinds(self) -> dict[str, StageKind]:
        """The records of its stages' kinds, by the kind's name."""
        return {stage.kind: self._kinds.of(stage) for stage in self.stages.values()}

    def order(self) -> list[str]:
        """Stage names so that each stands after those it takes from; otherwise as written. A
        report that names no stages stands last."""
        done: list[str] = []
        waiting = list(self.stages)
        while waiting:
            ready = next((s for s in waiting if set(self.sources(s)) <= set(done)), None)
            if ready is None:
                raise ValueError(f"these stages take from each other: {', '.join(waiting)}")
            done.append(ready)
            waiting.remove(ready)
        return done

    def sources(self, name: str) -> tuple[str, ...]:
        """The stages that ``name`` takes from: its ``from``; all others for a report that names
        none."""
        stage = self.stages[name]
        if self.kind(name).takes_all and not stage.from_:
            return tuple(s for s in self.stages if not self.kind(s).takes_all)
        return stage.from_

    def inputs(self, name: str, gives: str) -> list[str]:
        """The stages that ``name`` takes from and that give ``gives``."""
        return [s for s in self.sources(name) if self.kind(s).gives == gives]

    def trained_folder(self, name: str) -> str:
        """Where the policy that the stage ``name`` takes lies in the folder of its model stage."""
        epoch = getattr(self.stages[name], "checkpoint", None)
        return "model" if epoch is None else f"epochs/{epoch}/model"

    def sets_for(self, use: str) -> Iterator[str]:
        """Names of the problem sets that stages use as ``test``, for ``training`` (search and RL
        are), for ``selection`` of checkpoints, or for ``none`` of these; in order, each once."""
        used: dict[str, None] = {}
        for name, stage in self.stages.items():
            choosing = stage.selection_sets
            if use == "selection":
                used |= dict.fromkeys(choosing)
            elif self.kind(name).sets == use:
                used |= dict.fromkeys(s for s in stage.problem_sets if s not in choosing)
        return iter(used)

"""A recipe: a model, problem sets, and stages that take from one another.

It composes the layers' own settings and imports no torch. ``Recipe.order`` is the order in which
stages run; a stage may take from any earlier ones, so that a recipe can branch.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from butwait.engines.settings import EngineSettings, ModelSettings, TransformersSettings
from butwait.evaluation.settings import EvaluateSettings
from butwait.problems.settings import ProblemSetSettings, PromptSettings
from butwait.records.settings import Settings
from butwait.reward_models.settings import RewardModelSettings
from butwait.search.settings import SamplerSettings
from butwait.synthesis.settings import VerifiedSettings
from butwait.training.prm_settings import PrmSettings
from butwait.training.settings import SftSettings


class StageSettings(Settings):
    """What every stage has."""

    from_: Annotated[tuple[str, ...], Field(alias="from")] = ()
    """Names of the stages it takes from: a model (sft), a reward model (prm), trees (search),
    data (verified), or evaluations (report). Without a model stage it uses the recipe's model."""

    @property
    def problem_sets(self) -> tuple[str, ...]:
        """Names of the problem sets the stage reads."""
        return ()


class EvaluateStage(StageSettings, EvaluateSettings):
    """Attempts at problems, graded."""

    kind: Literal["evaluate"]
    reward_model: RewardModelSettings | None = None
    """A public reward model for the methods that need one; a ``prm`` stage in ``from`` does too."""

    @property
    def problem_sets(self) -> tuple[str, ...]:
        return self.problems


class PrmStage(StageSettings, PrmSettings):
    """A reward model from the policy's own rollouts."""

    kind: Literal["prm"]
    problems: str
    """The problem set that is rolled out; the audit holds some of its questions out."""

    @property
    def problem_sets(self) -> tuple[str, ...]:
        return (self.problems,)


class SearchStage(StageSettings):
    """A sampler over a problem set; the whole trees are kept."""

    kind: Literal["search"]
    problems: str
    """The problem set that is searched."""
    sampler: SamplerSettings
    """Which sampler, and its settings."""
    reward_model: RewardModelSettings | None = None
    """A public reward model; a ``prm`` stage in ``from`` gives the recipe's own."""
    shard_size: Annotated[int, Field(gt=0)] = 16
    """Trees in one file."""
    concurrency: Annotated[int, Field(gt=0)] = 64
    """Problems in flight at a time."""

    @property
    def problem_sets(self) -> tuple[str, ...]:
        return (self.problems,)


class VerifiedStage(StageSettings, VerifiedSettings):
    """Data: unique correct solutions from search trees."""

    kind: Literal["verified"]


class SftStage(StageSettings, SftSettings):
    """Supervised fine-tuning on the data of the stages it takes from."""

    kind: Literal["sft"]


class ReportStage(StageSettings):
    """One page and summary.json about the stages it takes from (all, if it names none)."""

    kind: Literal["report"]


AnyStage = Annotated[
    EvaluateStage | PrmStage | SearchStage | VerifiedStage | SftStage | ReportStage,
    Field(discriminator="kind"),
]

PROVIDES = {
    "evaluate": "evaluation",
    "prm": "reward model",
    "search": "trees",
    "verified": "data",
    "sft": "model",
    "report": "report",
}
"""What a stage of each kind gives to those that take from it."""

TAKES = {
    "evaluate": {"model", "reward model"},
    "prm": {"model"},
    "search": {"model", "reward model"},
    "verified": {"trees"},
    "sft": {"model", "data"},
    "report": set(PROVIDES.values()) - {"report"},
}
NEEDS = {"verified": "trees", "sft": "data"}


class Recipe(Settings):
    """A run, whole: the same recipe and seed give the same numbers on the same machine."""

    name: str
    """The run's name; the file's name by default. Runs go to ``runs/<name>``."""
    model: ModelSettings
    """The policy that is searched and trained."""
    seed: int = 0
    """Every random number of the run is a function of it."""
    threads: Annotated[int, Field(gt=0)] | None = None
    """CPU threads of torch; None: as many as it takes by itself. For a tiny model, or on a machine
    that others use, one is the fastest."""
    prompt: PromptSettings = PromptSettings()
    """How a question becomes a prompt."""
    engine: EngineSettings = TransformersSettings()
    """What runs the policy."""
    problems: dict[str, ProblemSetSettings]
    """Problem sets by name."""
    stages: dict[str, AnyStage]
    """Stages by name."""

    @model_validator(mode="after")
    def _names_and_kinds_fit(self) -> "Recipe":
        for name, stage in self.stages.items():
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"stage name {name!r} may hold letters, digits, - and _ only")
            self._check_inputs(name, stage)
            for used in stage.problem_sets:
                if used not in self.problems:
                    raise ValueError(
                        f"stage {name!r} uses the problem set {used!r}, which `problems` lacks "
                        f"(it has: {', '.join(self.problems)})"
                    )
        self.order()
        overlap = set(self.sets_of("evaluate")) & set(self.sets_of("prm", "search"))
        if overlap:
            raise ValueError(
                f"the problem set {sorted(overlap)[0]!r} is used for evaluation and for training "
                "or search; give evaluation a set of its own"
            )
        return self

    def _check_inputs(self, name: str, stage: "AnyStage") -> None:
        for source in stage.from_:
            if source not in self.stages:
                raise ValueError(
                    f"stage {name!r} takes from {source!r}, which is no stage "
                    f"(there are: {', '.join(self.stages)})"
                )
            given = PROVIDES[self.stages[source].kind]
            if given not in TAKES[stage.kind]:
                raise ValueError(
                    f"stage {name!r} ({stage.kind}) cannot take from {source!r}, which gives "
                    f"{given}; it takes {', '.join(sorted(TAKES[stage.kind]))}"
                )
        gives = [PROVIDES[self.stages[source].kind] for source in stage.from_]
        needed = NEEDS.get(stage.kind)
        if needed and needed not in gives:
            raise ValueError(
                f"stage {name!r} ({stage.kind}) needs a stage that gives {needed} in `from`"
            )
        for single in ("model", "reward model"):
            if gives.count(single) > 1 and stage.kind != "report":
                raise ValueError(f"stage {name!r} takes from more than one {single} stage")

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
        if stage.kind == "report" and not stage.from_:
            return tuple(s for s, other in self.stages.items() if other.kind != "report")
        return stage.from_

    def inputs(self, name: str, provides: str) -> list[str]:
        """The stages that ``name`` takes from and that give ``provides``."""
        return [s for s in self.sources(name) if PROVIDES[self.stages[s].kind] == provides]

    def sets_of(self, *kinds: str) -> Iterator[str]:
        """Names of the problem sets that stages of these kinds use, in order, each once."""
        used = (
            s for stage in self.stages.values() if stage.kind in kinds for s in stage.problem_sets
        )
        return iter(dict.fromkeys(used))

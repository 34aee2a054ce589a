"""The stages of a recipe: what each is made of, what it takes and what it gives."""

from typing import Annotated, Literal

from pydantic import Field

from butwait.evaluation.settings import EvaluateSettings
from butwait.records.settings import Settings
from butwait.report.settings import ReportSettings
from butwait.reward_models.settings import RewardModelSettings
from butwait.search.settings import SamplerSettings
from butwait.synthesis.settings import (
    BacktrackSettings,
    ExternalSettings,
    SecondThoughtsSettings,
    StitchSettings,
    VerifiedSettings,
)
from butwait.training.grpo.settings import GrpoDirectSettings, GrpoSettings
from butwait.training.prm_settings import PrmSettings
from butwait.training.settings import SftSettings


class StageSettings(Settings):
    """What every stage has."""

    from_: Annotated[tuple[str, ...], Field(alias="from")] = ()
    """Names of the stages it takes from: a model (sft), a reward model (prm), trees (search),
    data (verified and its like), or evaluations (report). Without a model stage it uses the
    recipe's model."""
    seeds: Annotated[int, Field(gt=0)] = 1
    """So many times, each with a seed of its own: NAME stands for the stages NAME-1, NAME-2, ...,
    and so does every stage that takes from it. The report pools the evaluations and ranks them."""
    arm: str | None = None
    """What stages that differ in their seed alone have in common; ``seeds`` fills it in."""

    @property
    def problem_sets(self) -> tuple[str, ...]:
        """Names of the problem sets the stage reads."""
        return ()

    @property
    def selection_sets(self) -> tuple[str, ...]:
        """Those of them that only choose a checkpoint."""
        return ()


class OneSetStage(StageSettings):
    """A stage that reads one problem set, and perhaps another that chooses a checkpoint."""

    problems: str
    """The problem set."""

    @property
    def problem_sets(self) -> tuple[str, ...]:
        return (self.problems, *self.selection_sets)


class ReinforcementStage(OneSetStage, GrpoSettings):
    """What the stages of reinforcement learning have in common."""

    problems: str
    """The problem set that is trained on."""

    @property
    def selection_sets(self) -> tuple[str, ...]:
        return () if self.selection is None else (self.selection.problems,)


class EvaluateStage(StageSettings, EvaluateSettings):
    """Attempts at problems, graded."""

    kind: Literal["evaluate"]
    reward_model: RewardModelSettings | None = None
    """A public reward model for the methods that need one; a ``prm`` stage in ``from`` does too."""
    checkpoint: Annotated[int, Field(gt=0)] | None = None
    """The epoch whose model is evaluated, of an ``sft`` stage with ``keep_epochs``; None: its last
    model."""

    @property
    def problem_sets(self) -> tuple[str, ...]:
        return self.problems


class PrmStage(OneSetStage, PrmSettings):
    """A reward model from the policy's own rollouts."""

    kind: Literal["prm"]
    problems: str
    """The problem set that is rolled out; the audit holds some of its questions out."""


class SearchStage(OneSetStage):
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


class VerifiedStage(StageSettings, VerifiedSettings):
    """Data: unique correct solutions from search trees."""

    kind: Literal["verified"]


class StitchStage(StageSettings, StitchSettings):
    """Data: wrong attempts, a doubt, a correct solution of the same question."""

    kind: Literal["stitch"]


class BacktrackStage(StageSettings, BacktrackSettings):
    """Data: correct paths with detours into dead branches of their trees."""

    kind: Literal["backtrack"]


class ButWaitStage(StageSettings, SecondThoughtsSettings):
    """Data: verified paths of a ``but_wait`` search."""

    kind: Literal["but_wait"]


class ExternalStage(OneSetStage, ExternalSettings):
    """Data: solutions that others wrote."""

    kind: Literal["external"]
    problems: str
    """The problem set whose solutions are taken (``columns.solution``)."""


class SftStage(StageSettings, SftSettings):
    """Supervised fine-tuning on the data of the stages it takes from."""

    kind: Literal["sft"]


class GrpoStage(ReinforcementStage):
    """Reinforcement learning on questions whose answers can be checked."""

    kind: Literal["grpo"]


class GrpoDirectStage(ReinforcementStage, GrpoDirectSettings):
    """Reinforcement learning with data from its own searches, in the same loop."""

    kind: Literal["grpo_direct"]
    reward_model: RewardModelSettings | None = None
    """A public reward model; a ``prm`` stage in ``from`` gives the recipe's own."""


class ProfileStage(StageSettings):
    """What sets of solutions look like, side by side: those of stages, and reference solutions."""

    kind: Literal["profile"]
    sources: Annotated[tuple[str, ...], Field(min_length=1)]
    """Stages in ``from``, and problem sets with reference solutions (``columns.solution``). The
    first is the baseline of every ratio."""
    step_end: Annotated[str, Field(min_length=1)] = "\n\n"
    """What ends a step."""

    @property
    def problem_sets(self) -> tuple[str, ...]:
        return tuple(name for name in self.sources if name not in self.from_)


class ReportStage(StageSettings, ReportSettings):
    """One page and summary.json about the stages it takes from (all, if it names none)."""

    kind: Literal["report"]


AnyStage = Annotated[
    EvaluateStage
    | PrmStage
    | SearchStage
    | VerifiedStage
    | StitchStage
    | BacktrackStage
    | ButWaitStage
    | ExternalStage
    | SftStage
    | GrpoStage
    | GrpoDirectStage
    | ProfileStage
    | ReportStage,
    Field(discriminator="kind"),
]

PROVIDES = {
    "evaluate": "evaluation",
    "prm": "reward model",
    "search": "trees",
    "verified": "data",
    "stitch": "data",
    "backtrack": "data",
    "but_wait": "data",
    "external": "data",
    "sft": "model",
    "grpo": "model",
    "grpo_direct": "model",
    "profile": "profile",
    "report": "report",
}
"""What a stage of each kind gives to those that take from it."""

TAKES = {
    "evaluate": {"model", "reward model"},
    "prm": {"model"},
    "search": {"model", "reward model"},
    "verified": {"trees", "data"},
    "stitch": {"trees", "data"},
    "backtrack": {"trees", "data"},
    "but_wait": {"trees", "data"},
    "external": {"model", "trees", "data"},
    "sft": {"model", "data"},
    "grpo": {"model", "trees"},
    "grpo_direct": {"model", "trees", "reward model"},
    "profile": {"evaluation", "trees", "data"},
    "report": set(PROVIDES.values()) - {"report"},
}
"""What a stage of each kind may take."""

NEEDS = {
    "verified": "trees",
    "stitch": "trees",
    "backtrack": "trees",
    "but_wait": "trees",
    "sft": "data",
}
"""What a stage of a kind cannot do without."""

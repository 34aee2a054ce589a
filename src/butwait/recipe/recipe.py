"""A recipe: a model, problem sets, and stages that take from one another.

It composes the layers' own settings and imports no torch. ``Recipe.order`` is the order in which
stages run; a stage may take from any earlier ones, so that a recipe can branch.
"""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field, model_validator

from butwait.engines.settings import EngineSettings, ModelSettings, TransformersSettings
from butwait.problems.settings import ProblemSetSettings, PromptSettings
from butwait.recipe.checks import check
from butwait.recipe.seeds import with_copies
from butwait.recipe.stages import PROVIDES, AnyStage
from butwait.records.settings import Settings


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

    @model_validator(mode="before")
    @classmethod
    def _seeds_are_written_out(cls, content: Any) -> Any:
        return with_copies(content)

    @model_validator(mode="after")
    def _names_and_kinds_fit(self) -> "Recipe":
        check(self)
        return self

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

    def training_sets(self) -> Iterator[str]:
        """Names of the problem sets that are searched or trained on, in order, each once."""
        kinds = ("search", "prm", "external", "grpo", "grpo_direct")
        stages = (stage for stage in self.stages.values() if stage.kind in kinds)
        used = (s for t in stages for s in t.problem_sets if s not in t.selection_sets)
        return iter(dict.fromkeys(used))

    def selection_sets(self) -> Iterator[str]:
        """Names of the problem sets that choose checkpoints, in order, each once."""
        used = (s for stage in self.stages.values() for s in stage.selection_sets)
        return iter(dict.fromkeys(used))

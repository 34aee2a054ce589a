"""What a completion is worth. Imports nothing heavy."""

from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from butwait.records.settings import Content, Result, Settings
from butwait.running.plugins import PLUGIN
from butwait.training.settings import PositiveInt

NonNegative = Annotated[float, Field(ge=0)]

BUILT_IN = ("answer", "format", "overlong")
"""What the log calls the parts of the reward that are butwait's own."""


class RewardFunction(Settings):
    """A reward function of one's own (``docs/grpo.md``)."""

    function: Content[str]
    """``module:function`` of (question, extracted answer or None, metadata), as of a verifier; it
    gives any finite number. ``metadata`` has ``gold``, ``response``, ``length`` (tokens),
    ``finish``, ``status`` and ``score`` besides the columns that were kept."""
    weight: Result[float] = 1.0
    """What its number is multiplied by before it is added."""

    @model_validator(mode="before")
    @classmethod
    def _from_its_name(cls, given: Any) -> Any:
        return {"function": given} if isinstance(given, str) else given

    @field_validator("function")
    @classmethod
    def _names_a_function(cls, name: str) -> str:
        if not PLUGIN.fullmatch(name):
            raise ValueError(f"{name!r} is not of the form module:function")
        return name

    @property
    def name(self) -> str:
        """Of the function, as the log calls it."""
        return self.function.partition(":")[2]

    def look(self, world: Any) -> None:
        world.plugin(self.function, "function")


class RewardSettings(Settings):
    """What a completion is worth. A correct answer is worth 1, a wrong, missing or truncated one 0
    (truncated even with a closed box); an ungradable one is left out of its group's baseline and
    moves nothing. What is added here can be had without solving anything, so it is off by
    default."""

    format: Result[NonNegative] = 0.0
    """Added where the text has exactly one box and, if it opens ``<think>``, closes it before the
    box."""
    overlong_tokens: Result[PositiveInt | None] = None
    """Length of the soft punishment zone of DAPO (Yu et al. 2025, arXiv:2503.14476, eq. 13): from
    ``step.max_tokens`` minus so many on, the reward falls linearly by up to 1; a truncated
    completion loses 1. None: length costs nothing."""
    later: ClassVar[frozenset[str]] = frozenset({"functions"})
    functions: Result[tuple[RewardFunction, ...]] = ()
    """Functions of one's own whose numbers are added too: ``module:function``, or one with a
    ``weight``. A completion for which one of them has no number moves nothing."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [*BUILT_IN, *(own.name for own in self.functions)]
        if again := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(
                f"functions: two rewards are called {again!r} and could not be told apart in the "
                "log; give one function another name"
            )
        return self

"""The base of every layer's settings, and the marks of what a result depends on."""

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict

T = TypeVar("T")

Unfit = tuple[tuple[str | int, ...], str]
"""Something of a stage that does not fit to the rest of its recipe: the keys below the stage that
it stands under, and a sentence."""


class Settings(BaseModel):
    """Unknown keys are errors, and so are infinite numbers; values are frozen; a field's docstring
    is its documentation."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    later: ClassVar[frozenset[str]] = frozenset()
    """Fields that came when there were results already: at their defaults they are no part of what
    a result depends on, so that an update throws no run away."""

    def look(self, world: Any) -> None:
        """Asks a ``running.world.World`` for the files, packages, functions, models and servers
        that these settings name, those of settings inside of them aside. A run does so before
        anything is computed."""


class SeveralError(ValueError):
    """Several things that do not fit inside of settings.

    Attributes:
        sentences: at least one.
    """

    def __init__(self, sentences: Sequence[str]) -> None:
        super().__init__("; ".join(sentences))
        self.sentences = tuple(sentences)


def refuse_all(sentences: Iterable[str]) -> None:
    """For a validator that finds several mistakes. Raises SeveralError where there are any."""
    if found := list(sentences):
        raise SeveralError(found)


class Mark(Enum):
    """What a change of a field means for results that are on disk (``docs/identity.md``).

    Attributes:
        RESULT: they are computed anew.
        RESOURCE: they stay, and what is half finished goes on.
        SHAPE: as a result where the settings are ``deterministic``, else as a resource.
        CONTENT: the value names a file, a folder or ``module:function``: a result by what it holds.
        DEVICE: a result by the kind of device, not by its number.
    """

    RESULT = "result"
    RESOURCE = "resource"
    SHAPE = "shape"
    CONTENT = "content"
    DEVICE = "device"


Result = Annotated[T, Mark.RESULT]
Resource = Annotated[T, Mark.RESOURCE]
Shape = Annotated[T, Mark.SHAPE]
Content = Annotated[T, Mark.CONTENT]
Device = Annotated[T, Mark.DEVICE]

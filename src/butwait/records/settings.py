"""The base of every layer's settings, and the marks of what a result depends on."""

from enum import Enum
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict

T = TypeVar("T")


class Settings(BaseModel):
    """Unknown keys are errors; values are frozen; a field's docstring is its documentation."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Mark(Enum):
    """What a change of a field means for results that are on disk (``docs/identity.md``)."""

    RESULT = "result"
    """They are computed anew."""
    RESOURCE = "resource"
    """They stay, and what is half finished goes on."""
    SHAPE = "shape"
    """As a result where the settings are ``deterministic``, else as a resource."""
    CONTENT = "content"
    """The value names a file, a folder or ``module:function``: a result by what these hold."""
    DEVICE = "device"
    """A result by the kind of device, not by its number."""


Result = Annotated[T, Mark.RESULT]
Resource = Annotated[T, Mark.RESOURCE]
Shape = Annotated[T, Mark.SHAPE]
Content = Annotated[T, Mark.CONTENT]
Device = Annotated[T, Mark.DEVICE]

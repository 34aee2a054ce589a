"""What the ``report`` stage takes. Imports nothing heavy."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from butwait.records.settings import Result, Settings

Rate = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(gt=0)]


class PublishedSettings(Settings):
    """What others published for an evaluation, to stand beside it. Rates are fractions: 0.1917 is
    19.17 %. It is shown and takes part in no comparison."""

    pass_at_1: Result[Rate | None] = None
    """The mean share of correct samples."""
    pass_at_k: Result[dict[PositiveInt, Rate]] = Field(default_factory=dict)
    """k -> the share of questions that one of k samples solved."""
    n: Result[PositiveInt | None] = None
    """Questions; None: not said."""
    k: Result[PositiveInt | None] = None
    """Samples of each; None: not said."""
    source: Result[Annotated[str, Field(min_length=1)]]
    """Where it stands: an address, or a paper and its table."""
    note: Result[str] = ""
    """What a reader must know to compare: another model or data, a choice by the result."""

    @model_validator(mode="after")
    def _has_a_figure(self) -> Self:
        if self.pass_at_1 is None and not self.pass_at_k:
            raise ValueError("give pass_at_1, pass_at_k or both")
        return self


class ReportSettings(Settings):
    """What is told beside the run's own figures."""

    published: Result[dict[str, PublishedSettings]] = Field(default_factory=dict)
    """Figures of others, by the evaluation they stand beside: ``"stage/set/method"``, an arm's name
    in place of its stages'."""

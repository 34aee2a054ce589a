"""What all samplers take."""

from typing import Annotated, Literal

from pydantic import Field

from butwait.engines.settings import Sampling, StepRule
from butwait.records.settings import Settings

Exponent = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Resampling = Literal["systematic", "multinomial", "stratified", "residual"]
SelectionMethod = Literal["weighted_vote", "vote", "argmax", "sample"]
Aggregation = Literal["last", "min", "prod", "model"]
Count = Annotated[int, Field(gt=0)]


class CommonSettings(Settings):
    """What every sampler has."""

    step: StepRule = StepRule()
    """Where a step ends."""
    sampling: Sampling = Sampling()
    """How tokens are drawn."""
    selection: SelectionMethod = "weighted_vote"
    """How the final particles become one answer."""

"""What the samplers take. Imports no torch."""

from typing import Annotated

from pydantic import Field

from butwait.search.settings.beams import BeamSearchSettings, DVTSSettings, RebaseSettings
from butwait.search.settings.but_wait import ButWaitSettings
from butwait.search.settings.common import (
    Aggregation,
    CommonSettings,
    Exponent,
    Resampling,
    SelectionMethod,
)
from butwait.search.settings.filters import (
    ConditionalResampling,
    LinearAlpha,
    ParticleFilterSettings,
    ParticleGibbsSettings,
    TemperingSettings,
)
from butwait.search.settings.samples import (
    BestOfNSettings,
    IndependentSettings,
    SelfConsistencySettings,
)

SamplerSettings = Annotated[
    ParticleFilterSettings
    | ParticleGibbsSettings
    | TemperingSettings
    | IndependentSettings
    | SelfConsistencySettings
    | BestOfNSettings
    | BeamSearchSettings
    | DVTSSettings
    | RebaseSettings
    | ButWaitSettings,
    Field(discriminator="kind"),
]

__all__ = [
    "Aggregation",
    "BeamSearchSettings",
    "BestOfNSettings",
    "ButWaitSettings",
    "CommonSettings",
    "ConditionalResampling",
    "DVTSSettings",
    "Exponent",
    "IndependentSettings",
    "LinearAlpha",
    "ParticleFilterSettings",
    "ParticleGibbsSettings",
    "RebaseSettings",
    "Resampling",
    "SamplerSettings",
    "SelectionMethod",
    "SelfConsistencySettings",
    "TemperingSettings",
]

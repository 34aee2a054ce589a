"""When a run is stopped because its curve no longer rises. Imports nothing heavy."""

from typing import Annotated

from pydantic import Field

from butwait.records.settings import Settings
from butwait.statistics.plateau import PlateauRule


class PlateauSettings(Settings):
    """Stop when the next ``horizon`` steps would improve the curve by less than ``delta``, with a
    confidence that holds for the whole run (docs/plateau.md)."""

    horizon: Annotated[float, Field(gt=0)] = 100
    """Steps ahead over which the improvement is counted."""
    delta: Annotated[float, Field(gt=0)] = 0.02
    """The improvement that would be worth going on for, in units of the curve: 0.02 is 2 points of
    a reward or a success rate between 0 and 1."""
    window: Annotated[float, Field(gt=0)] | None = None
    """Steps of the shortest stretch that a trend is fitted to; longer ones are tried as the run
    grows. None: the horizon."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the whole run: one that still rises by ``delta`` a horizon is stopped in at most
    1 - confidence of cases, however often it is looked at."""
    start: Annotated[float, Field(ge=0)] = 0
    """Steps at the start that are left out: warm-up, or until the first rewards are found."""

    def rule(self) -> PlateauRule:
        """The rule with these settings."""
        return PlateauRule(self.horizon, self.delta, self.window, self.confidence, self.start)

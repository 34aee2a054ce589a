"""What forced second thoughts take."""

from typing import Annotated, Literal

from pydantic import Field

from butwait.engines.settings import StepRule
from butwait.search.settings.common import CommonSettings, Count
from butwait.search.settings.samples import Unrewarded


class ButWaitSettings(CommonSettings):
    """Samples that are made to think again (cf. budget forcing, Muennighoff et al. 2025, arXiv
    2501.19393)."""

    kind: Literal["but_wait"] = "but_wait"
    samples: Count = 1
    """Independent paths."""
    rounds: Count = 4
    """Thoughts of a path at most, the first one included."""
    stable: Annotated[int, Field(ge=2)] | None = 2
    """Thoughts in a row with the same answer that end a path early; None: never."""
    phrase: Annotated[str, Field(min_length=1)] = "\n\nBut wait,"
    """What is inserted where a thought would end."""
    step: StepRule = StepRule(delimiters=())
    """Where a thought ends; ``max_tokens`` bounds all thoughts of a path together."""
    selection: Unrewarded = "vote"
    """How the samples become one answer; all have the same weight."""

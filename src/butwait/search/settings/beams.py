"""What the searches take that keep the most promising paths by rank or share, without chance."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from butwait.search.settings.common import CommonSettings, Count, Exponent


class _RankedSettings(CommonSettings):
    alpha: Exponent = 1.0
    """Final log-weights are alpha times the last logit."""
    max_steps: Count | None = None
    """Steps after which open paths end truncated; None: only the token limits end them."""


class _BeamSettings(_RankedSettings):
    beams: Count = 16
    """Paths N. A finished one keeps its place and costs nothing more."""
    expansions: Count = 4
    """Continuations M of each path that is kept; N is a multiple of M."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.beams % self.expansions:
            raise ValueError(
                f"beams ({self.beams}) must be a multiple of expansions ({self.expansions}); "
                "change one of them"
            )
        return self


class BeamSearchSettings(_BeamSettings):
    """Beam search over steps: the best N/M of N paths are kept (Snell et al. 2024, arXiv
    2408.03314)."""

    kind: Literal["beam_search"] = "beam_search"


class DVTSSettings(_BeamSettings):
    """Diverse verifier tree search: N/M subtrees, in each of which the best of M paths is kept
    (Beeching, Tunstall and Rush 2024)."""

    kind: Literal["dvts"] = "dvts"


class RebaseSettings(_RankedSettings):
    """Reward-balanced search: continuations in shares of the reward (Wu et al. 2024, arXiv
    2408.00724)."""

    kind: Literal["rebase"] = "rebase"
    width: Count = 16
    """Paths N. A finished one keeps its place and costs nothing more."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.2
    """Of the softmax over rewards, which are probabilities; lower is greedier."""

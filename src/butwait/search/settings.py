"""What the samplers take. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from butwait.engines.settings import Sampling, StepRule
from butwait.records.settings import Settings

Exponent = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Resampling = Literal["systematic", "multinomial", "stratified", "residual"]
SelectionMethod = Literal["weighted_vote", "vote", "argmax", "sample"]
Aggregation = Literal["last", "min", "prod", "model"]


class LinearAlpha(Settings):
    """An exponent that changes linearly over the first steps and then stays."""

    start: Exponent
    """Exponent at the first step."""
    end: Exponent
    """Exponent from step ``steps`` on, and of the target."""
    steps: Annotated[int, Field(gt=1)]
    """The step that first has the exponent ``end``."""


class ParticleFilterSettings(Settings):
    """A particle filter with telescoping potentials (``docs/search.md``)."""

    kind: Literal["particle_filter"] = "particle_filter"
    particles: Annotated[int, Field(gt=0)] = 16
    """Size N of the population."""
    alpha: Exponent | Annotated[tuple[Exponent, ...], Field(min_length=1)] | LinearAlpha = 1.0
    """Exponent of the reward's odds in the target: a constant, a list (one entry a step, the last
    one stays) or a linear schedule. The target always has the schedule's last value, however
    short a path is."""
    resampling: Resampling = "systematic"
    """How ancestors are drawn."""
    ess_threshold: Annotated[float, Field(ge=0)] = 0.5
    """Resample before a step if the effective sample size is under this share of N. 0 never
    resamples, above 1 always does."""
    max_steps: Annotated[int, Field(gt=0)] | None = None
    """Steps after which open paths end truncated; None: only the token limits end them."""
    step: StepRule = StepRule()
    """Where a step ends."""
    sampling: Sampling = Sampling()
    """How tokens are drawn."""
    selection: SelectionMethod = "weighted_vote"
    """How the final particles become one answer."""

    def alpha_at(self, step: int) -> float:
        """The exponent after ``step`` steps (1, 2, ...)."""
        alpha = self.alpha
        if isinstance(alpha, tuple):
            return alpha[min(step, len(alpha)) - 1]
        if isinstance(alpha, LinearAlpha):
            share = min(step - 1, alpha.steps - 1) / (alpha.steps - 1)
            return (1 - share) * alpha.start + share * alpha.end
        return alpha

    @property
    def final_alpha(self) -> float:
        """The exponent of the target."""
        if isinstance(self.alpha, tuple):
            return self.alpha[-1]
        return self.alpha.end if isinstance(self.alpha, LinearAlpha) else self.alpha


class IndependentSettings(Settings):
    """Plain samples from the policy, without a reward model."""

    kind: Literal["independent"] = "independent"
    samples: Annotated[int, Field(gt=0)] = 1
    """How many."""
    step: StepRule = StepRule(delimiters=())
    """Where a path ends; with delimiters the tree shows the steps too."""
    sampling: Sampling = Sampling()
    """How tokens are drawn."""


class SelfConsistencySettings(Settings):
    """Plain samples and a vote (Wang et al. 2023, arXiv 2203.11171)."""

    kind: Literal["self_consistency"] = "self_consistency"
    samples: Annotated[int, Field(gt=0)] = 16
    """How many."""
    step: StepRule = StepRule(delimiters=())
    """Where a path ends; with delimiters the tree shows the steps too."""
    sampling: Sampling = Sampling()
    """How tokens are drawn."""
    selection: Literal["vote", "sample"] = "vote"
    """How the samples become one answer; all have the same weight."""


class BestOfNSettings(Settings):
    """Plain samples, each scored by the reward model when it is whole."""

    kind: Literal["best_of_n"] = "best_of_n"
    samples: Annotated[int, Field(gt=0)] = 16
    """How many."""
    alpha: Exponent = 1.0
    """Final log-weights are alpha times the aggregated logit."""
    aggregation: Aggregation = "last"
    """How the steps' scores make one: the last; the lowest; the product of their probabilities;
    or ``model``: the reward model scores the whole solution once, as one step."""
    step: StepRule = StepRule()
    """Where a step ends."""
    sampling: Sampling = Sampling()
    """How tokens are drawn."""
    selection: SelectionMethod = "argmax"
    """How the samples become one answer; ``weighted_vote`` is the vote weighted by reward."""


SamplerSettings = Annotated[
    ParticleFilterSettings | IndependentSettings | SelfConsistencySettings | BestOfNSettings,
    Field(discriminator="kind"),
]

"""What the filters take: sequential Monte Carlo and its Markov chains."""

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from butwait.records.settings import Settings
from butwait.search.settings.common import CommonSettings, Count, Exponent, Resampling

ConditionalResampling = Literal["multinomial", "systematic"]


class LinearAlpha(Settings):
    """An exponent that changes linearly over the first steps and then stays."""

    start: Exponent
    """Exponent at the first step."""
    end: Exponent
    """Exponent from step ``steps`` on, and of the target."""
    steps: Annotated[int, Field(gt=1)]
    """The step that first has the exponent ``end``."""


ITS_HUB_TAKES = frozenset(
    {"kind", "preset", "particles", "max_steps", "step", "sampling", "selection"}
)


class _PopulationSettings(CommonSettings):
    particles: Count = 16
    """Size N of the population."""
    ess_threshold: Annotated[float, Field(ge=0)] = 0.5
    """Resample before a step if the effective sample size is under this share of N. 0 never
    resamples, above 1 always does."""
    max_steps: Count | None = None
    """Steps after which open paths end truncated; None: only the token limits end them."""


class _FilterSettings(_PopulationSettings):
    alpha: Exponent | Annotated[tuple[Exponent, ...], Field(min_length=1)] | LinearAlpha = 1.0
    """Exponent of the reward's odds in the target: a constant, a list (one entry a step, the last
    one stays) or a linear schedule. The target always has the schedule's last value, however
    short a path is."""

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


class ParticleFilterSettings(_FilterSettings):
    """A particle filter with telescoping potentials (``docs/search.md``)."""

    kind: Literal["particle_filter"] = "particle_filter"
    preset: Literal["exact", "its_hub"] = "exact"
    """``its_hub`` runs the filter of its_hub 1.2.0 instead (``docs/samplers.md``), which takes
    ``particles``, ``max_steps``, ``step``, ``sampling`` and ``selection`` and nothing else."""
    resampling: Resampling = "systematic"
    """How ancestors are drawn."""

    @model_validator(mode="after")
    def _its_hub_has_a_say(self) -> Self:
        without = sorted(self.model_fields_set - ITS_HUB_TAKES)
        if self.preset == "its_hub" and without:
            raise ValueError(
                f"the preset its_hub has no {' and no '.join(without)}; leave them out, or use "
                "the preset exact"
            )
        return self


class _ConditionalSettings(_PopulationSettings):
    particles: Annotated[int, Field(ge=2)] = 16
    """Size N of the population, the reference included."""
    iterations: Count = 4
    """Sweeps of every chain. The first is a plain filter, the others are conditional."""
    burn_in: Annotated[int, Field(ge=0)] = 0
    """Sweeps at the beginning that are kept in the tree and left out of the final weights."""
    resampling: ConditionalResampling = "multinomial"
    """How ancestors are drawn given the reference's."""
    ancestor_sampling: bool = False
    """Whether the reference draws a new past wherever the population is resampled. The engine has
    to score given tokens, and the policy has to be sampled as it is."""

    @field_validator("resampling", mode="before")
    @classmethod
    def _has_a_conditional_form(cls, chosen: object) -> object:
        if chosen in ("stratified", "residual"):
            raise ValueError(
                f"{chosen} resampling has no conditional form here, and keeping the reference by "
                "force would bias the chain; choose multinomial or systematic"
            )
        return chosen

    @model_validator(mode="after")
    def _some_sweep_is_left(self) -> Self:
        if self.burn_in >= self.iterations:
            raise ValueError(
                f"a burn_in of {self.burn_in} leaves none of {self.iterations} iterations; make "
                "it smaller, or iterations larger"
            )
        return self

    @model_validator(mode="after")
    def _scores_are_of_the_sampled_policy(self) -> Self:
        how = self.sampling
        if self.ancestor_sampling and (how.temperature, how.top_p, how.top_k) != (1, 1, 0):
            raise ValueError(
                "ancestor_sampling needs temperature 1, top_p 1 and top_k 0: engines score given "
                "tokens under the policy as it is; set these, or ancestor_sampling to false"
            )
        return self


class ParticleGibbsSettings(_ConditionalSettings, _FilterSettings):
    """Particle Gibbs: a chain of filters, each conditional on a path of the one before
    (``docs/chains.md``)."""

    kind: Literal["particle_gibbs"] = "particle_gibbs"


class TemperingSettings(_ConditionalSettings):
    """Parallel tempering: particle Gibbs at several exponents, which swap their paths
    (``docs/chains.md``)."""

    kind: Literal["tempering"] = "tempering"
    alphas: Annotated[tuple[Exponent, ...], Field(min_length=2)] = (0.25, 0.5, 1.0)
    """The chains' exponents, rising; the last is the target's. All chains run side by side, so
    that as many times ``particles`` paths are in flight."""

    @field_validator("alphas")
    @classmethod
    def _rise(cls, alphas: tuple[float, ...]) -> tuple[float, ...]:
        if any(low >= high for low, high in pairwise(alphas)):
            raise ValueError(f"alphas must rise from each chain to the next; {alphas} do not")
        return alphas

    def chain(self, alpha: float) -> ParticleGibbsSettings:
        """The settings of the chain at one exponent."""
        shared = {name: getattr(self, name) for name in type(self).model_fields}
        del shared["kind"], shared["alphas"]
        return ParticleGibbsSettings(**shared, alpha=alpha)

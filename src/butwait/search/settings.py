"""What samplers take and what a sampler is; each has its own settings in ``search/samplers``.
Imports no torch."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from butwait.engines.engine import Engine
from butwait.engines.scheduling.rows import most_problems, rows_that_pay
from butwait.engines.settings import Sampling, StepRule
from butwait.records import Key, Problem, SearchTree
from butwait.records.settings import Result, Settings
from butwait.reward_models.reward_model import RewardModel
from butwait.running.kinds import Kinds

Exponent = Annotated[float, Field(ge=0)]
Resampling = Literal["systematic", "multinomial", "stratified", "residual"]
SelectionMethod = Literal["weighted_vote", "vote", "argmax", "sample"]
Unrewarded = Literal["vote", "sample"]
"""Selections that make sense where no reward was asked for and all weights are equal."""
Count = Annotated[int, Field(gt=0)]


class CommonSettings(Settings):
    """What every sampler has."""

    step: Result[StepRule] = StepRule()
    """Where a step ends."""
    sampling: Result[Sampling] = Sampling()
    """How tokens are drawn."""
    selection: Result[SelectionMethod] = "weighted_vote"
    """How the final particles become one answer."""
    kind: str
    """Which sampler."""


class PopulationSettings(CommonSettings):
    """What filters and chains of them have: sequential Monte Carlo."""

    particles: Result[Count] = 16
    """Size N of the population."""
    ess_threshold: Result[Annotated[float, Field(ge=0)]] = 0.5
    """Resample before a step if the effective sample size is under this share of N. 0 never
    resamples, above 1 always does."""
    max_steps: Result[Count | None] = None
    """Steps after which open paths end truncated; None: only the token limits end them."""
    resampling: Result[Resampling] = "systematic"
    """How ancestors are drawn."""


class LinearAlpha(Settings):
    """An exponent that changes linearly over the first steps and then stays."""

    start: Result[Exponent]
    """Exponent at the first step."""
    end: Result[Exponent]
    """Exponent from step ``steps`` on, and of the target."""
    steps: Result[Annotated[int, Field(gt=1)]]
    """The step that first has the exponent ``end``."""


Exponents = Annotated[tuple[Exponent, ...], Field(min_length=1)]


class FilterSettings(PopulationSettings):
    """What filters with one target have."""

    alpha: Result[Exponent | Exponents | LinearAlpha] = 1.0
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


@dataclass(frozen=True)
class Sampler:
    """A kind of sampler.

    Attributes:
        settings: what it takes, with its name as ``kind``.
        run: searches one problem; a function of (problem, engine, reward model, settings, key)
            that returns a ``SearchTree``. It knows weights, ancestors and a key; it does not know
            vLLM, gold answers or chat templates. ``run_sampler`` calls it.
        needs_reward_model: whether it asks for rewards; if not, the reward model may be None.
        second_thoughts: whether its paths are made to think again, by inserted text.
        as_attempts: where its leaves are plain samples of the policy, each an attempt of its own:
            settings with k leaves, from settings and k; ValueError where they contradict each
            other. None: the leaves of a search are selected down to one attempt.
        paths: how many are extended and scored at a time, by these settings; None: it does not
            say.
        reads: how often the policy reads each token that it drew, by these settings, beside drawing
            it; what is drawn already costs no reading.
        apart: whether its final paths are independent of one another, so that some of them are what
            a smaller search gives.
        one_sweep: whether each final path goes on from one of the paths that there are after any
            step, so that what all of these begin with is in the answer.
    """

    settings: type[CommonSettings]
    run: Callable[[Problem, Engine, RewardModel | None, Any, Key], Awaitable[SearchTree]]
    needs_reward_model: bool = True
    second_thoughts: bool = False
    as_attempts: Callable[[Any, int], CommonSettings] | None = None
    paths: Callable[[Any], int | None] = lambda settings: None
    reads: Callable[[Any], float] = lambda settings: 0.0
    apart: bool = False
    one_sweep: bool = False


SAMPLERS = Kinds("sampler", "butwait.search.samplers", Sampler)
"""The samplers by name. A new one is a module of that package, or anyone's own."""

SamplerSettings = Annotated[SerializeAsAny[CommonSettings], BeforeValidator(SAMPLERS.parse)]
"""A field that holds the settings of any sampler."""


def in_flight(
    sampler: CommonSettings,
    problems: Sequence[Problem],
    stage: Any,
    engine: Any,
    searches: int = 1,
) -> int | None:
    """Sequences that a reward model is asked for at a time: the paths of as many searches as run
    side by side, and the prompts that they share. None where the sampler does not say.

    Args:
        sampler: of the searches.
        problems: that are searched.
        stage: its ``concurrency`` says how many of them at a time.
        engine: settings of the engine, whose rows they fill.
        searches: of one problem at a time.
    """
    paths = SAMPLERS.of(sampler).paths(sampler)
    if paths is None:
        return None
    paths *= searches
    pays = rows_that_pay(engine)
    return most_problems(stage.concurrency, len(problems), paths, pays) * (paths + 1)

"""What an evaluation takes. Imports no torch."""

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from butwait.engines.scheduling.rows import Concurrency
from butwait.records.settings import Resource, Result, Settings, refuse_all
from butwait.search.samplers.samples import IndependentSettings
from butwait.search.settings import SAMPLERS, SamplerSettings
from butwait.statistics.passk import MOST_ATTEMPTS

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class MethodSettings(Settings):
    """How one problem is attempted."""

    sampler: Result[SamplerSettings] = IndependentSettings()
    """What makes an attempt: a sample of the policy (kind ``independent``), or a whole search
    whose particles are selected down to one answer."""
    k: Result[Annotated[int, Field(gt=0)]] = 1
    """Attempts at every problem, at most 1,000. For plain sampling they are the samples; for a
    search, so many searches with their own randomness."""

    @field_validator("k")
    @classmethod
    def _maj_at_k_can_count_them(cls, k: int) -> int:
        if k > MOST_ATTEMPTS:
            raise ValueError(
                f"maj@k counts at most {MOST_ATTEMPTS:,} attempts a problem, got {k:,}"
            )
        return k

    @model_validator(mode="after")
    def _k_is_the_number_of_samples(self) -> "MethodSettings":
        if as_attempts := SAMPLERS.of(self.sampler).as_attempts:
            as_attempts(self.sampler, self.k)
        return self

    def look(self, world: Any) -> None:
        sampling = getattr(self.sampler, "sampling", None)
        if self.k > 1 and sampling is not None and sampling.temperature == 0:
            told = f"at temperature 0 all {self.k} attempts at a problem are about the same; one is"
            world.lack("k", f"{told} as good, or sample above 0", warning=True)


class EvaluateSettings(Settings):
    """Every method on every problem set."""

    problems: Result[Annotated[tuple[str, ...], Field(min_length=1)]]
    """Names of the problem sets."""
    methods: Result[Annotated[dict[Name, MethodSettings], Field(min_length=1)]]
    """Methods by name; the name is part of the keys in ``summary.json``."""
    clusters: Result[dict[str, str]] = Field(default_factory=dict)
    """Problem set -> the column that says which of its problems are alike (a year, a template),
    one of its ``columns.metadata``. ``interval`` and ``se`` then count clusters; comparisons and
    arms count problems."""
    token_logprobs: Resource[bool] = True
    """Whether attempts are stored with the log-probability of each token: 2 to 3 bytes a token on
    disk, beside 1 to 2 of text. ``butwait view`` shades texts by them."""
    shard_size: Resource[Annotated[int, Field(gt=0)]] = 64
    """Problems in one file of attempts."""
    concurrency: Resource[Concurrency] = 64
    """Problems in flight at a time, across files; ``auto``: as many as keep the engine's rows
    full."""

    @model_validator(mode="after")
    def _clusters_are_of_its_sets(self) -> "EvaluateSettings":
        others = [name for name in self.clusters if name not in self.problems]
        refuse_all(f"clusters names {name!r}, which is not among `problems`" for name in others)
        return self

"""Settings for every sampler in the registry (a test fails where one is missing)."""

from collections.abc import Callable
from dataclasses import dataclass

from search_toys import RULE

from butwait.engines.settings import StepRule
from butwait.search.samplers.beams import BeamSearchSettings, DVTSSettings, RebaseSettings
from butwait.search.samplers.but_wait import ButWaitSettings
from butwait.search.samplers.particle_filter import ParticleFilterSettings
from butwait.search.samplers.particle_gibbs import ParticleGibbsSettings
from butwait.search.samplers.power import PowerSettings
from butwait.search.samplers.samples import (
    BestOfNSettings,
    IndependentSettings,
    SelfConsistencySettings,
)
from butwait.search.samplers.tempering import TemperingSettings
from butwait.search.settings import SamplerSettings

PHRASE = "\nwait,"
SIZE = 8


@dataclass(frozen=True)
class SamplerCase:
    """One sampler.

    Attributes:
        name: of the case.
        make: (size, step rule) -> settings that extend at most ``size`` paths at a time.
        rewarded: whether it asks for rewards.
        extinct: whether it ends ``extinct`` where every reward is impossible.
        reopens: whether a path may go on from before its last end, by inserted text.
        sweeps: how often it sweeps from the root; then particle 0 may follow an older path, and a
            path may be scored that was not sampled.
        side_by_side: populations that are in flight at a time.
        power: of the policy's probabilities that tokens are drawn from. Where it is not 1, they
            are scored once more.
        rule: the step rule of the checks.
    """

    name: str
    make: Callable[[int, StepRule], SamplerSettings]
    rewarded: bool = True
    extinct: bool = True
    reopens: bool = False
    sweeps: int = 1
    side_by_side: int = 1
    power: float = 1.0
    rule: StepRule = RULE

    @property
    def settings(self) -> SamplerSettings:
        return self.make(SIZE, self.rule)


def _filtered(**chosen: object) -> Callable[[int, StepRule], SamplerSettings]:
    return lambda size, rule: ParticleFilterSettings(particles=size, step=rule, **chosen)


def _chained(**chosen: object) -> Callable[[int, StepRule], SamplerSettings]:
    return lambda size, rule: ParticleGibbsSettings(
        particles=max(2, size), iterations=3, step=rule, **chosen
    )


def _powered(**chosen: object) -> Callable[[int, StepRule], SamplerSettings]:
    return lambda size, rule: PowerSettings(particles=size, step=rule, **chosen)


def _ladder(size: int, rule: StepRule) -> SamplerSettings:
    return TemperingSettings(
        particles=max(2, size), alphas=(0.3, 1.0), iterations=3, burn_in=1, step=rule
    )


def _best(aggregation: str) -> Callable[[int, StepRule], SamplerSettings]:
    return lambda size, rule: BestOfNSettings(samples=size, step=rule, aggregation=aggregation)


def _beams(kind: type[BeamSearchSettings] | type[DVTSSettings], **chosen: object):
    return lambda size, rule: kind(beams=size, expansions=min(2, size), step=rule, **chosen)


CASES = [
    SamplerCase("particle_filter", _filtered()),
    SamplerCase("filter-always", _filtered(ess_threshold=1.01, resampling="residual")),
    SamplerCase("filter-schedule", _filtered(max_steps=2, alpha=[0.5, 1.0])),
    SamplerCase("its_hub", _filtered(preset="its_hub"), extinct=False),
    SamplerCase("its_hub-short", _filtered(preset="its_hub", max_steps=2), extinct=False),
    SamplerCase("particle_gibbs", _chained(), sweeps=3),
    SamplerCase(
        "gibbs-ancestors",
        _chained(ancestor_sampling=True, resampling="systematic", ess_threshold=1.01),
        sweeps=3,
    ),
    SamplerCase("gibbs-short", _chained(max_steps=2, burn_in=2), sweeps=3),
    SamplerCase("tempering", _ladder, sweeps=6, side_by_side=2),
    SamplerCase(
        "independent",
        lambda size, rule: IndependentSettings(samples=size, step=rule),
        rewarded=False,
    ),
    SamplerCase(
        "self_consistency",
        lambda size, rule: SelfConsistencySettings(samples=size, step=rule),
        rewarded=False,
    ),
    SamplerCase("best_of_n", _best("last")),
    SamplerCase("best_of_n-min", _best("min")),
    SamplerCase("best_of_n-prod", _best("prod")),
    SamplerCase("best_of_n-model", _best("model")),
    SamplerCase("power", _powered(), rewarded=False, power=4.0),
    SamplerCase("power-policy", _powered(proposal="policy", max_steps=2), rewarded=False),
    SamplerCase("beam_search", _beams(BeamSearchSettings)),
    SamplerCase("beam_search-short", _beams(BeamSearchSettings, max_steps=2)),
    SamplerCase("dvts", _beams(DVTSSettings)),
    SamplerCase("rebase", lambda size, rule: RebaseSettings(width=size, step=rule)),
    SamplerCase(
        "but_wait",
        lambda size, rule: ButWaitSettings(samples=size, step=rule, phrase=PHRASE, rounds=3),
        rewarded=False,
        reopens=True,
        rule=RULE.model_copy(update={"max_tokens": 24}),
    ),
]

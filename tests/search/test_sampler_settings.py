"""Sampler settings, as a recipe gives them."""

import pytest
from pydantic import TypeAdapter, ValidationError

from butwait.search.samplers.particle_filter import ParticleFilterSettings
from butwait.search.samplers.samples import BestOfNSettings
from butwait.search.settings import LinearAlpha, SamplerSettings

SAMPLER: TypeAdapter[SamplerSettings] = TypeAdapter(SamplerSettings)


def test_the_kind_chooses_the_settings() -> None:
    chosen = SAMPLER.validate_python({"kind": "best_of_n", "samples": 4, "alpha": 2})
    assert chosen == BestOfNSettings(samples=4, alpha=2.0)
    assert chosen.selection == "argmax"


@pytest.mark.parametrize(
    ("given", "alpha"),
    [
        (2, 2.0),
        ([0.5, 1], (0.5, 1.0)),
        ({"start": 0, "end": 1, "steps": 3}, LinearAlpha(start=0, end=1, steps=3)),
    ],
)
def test_alpha_takes_a_number_a_list_or_a_line(given, alpha) -> None:
    chosen = SAMPLER.validate_python({"kind": "particle_filter", "alpha": given})
    assert chosen.alpha == alpha
    assert SAMPLER.validate_json(SAMPLER.dump_json(chosen)) == chosen


def test_defaults_of_the_particle_filter() -> None:
    chosen = ParticleFilterSettings()
    assert (chosen.alpha, chosen.resampling, chosen.ess_threshold) == (1.0, "systematic", 0.5)
    assert (chosen.selection, chosen.max_steps) == ("weighted_vote", None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "particle_filter", "alpha": -1},
        {"kind": "particle_filter", "alpha": float("inf")},
        {"kind": "particle_filter", "alpha": []},
        {"kind": "particle_filter", "alpha": {"start": 0, "end": 1, "steps": 1}},
        {"kind": "particle_filter", "particles": 0},
        {"kind": "particle_filter", "resampling": "sometimes"},
        {"kind": "particle_filter", "partcles": 8},
        {"kind": "best_of_n", "aggregation": "mean"},
        {"kind": "self_consistency", "selection": "argmax"},
        {"kind": "beam"},
        {},
    ],
)
def test_mistakes_are_errors(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SAMPLER.validate_python(wrong)

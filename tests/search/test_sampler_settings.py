"""Sampler settings, as a recipe gives them."""

import asyncio

import pytest
from pydantic import TypeAdapter, ValidationError
from search_toys import PROBLEM, RULE, search, toy_engine

from butwait.records import Key
from butwait.records.settings import Settings
from butwait.search.run import run_sampler
from butwait.search.samplers.particle_filter import ParticleFilterSettings
from butwait.search.samplers.samples import BestOfNSettings, IndependentSettings
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
        {"kind": "particle_filter", "ess_threshold": float("inf")},
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


OWN = '''
from butwait.search.samplers.samples import IndependentSettings, independent
from butwait.search.settings import CommonSettings, Sampler, Unrewarded


class TwiceSettings(CommonSettings):
    """Twice as many plain samples as asked for."""

    selection: Unrewarded = "vote"
    pairs: int = 1


async def twice(problem, engine, reward_model, settings, key):
    plain = IndependentSettings(samples=2 * settings.pairs, step=settings.step)
    return await independent(problem, engine, reward_model, plain, key)


TWICE = Sampler(TwiceSettings, twice, needs_reward_model=False)
'''


def test_a_sampler_of_ones_own_is_named_by_its_place(tmp_path, monkeypatch) -> None:
    (tmp_path / "own_sampler.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    given = {"kind": "own_sampler:TWICE", "pairs": 3, "step": RULE.model_dump()}
    chosen = SAMPLER.validate_python(given)
    assert (chosen.kind, chosen.pairs, chosen.selection) == ("own_sampler:TWICE", 3, "vote")
    assert SAMPLER.validate_json(SAMPLER.dump_json(chosen)) == chosen
    tree = asyncio.run(run_sampler(PROBLEM, toy_engine(), None, chosen, Key.of(0)))
    plain = IndependentSettings(samples=6, step=RULE)
    assert tree.leaves.tolist() == search(plain, Key.of(0)).leaves.tolist()
    with pytest.raises(ValidationError, match="pears"):
        SAMPLER.validate_python(given | {"pears": 1})


def test_a_field_keeps_its_place_in_what_is_wrong() -> None:
    class Holder(Settings):
        sampler: SamplerSettings

    with pytest.raises(ValidationError) as caught:
        Holder.model_validate({"sampler": {"kind": "rebase", "step": {"max_tokens": 0}}})
    assert caught.value.errors()[0]["loc"] == ("sampler", "step", "max_tokens")
    with pytest.raises(ValidationError, match="'beam' is no kind of sampler"):
        Holder.model_validate({"sampler": {"kind": "beam"}})
    held = Holder.model_validate({"sampler": {"kind": "rebase", "width": 3}})
    assert held.model_dump()["sampler"]["width"] == 3

"""What a shell offers behind ``--set``."""

import pytest

from butwait.recipe.load import settable
from butwait.stages.kinds import STAGES

RECIPE = """
model: {name: tiny}
problems: {train: {source: arithmetic}}
stages:
  search:
    kind: search
    problems: train
    sampler: {kind: particle_filter, particles: 4}
  sft: {kind: sft, from: [search]}
"""


@pytest.fixture
def recipe(own_folder) -> str:
    (own_folder / "mine.yaml").write_text(RECIPE)
    return "mine.yaml"


@pytest.mark.parametrize(
    ("begun", "offered"),
    [
        ("mod", {"model.name=", "model.dtype=", "model.device="}),  # the only one is gone into
        ("stages.", {"stages.search.", "stages.sft."}),
        ("stages.search.sampler.part", {"stages.search.sampler.particles="}),
        ("stages.sft.learn", {"stages.sft.learning_rate="}),
        ("stages.sft.packing=", {"stages.sft.packing=true", "stages.sft.packing=false"}),
        ("model.dtype=b", {"model.dtype=bfloat16"}),
        ("engine.determ", {"engine.deterministic="}),
        ("s", {"seed=", "stages."}),
    ],
)
def test_keys_and_words_are_offered(recipe: str, begun: str, offered: set[str]) -> None:
    found = settable(recipe, begun, STAGES)
    assert offered <= set(found)
    assert len(set(found)) == len(found)
    assert all(one.startswith(begun) for one in found)


@pytest.mark.parametrize("begun", ["x", "stages.other.", "seed=", "model.name.x.y", "=", ".", ""])
def test_nothing_fails(recipe: str, begun: str) -> None:
    found = settable(recipe, begun, STAGES)
    assert bool(found) == (begun == "")


def test_a_recipe_that_cannot_be_read_has_the_keys_of_any(own_folder) -> None:
    (own_folder / "bad.yaml").write_text("model: [")
    for name in ("bad.yaml", "gone.yaml", ""):
        assert "model.name=" in settable(name, "model.", STAGES)


def test_a_shell_asks(recipe: str, command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_BUTWAIT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"butwait run {recipe} --set stages.search.sampler.pa")
    monkeypatch.setenv("COMP_CWORD", "4")
    code, out, _ = command()
    assert (code, out.split()) == (0, ["stages.search.sampler.particles="])

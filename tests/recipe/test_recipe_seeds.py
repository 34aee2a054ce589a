"""``seeds``: a stage that is written once and runs several times."""

from pathlib import Path

import pytest

from butwait.recipe.load import load_recipe
from butwait.recipe.recipe import Recipe
from butwait.recipe.seeds import with_copies
from butwait.records import UserError
from butwait.stages.kinds import STAGES

RECIPE = """
model: {name: tiny}
problems:
  train: {source: arithmetic, split: train}
  hunt: {source: arithmetic, split: search}
  test: {source: arithmetic, split: test}
stages:
  after: {kind: evaluate, from: [sft], problems: [test], methods: {sample: {k: 4}}}
  search: {kind: search, problems: hunt, sampler: {kind: particle_filter}}
  verified: {kind: verified, from: [search]}
  sft: {kind: sft, from: [verified], seeds: 2}
  looks: {kind: profile, from: [verified, after], sources: [verified, after]}
  report: {kind: report, from: [after]}
"""


def load(tmp_path: Path, text: str = RECIPE, *words: str) -> Recipe:
    (tmp_path / "mine.yaml").write_text(text)
    return load_recipe(str(tmp_path / "mine.yaml"), STAGES, words)


def test_a_stage_with_seeds_and_what_takes_from_it_are_written_out(tmp_path: Path) -> None:
    recipe = load(tmp_path)
    taken = {name: stage.from_ for name, stage in recipe.stages.items()}
    assert taken == {
        "after-1": ("sft-1",),
        "after-2": ("sft-2",),
        "search": (),
        "verified": ("search",),
        "sft-1": ("verified",),
        "sft-2": ("verified",),
        "looks": ("verified", "after-1", "after-2"),
        "report": ("after-1", "after-2"),
    }
    assert recipe.stages["looks"].sources == ("verified", "after-1", "after-2")
    assert {s.arm for s in recipe.stages.values()} == {None, "after", "sft"}
    assert recipe.stages["sft-1"] == recipe.stages["sft-2"]


def test_a_stage_has_the_same_settings_whatever_the_number_of_seeds(tmp_path: Path) -> None:
    """So that more seeds later do not repeat the first ones."""
    two, three = load(tmp_path), load(tmp_path, RECIPE, "stages.sft.seeds=3")
    assert {name: three.stages[name] for name in two.stages if name[-1] in "12"} == {
        name: stage for name, stage in two.stages.items() if name[-1] in "12"
    }
    assert "after-3" in three.stages


def test_one_seed_changes_nothing(tmp_path: Path) -> None:
    one = load(tmp_path, RECIPE, "stages.sft.seeds=1")
    assert one == load(tmp_path, RECIPE.replace(", seeds: 2", ""))
    assert "sft" in one.stages


def test_data_of_several_searches_pair_with_them_number_by_number(tmp_path: Path) -> None:
    text = RECIPE.replace("problems: hunt, sampler", "problems: hunt, seeds: 2, sampler").replace(
        "kind: verified, from: [search]",
        "kind: verified, from: [search], subset: {solved_by: search}",
    )
    recipe = load(tmp_path, text)
    assert recipe.stages["verified-2"].subset.solved_by == "search-2"
    assert recipe.stages["sft-2"].from_ == ("verified-2",)
    assert recipe.stages["looks"].sources == ("verified-1", "verified-2", "after-1", "after-2")


def test_a_written_out_recipe_is_left_as_it_is(tmp_path: Path) -> None:
    written = load(tmp_path).model_dump(by_alias=True, mode="json")
    assert with_copies(written, STAGES) is written


MISTAKES = [
    ("seeds: 2", "seeds: two", "`stages.sft.seeds` must be a whole number, not 'two'"),
    ("seeds: 2", "seeds: 0", "`stages.sft.seeds` must be greater than 0, not 0"),
    ("seeds: 2", "seeds: 2, epochs: x", "`stages.sft.epochs` must be a number, not 'x'"),
    ("seeds: 2", "seeds: 2, eposch: 1", "unknown key `stages.sft.eposch`"),
    (
        "problems: [test],",
        "problems: test,",
        "`stages.after.problems` must be a list of texts, not 'test'",
    ),
    ("from: [sft]", "from: sft", "`stages.after.from` must be a list of texts, not 'sft'"),
    ("report: {", "report: {seeds: 2, ", "stage 'report' (report) looks at all seeds"),
    ("report: {", "sft-1: {", "`seeds` of 'sft' makes a stage 'sft-1', which there is"),
    (
        "problems: hunt, sampler",
        "problems: hunt, seeds: 3, sampler",
        "stage 'sft' cannot pair the seeds it takes from: 'verified' has 3, 'sft' has 2",
    ),
    ("problems: hunt", "problems: hunt, from: [sft]", "these stages take from each other"),
]


@pytest.mark.parametrize(("old", "new", "sentence"), MISTAKES, ids=[m[2] for m in MISTAKES])
def test_a_mistake_is_one_clear_sentence(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert old in RECIPE
    with pytest.raises(UserError) as error:
        load(tmp_path, RECIPE.replace(old, new))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)

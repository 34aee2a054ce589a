import subprocess
import sys
from pathlib import Path

import pytest

from butwait.recipe.load import load_recipe, shipped_recipes
from butwait.records import UserError

ROOT = Path(__file__).parents[2]

MINIMAL = """
model: {name: tiny}
problems:
  train: {source: arithmetic, split: train}
  hunt: {source: arithmetic, split: search}
  test: {source: arithmetic, split: test}
stages:
  after: {kind: evaluate, from: [sft], problems: [test], methods: {sample: {k: 4}}}
  prm: {kind: prm, problems: train}
  search:
    kind: search
    from: [prm]
    problems: hunt
    sampler: {kind: particle_filter, particles: 8}
  verified: {kind: verified, from: [search]}
  sft: {kind: sft, from: [verified]}
  report: {kind: report}
"""


def write(tmp_path: Path, text: str = MINIMAL) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_stages_run_after_what_they_take_from_whatever_the_order_they_are_written_in(
    tmp_path: Path,
) -> None:
    recipe = load_recipe(write(tmp_path))
    assert recipe.name == "mine"
    assert recipe.order() == ["prm", "search", "verified", "sft", "after", "report"]
    assert recipe.inputs("after", "model") == ["sft"]
    assert set(recipe.sources("report")) == {"after", "prm", "search", "verified", "sft"}


def test_overrides_reach_nested_keys(tmp_path: Path) -> None:
    words = ["seed=3", "stages.search.sampler.particles=2", "stages.sft.lora={rank: 4}"]
    recipe = load_recipe(write(tmp_path), words)
    assert recipe.seed == 3
    assert recipe.stages["search"].sampler.particles == 2
    assert recipe.stages["sft"].lora.rank == 4


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_is_valid_and_says_what_it_is(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.stages
    assert shipped_recipes()[name].read_text().startswith("# ")


def test_a_recipe_is_parsed_without_torch() -> None:
    script = (
        "import sys; from butwait.recipe.load import load_recipe; load_recipe('quickstart')\n"
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


SEARCH, SFT = "stages.search.sampler", "kind: sft, from: [verified]"
MISTAKES = [
    ("particles: 8", "particels: 8", f"unknown key `{SEARCH}.particels`"),
    ("model: {name", "modle: {name", "`model`: field required"),
    ("kind: sft", "kind: stf", "`stages.sft`: input tag 'stf' found using 'kind'"),
    ("particles: 8", "particles: -1", f"`{SEARCH}.particles`: input should be greater than 0"),
    (SFT, "kind: sft, from: [verifeid]", "takes from 'verifeid', which is no stage"),
    (SFT, "kind: sft, from: [prm]", "cannot take from 'prm', which gives reward model"),
    (SFT, "kind: sft", "'sft' (sft) needs a stage that gives data"),
    ("kind: verified, from: [search]", "kind: verified", "needs a stage that gives trees"),
    ("kind: prm,", "kind: prm, from: [sft],", "these stages take from each other"),
    ("problems: hunt", "problems: hnut", "the problem set 'hnut', which `problems` lacks"),
    ("problems: hunt", "problems: test", "'test' is used for evaluation and for training"),
    ("  verified:", "  veri/fied:", "may hold letters, digits, - and _ only"),
    (MINIMAL, "- a\n- b\n", "holds no recipe"),
    (MINIMAL, "model: {name: tiny", "is not valid YAML"),
]


@pytest.mark.parametrize(("old", "new", "sentence"), MISTAKES, ids=[m[2] for m in MISTAKES])
def test_a_mistake_is_one_clear_sentence(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert old in MINIMAL
    with pytest.raises(UserError) as error:
        load_recipe(write(tmp_path, MINIMAL.replace(old, new)))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_recipe_names_those_that_ship() -> None:
    with pytest.raises(UserError, match=r"there is no recipe 'quikstart'.*quickstart"):
        load_recipe("quikstart")


@pytest.mark.parametrize("word", ["seed", "=3", "stages.search.sampler.particles.x=1", "seed={"])
def test_a_bad_override_is_one_clear_sentence(tmp_path: Path, word: str) -> None:
    with pytest.raises(UserError, match="--set"):
        load_recipe(write(tmp_path), [word])

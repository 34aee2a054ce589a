import subprocess
import sys
from pathlib import Path

import pytest

from butwait.recipe.load import load_recipe, shipped_recipes
from butwait.records import UserError
from butwait.stages.kinds import STAGES

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
    recipe = load_recipe(write(tmp_path), STAGES)
    assert recipe.name == "mine"
    assert recipe.order() == ["prm", "search", "verified", "sft", "after", "report"]
    assert recipe.inputs("after", "model") == ["sft"]
    assert set(recipe.sources("report")) == {"after", "prm", "search", "verified", "sft"}


def test_overrides_reach_nested_keys(tmp_path: Path) -> None:
    words = ["seed=3", "stages.search.sampler.particles=2", "stages.sft.lora={rank: 4}"]
    recipe = load_recipe(write(tmp_path), STAGES, words)
    assert recipe.seed == 3
    assert recipe.stages["search"].sampler.particles == 2
    assert recipe.stages["sft"].lora.rank == 4


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_is_valid_and_says_what_it_is(name: str) -> None:
    recipe = load_recipe(name, STAGES)
    assert recipe.stages
    assert shipped_recipes()[name].read_text().startswith("# ")


def test_a_recipe_is_parsed_without_torch() -> None:
    script = (
        "import sys; from butwait.recipe.load import load_recipe\n"
        "from butwait.stages.kinds import STAGES; load_recipe('quickstart', STAGES)\n"
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


SEARCH, SFT = "stages.search.sampler", "kind: sft, from: [verified]"
MISTAKES = [
    ("particles: 8", "particels: 8", f"unknown key `{SEARCH}.particels`"),
    ("model: {name", "modle: {name", "unknown key `modle`; did you mean model?"),
    ("kind: sft", "kind: stf", "`stages.sft`: 'stf' is no kind of stage; did you mean sft?"),
    ("particles: 8", "particles: -1", f"`{SEARCH}.particles` must be greater than 0, not -1"),
    (SFT, "kind: sft, from: [verifeid]", "takes from 'verifeid', which is no stage"),
    (SFT, "kind: sft, from: [prm]", "cannot take from 'prm', which gives reward model"),
    (SFT, "kind: sft", "'sft' (sft) needs a stage that gives data"),
    ("kind: verified, from: [search]", "kind: verified", "needs a stage that gives trees"),
    ("kind: prm,", "kind: prm, from: [sft],", "these stages take from each other"),
    ("problems: hunt", "problems: hnut", "the problem set 'hnut', which `problems` lacks"),
    ("problems: hunt", "problems: test", "'test' is used for evaluation and for training"),
    ("  report:", "  rep/ort:", "may hold letters, digits, - and _ only"),
    (MINIMAL, "- a\n- b\n", "holds no recipe"),
    (MINIMAL, "model: {name: tiny", "mine.yaml:1: the { that opens here is not closed"),
]


@pytest.mark.parametrize(("old", "new", "sentence"), MISTAKES, ids=[m[2] for m in MISTAKES])
def test_a_mistake_is_one_clear_sentence(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert old in MINIMAL
    with pytest.raises(UserError) as error:
        load_recipe(write(tmp_path, MINIMAL.replace(old, new)), STAGES)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_recipe_names_those_that_ship() -> None:
    with pytest.raises(UserError, match=r"there is no recipe 'quikstart'.*quickstart"):
        load_recipe("quikstart", STAGES)


@pytest.mark.parametrize("word", ["seed", "=3", "stages.search.sampler.particles.x=1", "seed={"])
def test_a_bad_override_is_one_clear_sentence(tmp_path: Path, word: str) -> None:
    with pytest.raises(UserError, match="--set"):
        load_recipe(write(tmp_path), STAGES, [word])


def test_a_recipe_takes_another_one_as_its_beginning(tmp_path: Path) -> None:
    parent = write(tmp_path)
    child = tmp_path / "child.yaml"
    child.write_text(
        f"extends: {parent}\n"
        "stages:\n"
        "  search: {sampler: {particles: 2}}\n"
        "  report: {from: [after]}\n"
        "  more: {kind: sft, from: [verified]}\n"
    )
    before, recipe = load_recipe(parent, STAGES), load_recipe(str(child), STAGES, ["seed=7"])
    assert (before.name, recipe.name, recipe.seed) == ("mine", "child", 7)
    assert recipe.stages["search"].sampler.particles == 2
    assert recipe.stages["search"].problems == "hunt"
    assert recipe.stages["report"].from_ == ("after",)
    assert set(recipe.stages) - set(before.stages) == {"more"}
    assert recipe.stages["prm"] == before.stages["prm"]


def test_of_several_beginnings_the_later_wins(tmp_path: Path) -> None:
    write(tmp_path)
    for name, seed in (("one", 1), ("two", 2)):
        text = f"extends: {tmp_path}/mine.yaml\nseed: {seed}\nthreads: {seed}\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    both = tmp_path / "both.yaml"
    both.write_text(f"extends: [{tmp_path}/one.yaml, {tmp_path}/two.yaml]\nthreads: 3\n")
    recipe = load_recipe(str(both), STAGES)
    assert (recipe.name, recipe.seed, recipe.threads) == ("both", 2, 3)


def test_beginnings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(f"extends: {two}\n")
    two.write_text(f"extends: {one}\n")
    with pytest.raises(UserError, match=r"one\.yaml extends itself \(by way of .*two\.yaml\)"):
        load_recipe(str(one), STAGES)
    one.write_text("extends: no_such_recipe\n")
    with pytest.raises(UserError, match="there is no recipe 'no_such_recipe'"):
        load_recipe(str(one), STAGES)
    one.write_text("extends: {a: b}\n")
    with pytest.raises(UserError, match="`extends` must name a recipe, or a list of them"):
        load_recipe(str(one), STAGES)


def test_recipes_in_folders_are_found_by_their_path() -> None:
    assert {"quickstart", "limo_sft/phi4"} <= set(shipped_recipes())
    assert load_recipe("limo_sft/phi4", STAGES).name == "limo_sft_phi4"


@pytest.mark.parametrize(
    ("sft", "allowed"),
    [
        ("keep_epochs: true, epochs: 3", True),
        ("keep_epochs: true, epochs: 2", False),
        ("keep_epochs: true, epochs: 3, max_steps: 9", False),
        ("keep_epochs: true, epochs: 3, validation: {share: 0.5}", True),
        ("keep_epochs: true, epochs: 3, validation: {share: 0.5, patience: 2}", False),
        ("epochs: 3", False),
    ],
)
def test_an_evaluation_may_name_an_epoch_that_is_kept(
    tmp_path: Path, sft: str, allowed: bool
) -> None:
    text = MINIMAL.replace("from: [sft], problems", "from: [sft], checkpoint: 3, problems")
    path = write(tmp_path, text.replace(SFT, f"{SFT}, {sft}"))
    if allowed:
        assert load_recipe(path, STAGES).stages["after"].checkpoint == 3
    else:
        with pytest.raises(UserError, match="checkpoint: 3 needs an sft stage in `from` with keep"):
            load_recipe(path, STAGES)


PUBLISHED = "stages.report.published={%s: {%s}}"
SAID = "pass_at_1: 0.1917, source: there"


def test_published_figures_stand_beside_an_evaluation_of_the_report(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path), STAGES, [PUBLISHED % ("after/test/sample", SAID)])
    figure = recipe.stages["report"].published["after/test/sample"]
    assert (figure.pass_at_1, figure.source) == (0.1917, "there")
    # An arm's name stands for its seeds.
    words = ["stages.sft.seeds=2", PUBLISHED % ("after/test/sample", SAID)]
    assert load_recipe(write(tmp_path), STAGES, words).stages["report"].published


@pytest.mark.parametrize(
    ("key", "figure", "says"),
    [
        (
            "after/test/greedy",
            SAID,
            "published names 'after/test/greedy', which",
        ),
        ("sft", SAID, "it reports: after/test/sample"),
        ("after/test/sample", "pass_at_1: 19.17, source: there", r"must be at most 1, not 19\.17"),
        ("after/test/sample", "source: there", "give pass_at_1, pass_at_k or both"),
        ("after/test/sample", "pass_at_1: 0.2", "published.after/test/sample.source"),
    ],
)
def test_published_figures_that_cannot_stand(
    key: str, figure: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=says):
        load_recipe(write(tmp_path), STAGES, [PUBLISHED % (key, figure)])

"""Where the paths of a recipe begin, and what is said of one that leads nowhere."""

import re
from pathlib import Path

import pytest

from butwait.pipeline.preflight import check_sets, look_around
from butwait.pipeline.run import run_recipe
from butwait.recipe.load import checked_recipe, load_recipe, read_recipe, settable
from butwait.records import UserError
from butwait.running.files import expanded
from butwait.running.plugins import beside_recipe, load_function
from butwait.stages.kinds import STAGES

RECIPE = """model: {name: tiny}
seed: 3
problems:
  train: {source: arithmetic, limit: 5}
  test: {source: arithmetic, split: test, limit: 5}
stages:
  base: {kind: evaluate, problems: [test], methods: {sample: {k: 4}}}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("far/below", "near"):
        (tmp_path / name).mkdir(parents=True)


def told(recipe: str, *words: str) -> str:
    with pytest.raises(UserError) as error:
        load_recipe(recipe, STAGES, words)
    return str(error.value)


def test_what_is_extended_is_found_from_the_folder_of_the_recipe_that_says_so() -> None:
    Path("far/below/base.yaml").write_text(RECIPE)
    Path("far/middle.yaml").write_text("extends: below/base.yaml\nthreads: 2\n")
    Path("near/mine.yaml").write_text("extends: [quickstart, ../far/middle.yaml]\n")
    recipe = load_recipe("near/mine.yaml", STAGES)
    assert (recipe.name, recipe.seed, recipe.threads) == ("mine", 3, 2)
    assert "hunt" in recipe.stages  # of the recipe that ships
    given = {"name": "given", "extends": "far/middle.yaml"}  # by a program, from where it runs
    assert checked_recipe(given, STAGES, "it").threads == 2


def test_a_file_in_the_current_folder_does_not_hide_a_recipe_that_ships() -> None:
    Path("quickstart").write_text("no recipe")
    Path("near/mine.yaml").write_text("extends: quickstart\n")
    assert "hunt" in load_recipe("near/mine.yaml", STAGES).stages


def test_a_path_from_the_current_folder_is_told_what_to_write() -> None:
    Path("far/base.yaml").write_text(RECIPE)
    Path("near/mine.yaml").write_text("seed: 1\nextends: far/base.yaml\n")
    assert told("near/mine.yaml") == (
        "near/mine.yaml:2: `extends`: there is no 'far/base.yaml' where this recipe is, from "
        "whose folder a path is taken; write '../far/base.yaml'"
    )


def test_recipes_that_extend_each_other_from_other_folders_end() -> None:
    Path("near/one.yaml").write_text("extends: ../far/two.yaml\n")
    Path("far/two.yaml").write_text("extends: ../near/one.yaml\n")
    assert "one.yaml extends itself (by way of near/../far/two.yaml)" in told("near/one.yaml")


@pytest.mark.parametrize("word", ["extends=quickstart", "extends=", "extends.0=quickstart"])
def test_extends_is_no_word(word: str) -> None:
    Path("mine.yaml").write_text(RECIPE)
    says = f"--set {word}: `extends` is a word of a recipe's file alone; write it there"
    assert told("mine.yaml", word) == says
    assert settable("mine.yaml", "ext", STAGES) == []


def test_modules_are_found_beside_what_is_extended() -> None:
    Path("far/judge_of_far.py").write_text("def judge(question, answer, metadata): return 1.0\n")
    Path("far/base.yaml").write_text(RECIPE)
    Path("near/mine.yaml").write_text("extends: ../far/base.yaml\n")
    load_recipe("near/mine.yaml", STAGES)
    assert load_function("judge_of_far:judge", "it")("", None, {}) == 1.0


PLACES = [
    ("tiny", "there is no model './them'", "model.name={}"),
    (
        "problems",
        "'./them' is no folder, and no id that the hub could have",
        "problems.train.source={}",
    ),
    ("file", "the problem file them.csv does not exist", "problems.train.source={}"),
    ("phrases", "there is no file './them'", "stages.data.phrases={}"),
    ("launch", "there is no file './them'", "stages.sft.launch.config={}"),
]
MORE = """  hunt: {kind: search, problems: train, sampler: {kind: self_consistency}}
  data: {kind: stitch, from: [hunt]}
  sft: {kind: sft, from: [data], launch: {processes: 2}}
"""


@pytest.mark.parametrize(("what", "says", "word"), PLACES, ids=[case[0] for case in PLACES])
def test_a_path_that_was_meant_from_the_recipes_folder(what: str, says: str, word: str) -> None:
    name = "them.csv" if what == "file" else "./them"
    Path("near/mine.yaml").write_text(RECIPE + MORE)
    lacking = _told_of(word.format(name))
    assert says in lacking
    assert "current folder" not in lacking
    (Path("near") / name).write_text("")
    assert beside_recipe("") == beside_recipe("near") == beside_recipe("nowhere") == ""
    hint = r"; a path is taken from the current folder: write 'near/(\./)?them(\.csv)?'"
    assert re.search(re.escape(says) + f".*{hint}", _told_of(word.format(name)))


@pytest.mark.parametrize("what", ["tiny", "problems", "phrases", "launch"])
def test_the_home_of_somebody_who_is_not_there_is_a_path_that_leads_nowhere(what: str) -> None:
    Path("near/mine.yaml").write_text(RECIPE + MORE)
    word = next(word for name, _, word in PLACES if name == what)
    assert "~nobody_here/them" in _told_of(word.format("~nobody_here/them"))


BLANK = """problems:
  base: {source: near/base.csv}
  hunt: {source: near/hunt.csv}
  judge: {source: near/judge.csv}
  loop: {source: near/loop.csv}
stages:
  judge: {kind: prm, problems: judge}
  base: {kind: evaluate, problems: [base], methods: {sample: {k: 4}}}
  hunt: {kind: search, problems: hunt, from: [judge], sampler: {kind: particle_filter}}
  verified: {kind: verified, from: [hunt]}
  back: {kind: backtrack, from: [hunt]}
  loop: {kind: grpo, problems: loop}
"""


@pytest.mark.parametrize("stored", [False, True], ids=["check", "run"])
def test_blank_answers_are_told_of_every_stage_before_anything_runs(stored: bool) -> None:
    sets = ("base", "hunt", "judge", "loop")
    for name in sets:
        rows = f"question,answer\n{name} one?,1\n{name} two?,\n{name} three?,$$\n"
        (Path("near") / f"{name}.csv").write_text(rows)
    Path("near/mine.yaml").write_text("model: {name: tiny}\n" + BLANK)
    recipe, where = read_recipe("near/mine.yaml", STAGES)
    if stored:
        with pytest.raises(UserError) as error:
            run_recipe(recipe, Path("run"), where)
        found = str(error.value)
        assert not [name for name in recipe.stages if (Path("run") / name).exists()]
    else:
        found = _told_of("seed=1")
    lines = sorted(line for line in found.splitlines() if "no gold answer" in line)
    assert lines == [
        f"near/mine.yaml:{line}: near/{name}.csv: 2 of 3 problems have no gold answer: row 2 "
        "(line 3), row 3 (line 4); mend it, or set drop_unanswered: true (a verifier needs none)"
        for line, name in enumerate(sets, 3)
    ]


def test_homes() -> None:
    assert expanded("~/them") == Path.home() / "them"
    assert expanded("~nobody_here/them") == Path("~nobody_here/them")
    assert expanded("~\0") == Path("~\0")


def _told_of(word: str) -> str:
    """What `butwait check` says."""
    try:
        recipe, where = read_recipe("near/mine.yaml", STAGES, [word])
    except UserError as error:
        return str(error)
    sets, problems = check_sets(recipe, where)
    return "\n".join(
        [*sets.mistakes, *look_around(recipe, recipe.order(), problems, where).mistakes]
    )

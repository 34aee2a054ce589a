"""All mistakes of a recipe's text, each with its line, in plain words."""

import subprocess
import sys
from pathlib import Path

import pytest

from butwait.recipe.load import load_recipe, read_recipe
from butwait.records import UserError
from butwait.stages.kinds import STAGES

RECIPE = """model: {name: tiny}
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
LIBRARY = (
    "discriminator",
    "valid tuple",
    "input should be",
    "validation",
    "Input should",
    "pydantic",
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def mistakes(text: str, *words: str) -> list[str]:
    """The lines that are told of a recipe."""
    Path("mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        load_recipe("mine.yaml", STAGES, words)
    lines = str(error.value).split("\n")
    for line in lines:
        assert line.isprintable()
        assert not [phrase for phrase in LIBRARY if phrase in line]
    return lines


S = "stages.search.sampler"
ONE = [
    (
        "particles: 8",
        "alpha: x",
        f"13: `{S}.alpha` must be a number, a list of numbers or a mapping",
    ),
    ("particles: 8", "alpha: [1, x]", f"13: `{S}.alpha.1` must be a number, not 'x'"),
    ("particles: 8", "alpha: {start: 1, end: 2}", f"13: `{S}.alpha.steps` is missing"),
    ("particles: 8", "particles: true", f"13: `{S}.particles` must be a whole number, not true"),
    ("particles: 8", "particles: 1.5", f"13: `{S}.particles` must be a whole number, not 1.5"),
    ("particles: 8", "particles:", f"13: `{S}.particles` must be a whole number, and it is empty"),
    ("particles: 8", "particles: 0", f"13: `{S}.particles` must be greater than 0, not 0"),
    (
        "particles: 8",
        "ess_threshold: -0.1",
        f"13: `{S}.ess_threshold` must be at least 0, not -0.1",
    ),
    (
        "particles: 8",
        "resampling: systemtic",
        f"13: `{S}.resampling` must be systematic, multinomial, stratified or residual, not "
        "'systemtic'; did you mean systematic?",
    ),
    (
        "particles: 8",
        'step: {delimiters: "x"}',
        f"13: `{S}.step.delimiters` must be a list of texts, not 'x': put it in [ ]",
    ),
    ("particles: 8", "Particles: 8", f"13: unknown key `{S}.Particles`; did you mean particles?"),
    (
        "kind: particle_filter",
        "kind: partcle_filter",
        f"13: `{S}`: 'partcle_filter' is no kind of sampler; did you",
    ),
    (
        "{kind: particle_filter, particles: 8}",
        "beam",
        f"13: `{S}`: say which kind of sampler it is",
    ),
    (
        "name: tiny",
        "name: yes",
        "1: `model.name` must be text, and YAML reads yes as true: put it in",
    ),
    ("name: tiny", "name: 7", "1: `model.name` must be text, and YAML reads 7 as a number: put"),
    (
        "name: tiny",
        "name: tiny, revision: 2024-07-26",
        "1: `model.revision` must be text, and YAML reads 2024-07-26 as a date: put it in quotes",
    ),
    ("{name: tiny}", "tiny", "1: `model` must be a mapping, not 'tiny'"),
    ("model:", "Modell:", "1: unknown key `Modell`; did you mean model?"),
    ("model: {name: tiny}", "seed: 1", "1: `model` is missing"),
    ("methods: {sample:", "methods: {no:", "7: `stages.after.methods`: the key false must be text"),
    ("methods: {sample:", "methods: {a b:", "7: `stages.after.methods.a b`: this name holds"),
    ("methods: {sample: {k: 4}}", "methods: {}", "7: `stages.after.methods` must not be empty"),
    ("from: [sft]", "from: [stf]", "takes from 'stf', which is no stage (there are: after, prm"),
    ("problems: [test]", "problems: [tset]", "7: stage 'after' uses the problem set 'tset', which"),
    (
        "problems: train",
        "problems: hunt, heldout: 1",
        "8: `stages.prm.heldout` must be less than 1",
    ),
    (
        "train: {",
        "train: {subset: x, ",
        "3: `problems.train`: subset has no meaning for the source",
    ),
    ("kind: sft,", "kind: sft, lora: 1,", "15: `stages.sft.lora` must be a mapping, not 1"),
    (
        "kind: verified,",
        "kind: verified, subset: {solve_rate: [1]},",
        "subset.solve_rate.1` is missi",
    ),
    (
        "model: {name: tiny}",
        "model: {name: tiny}\nprompt: {template: {question}}",
        "2: `prompt.template` must be text, not a mapping: put a text that begins with { in quotes",
    ),
]


@pytest.mark.parametrize(("old", "new", "told"), ONE, ids=[case[1] for case in ONE])
def test_a_mistake_is_one_line_that_names_its_place(old: str, new: str, told: str) -> None:
    assert old in RECIPE
    (line,) = mistakes(RECIPE.replace(old, new, 1))
    assert line.startswith("mine.yaml:")
    assert told in line


YAML = [
    ('a: "x\nb: 1\n', "1: the quote that begins here is not closed"),
    ("a:\n\t- b\n", "2: a tab stands where YAML takes only spaces"),
    ("a: b: c\n", "1: a `: ` stands where no key can be"),
    ("a: 1\n  b: 2\n", "2: a `: ` stands where no key can be"),
    ("a: {b: 1\nc: 2\n", "1: the { that opens here is not closed"),
    ("x: 1\na: [1, 2\n", "2: the [ that opens here is not closed"),
    ("a: &step 1\nb: *stpe\n", "2: *stpe names no anchor above it; did you mean step?"),
    ("a: &x 1\nb: &x 2\n", "2: the anchor &x stands twice"),
    ("a: &x {b: *x}\n", "1: an anchor's value holds itself"),
    ('a: "\\q"\n', "1: in double quotes \\q means nothing"),
    ("a: !foo b\n", "1: recipes have no values with the tag !foo"),
    ("a: @b\n", "1: a value cannot begin with @: put it in quotes"),
    ("a: 1\n---\nb: 2\n", "2: a second document begins with ---"),
    ("a: 1\nb: \x00\n", "2: this line holds a character that YAML does not take (U+0000)"),
    ("a: " + "[" * 5000, "1: values are nested too deeply"),
    ("? {a: 1}\n: 2\n", "1: a key must be a single word or text"),
    ("", "holds no recipe"),
    ("3", "holds no recipe"),
]


@pytest.mark.parametrize(("text", "told"), YAML, ids=[repr(case[0][:20]) for case in YAML])
def test_text_that_is_no_yaml_is_explained(text: str, told: str) -> None:
    assert told in mistakes(text)[0]


READ_OTHERWISE = [
    ("seed: 010", "2: YAML reads 010 as the octal number 8"),
    ("seed: 12:30", "2: YAML reads 12:30 as a number to the base 60"),
    ("threads: .nan", "2: .nan is no number that a setting could have"),
    ("prompt: {date: 2024-13-45}", "2: 2024-13-45 looks like a date and cannot be one"),
    (f"seed: {'9' * 5000}", "looks like a whole number and cannot be one"),
    ("seed: 1\nseed: 2", "3: the key `seed` stands twice, first in line 2"),
    (
        'prompt: {template: "{question} \\boxed{}"}',
        "2: in double quotes \\b is a control character",
    ),
    ('prompt: {system: "\\ud800"}', "2: this text holds half a character"),
]


@pytest.mark.parametrize(
    ("more", "told"), READ_OTHERWISE, ids=[case[1][:30] for case in READ_OTHERWISE]
)
def test_what_yaml_reads_otherwise_than_it_looks_is_told_with_all_else(
    more: str, told: str
) -> None:
    text = RECIPE.replace("\nproblems:", f"\n{more}\nproblems:", 1)
    (line,) = mistakes(text)
    assert told in line
    both = mistakes(text.replace("particles: 8", "particels: 8"))
    assert both[0] == line
    assert "did you mean particles?" in both[1]


def test_all_mistakes_are_told_in_the_order_of_their_lines() -> None:
    text = RECIPE
    for old, new in (
        ("source: arithmetic, split: train", "sorce: arithmetic"),
        ("problems: train}", "problems: tarin}"),
        ("particles: 8", "particels: 8, alpha: x"),
        ("from: [verified]", "from: [verifeid]"),
        ("kind: report", "kind: reprot"),
    ):
        text = text.replace(old, new)
    lines = mistakes(text)
    assert [line.split(":")[1] for line in lines] == ["3", "8", "13", "13", "15", "16"]
    assert "did you mean source?" in lines[0]
    assert "did you mean verified?" in lines[4]
    # The search is there, though it is not valid.
    assert not [line for line in lines if "'search', which is no stage" in line]


def test_what_does_not_fit_between_stages_and_inside_of_settings_is_told_whole() -> None:
    own = RECIPE.replace(
        "  report: ",
        """  own: {kind: verified, from: [search], subset: {solved_by: sft, same_questions_as: prm,
    solve_rate: [0.9, 0.1], length: [1, 0]}}
  looks: {kind: profile, from: [search, after], sources: [sft, hunt, hunt]}
  rl: {kind: grpo, problems: hunt, questions: 3, group: 5, plateau: {signal: accuracy},
    reward: {overlong_tokens: 9}, step: {max_tokens: 8}}
  report: """,
    )
    told = "\n".join(mistakes(own))
    for sentence in (
        "`stages.own.subset.solve_rate`: the first bound must not be above",
        "`stages.own.subset.length`: the first bound must not be above",
        "stage 'looks' takes from 'search', which its `sources` lack",
        "stage 'looks' takes from 'after', which its `sources` lack",
        "stage 'looks': the source 'sft' is a stage; add it",
        "stage 'looks': sources names one twice ('hunt')",
        "`stages.rl`: questions x group (15) must be a multiple",
        "`stages.rl`: plateau.signal: accuracy needs `selection`",
        "`stages.rl`: reward.overlong_tokens (9) must not exceed",
    ):
        assert sentence in told, told
    told = "\n".join(mistakes(own.replace("[0.9, 0.1], length: [1, 0]", "[0, 1]")))
    assert "subset.solved_by names 'sft', which is no search stage" in told
    assert "subset.same_questions_as names 'prm', which is no data stage" in told


def test_a_mistake_of_a_stage_with_seeds_or_of_an_anchor_is_told_once() -> None:
    seeds = mistakes(RECIPE.replace("kind: sft,", "kind: sft, seeds: 3, epochs: x,"))
    assert seeds == ["mine.yaml:15: `stages.sft.epochs` must be a number, not 'x'"]
    anchored = RECIPE.replace("sample: {k: 4}", "a: &m {k: 0}, b: *m")
    assert len(mistakes(anchored)) == 2  # two methods, two names


def test_lines_are_those_of_the_file_that_says_so() -> None:
    Path("below.yaml").write_text(RECIPE.replace("particles: 8", "particels: 8"))
    lines = mistakes("extends: below.yaml\nstages:\n  sft: {epochs: 0}\n")
    assert lines == [
        f"below.yaml:13: unknown key `{S}.particels`; did you mean particles?",
        "mine.yaml:3: `stages.sft.epochs` must be greater than 0, not 0",
    ]
    assert mistakes("\nextends: [belwo.yaml]\n")[0].startswith(
        "mine.yaml:2: `extends`: there is no"
    )


WORDS = [
    (f"{S}.particles=-1", "must be greater than 0"),
    (f"{S}.particels=1", "did you mean particles?"),
    ("stages.sft.from=[prm]", "cannot take from 'prm'"),
    ("stages.after.checkpoint=2", "needs an sft stage"),
    ("problems.hunt=null", "must be a mapping, and it is empty"),
    ("stages.sft.epochs.x=1", None),
    ("seed", "not of the form a.b=c"),
    ("seed={", "is not a YAML value"),
    ("seed=010", "octal"),
    ("model.name=", "must be text, and it is empty"),
    ("problems.more={source: arithmetic, split: train, limit: 0}", "must be greater than 0"),
]


@pytest.mark.parametrize(("word", "told"), WORDS, ids=[case[0] for case in WORDS])
def test_a_wrong_word_is_blamed_and_no_line(word: str, told: str | None) -> None:
    lines = mistakes(RECIPE, "threads=1", word)
    assert len(lines) == 1
    assert lines[0].startswith(f"--set {word}: ")
    assert told is None or told in lines[0]


def test_a_line_is_not_blamed_on_a_word() -> None:
    lines = mistakes(
        RECIPE.replace("particles: 8", "particles: 0"), "seed=3", "stages.sft.epochs=0"
    )
    assert [line.partition(":")[0] for line in lines] == ["mine.yaml", "--set stages.sft.epochs=0"]


def test_places_of_a_valid_recipe_are_kept() -> None:
    Path("mine.yaml").write_text(RECIPE.replace("kind: sft,", "kind: sft, seeds: 2,"))
    recipe, where = read_recipe("mine.yaml", STAGES, ["stages.prm.heldout=0.5"])
    assert "sft-2" in recipe.stages
    assert where(("stages", "sft-2", "from", 0)) == "mine.yaml:15"
    assert where(("stages", "prm", "heldout")) == "--set stages.prm.heldout=0.5"
    assert where(("stages", "search", "sampler", "particles")) == "mine.yaml:13"


def test_merged_mappings_and_anchors_are_as_yaml_has_them() -> None:
    import yaml

    from butwait.recipe.written import parse_written

    text = "a: &a {x: 1, y: [1, 2]}\nb: {<<: *a, y: 3}\nc: {<<: [{x: 0}, *a], z: *a}\nd: !!str 7\n"
    assert parse_written(text, "x", wrong := []).plain() == yaml.safe_load(text)
    assert wrong == []


def test_other_encodings_are_read_or_named() -> None:
    for encoding in ("utf-8-sig", "utf-16"):
        Path("mine.yaml").write_text(RECIPE, encoding=encoding)
        assert load_recipe("mine.yaml", STAGES).name == "mine"
    Path("mine.yaml").write_bytes(RECIPE.encode() + b"# \xe9\n")
    with pytest.raises(UserError, match=r"mine\.yaml:17: this is no UTF-8 text"):
        load_recipe("mine.yaml", STAGES)


def test_mistakes_of_the_text_are_told_before_anything_heavy_is_imported() -> None:
    Path("mine.yaml").write_text(RECIPE.replace("particles: 8", "particels: 8"))
    script = (
        "import sys; sys.argv = ['butwait', 'run', 'mine.yaml']\n"
        "from butwait.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert stop.code == 2\n"
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'pyarrow', 'scipy', 'matplotlib',\n"
        "         'sympy', 'huggingface_hub', 'httpx2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert found.stderr == (
        f"butwait: mine.yaml:13: unknown key `{S}.particels`; did you mean particles?\n"
    )


BEST = """    sampler: {kind: best_of_n, aggregation: prod}
    reward_model: {kind: qwen_math_prm, aggregation: %s}
"""


@pytest.mark.parametrize("aggregation", ["model", "prod", "min"])
def test_scores_of_whole_paths_are_not_multiplied(aggregation: str) -> None:
    without = RECIPE.replace("    from: [prm]\n", "")
    told = "best_of_n would multiply scores of whole paths, since the reward model (qwen_math_prm)"
    text = without.replace("    sampler: {kind: particle_filter, particles: 8}\n", BEST)
    [line] = mistakes(text % aggregation)
    assert line.startswith(f"mine.yaml:12: stage 'search': {told}")
    Path("mine.yaml").write_text(text % "last", encoding="utf-8")
    load_recipe("mine.yaml", STAGES)
    [line] = mistakes(text.replace("{kind: qwen_math_prm, aggregation: %s}", "{kind: confidence}"))
    assert "(confidence)" in line


def test_a_name_that_is_lacking_is_told_with_all_that_are_there(tmp_path: Path) -> None:
    """Also with those that have mistakes of their own."""
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "model: {name: tiny}\n"
        "problems: {train: {source: arithmetic, limit: x}, test: {source: arithmetic}}\n"
        "stages:\n"
        "  hunt: {kind: search, problems: tran, sampler: {kind: independent, samples: x}}\n"
        "  base: {kind: evaluate, problems: [tran], methods: {a: {}}}\n"
        "  data: {kind: verified, from: [hunt], per_question: x}\n"
        "  sft: {kind: sft, from: [dota]}\n"
    )
    with pytest.raises(UserError) as raised:
        load_recipe(str(recipe), STAGES)
    told = str(raised.value)
    assert (
        "stage 'base' uses the problem set 'tran', which `problems` lacks (it has: train, test; "
        "did you mean train?)"
    ) in told
    assert (
        "stage 'sft' takes from 'dota', which is no stage (there are: hunt, base, data, sft; did "
        "you mean data?)"
    ) in told

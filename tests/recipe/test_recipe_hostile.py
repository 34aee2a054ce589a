"""Recipes that were damaged at random: sentences or a recipe, and nothing else."""

import re
from contextlib import chdir
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from butwait.recipe.load import load_recipe, shipped_recipes
from butwait.records import UserError
from butwait.stages.kinds import STAGES

TEXTS = [shipped_recipes()[name].read_text() for name in ("quickstart", "tiny_data_ablation")]
PIECES = [
    "yes",
    "no",
    "~",
    "null",
    "{}",
    "[]",
    "[1,2]",
    "{a:1}",
    "1e400",
    "-1",
    "0",
    ".inf",
    ".nan",
    "010",
    "1:2",
    "2024-01-01",
    "2024-99-99",
    '"\\b"',
    '"\\0"',
    '"\\ud800"',
    "!!binary",
    "!!set{a}",
    "!x",
    "*a",
    "&a",
    "<<",
    '"',
    "'",
    "|",
    ">",
    "@",
    "`",
    "%",
    "{",
    "[",
    "}",
    "]",
    "-",
    ":",
    "?",
    "true",
    "kind",
    "seeds:3",
    "seeds:[1]",
    "from:[x]",
    "from:[report]",
    "1.5",
    "a.b",
    "json:dumps",
    "x:",
    "[[[[",
    "{{",
    "{1:2}",
    "kind:[x]",
    "kind:{a:b}",
]
PIECES += ["\u2028", "\x85", "\t", "\n", ": ", "- ", " # ", "9" * 5000, "[" * 500]
KEYS = ["seed", "stages.sft", "stages.hunt.sampler.kind", "model", "problems", "stages", "name"]
LIBRARY = re.compile("[Ii]nput should|valid tuple|discriminator|pydantic|<class")


def damaged(random: Random) -> str:
    text = random.choice(TEXTS)
    for _ in range(random.randint(1, 4)):
        words = list(re.finditer(r"[\w./-]+|[{}\[\],:\"\n]", text))
        word = random.choice(words)
        start, end = word.span() if random.random() < 0.7 else (word.start(), word.start())
        text = text[:start] + random.choice([*PIECES, ""]) + text[end:]
    return text


def check(seed: int) -> None:
    random = Random(seed)
    with TemporaryDirectory() as folder, chdir(folder):
        Path("mine.yaml").write_text(damaged(random), encoding="utf-8")
        count = random.choice([0, 0, 1, 2])
        words = [f"{random.choice(KEYS)}={random.choice(PIECES)}" for _ in range(count)]
        try:
            load_recipe("mine.yaml", STAGES, words)
        except UserError as error:
            for line in str(error).split("\n"):
                assert line.isprintable()
                assert not LIBRARY.search(line)


@given(st.integers(0, 2**32))
@settings(max_examples=15)
def test_a_damaged_recipe_is_told_in_sentences(seed: int) -> None:
    check(seed)


@pytest.mark.slow
@given(st.integers(0, 2**32))
@settings(max_examples=700)
def test_many_damaged_recipes_are_told_in_sentences(seed: int) -> None:
    check(seed)

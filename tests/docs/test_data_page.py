"""`docs/data.md` has whatever presets and shipped recipes fetch."""

import re
from pathlib import Path

import pytest
import yaml

from butwait.problems.presets import PRESETS
from butwait.recipe.shipped import shipped_recipes

ROOT = Path(__file__).parents[2]
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def rows(section: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    text = page.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


SETS = {row[0]: row for row in rows("Problem sets")}
MODELS = {row[0]: row for row in rows("Models")}


def named(content: object, keys: tuple[str, ...]) -> set[str]:
    """What stands under one of these keys anywhere in a recipe."""
    if isinstance(content, list):
        return {name for each in content for name in named(each, keys)}
    if not isinstance(content, dict):
        return set()
    own = {str(value) for key, value in content.items() if key in keys and isinstance(value, str)}
    return own | {name for value in content.values() for name in named(value, keys)}


def recipes(keys: tuple[str, ...], part: str) -> set[str]:
    contents = [yaml.safe_load(path.read_text("utf-8")) for path in shipped_recipes().values()]
    return {name for content in contents for name in named(content.get(part, {}), keys)}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_stands_there(name: str) -> None:
    preset = PRESETS[name]
    row = SETS[f"`{name}`: {preset.source}"]
    if preset.licence is not None:
        assert preset.licence in row[3]


def test_every_set_and_model_of_a_recipe_stands_there() -> None:
    sets = recipes(("source",), "problems")
    known = " ".join(SETS)
    assert {"gsm8k", "nlile/hendrycks-MATH-benchmark"} <= sets
    assert {name for name in sets if name not in known} == set()
    models = {*recipes(("name",), "model")} | {
        name for name in recipes(("name", "model"), "stages") if HUB_ID.fullmatch(name)
    }
    assert {"tiny", "microsoft/phi-4", "Qwen/Qwen2.5-Math-PRM-7B"} <= models
    known = " ".join(MODELS)
    assert {name for name in models if name not in known} == set()


def test_every_hub_id_in_a_recipe_stands_there() -> None:
    """Wherever it stands: a second look, by its shape."""
    known = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    for path in shipped_recipes().values():
        text = re.sub(r"#.*", "", path.read_text(encoding="utf-8"))
        for name in re.findall(r"(?:name|source|model): *\"?([\w.-]+/[\w.-]+)", text):
            if "." not in name.partition("/")[0]:
                assert name in known, path


@pytest.mark.parametrize("row", [*SETS.values(), *MODELS.values()], ids=lambda row: row[0])
def test_every_row_says_licence_and_where_it_was_read(row: list[str]) -> None:
    *_, licence, read, note = row
    assert licence
    assert read or "not verified" in licence
    assert note

"""Kinds of one's own in a recipe: mistakes are one sentence, at their place."""

import json
from pathlib import Path

import pytest

from butwait.recipe.load import load_recipe
from butwait.recipe.recipe import Recipe
from butwait.records import UserError
from butwait.stages.kinds import STAGES

MINE = """
from typing import Literal
from butwait.recipe.stages import StageKind, StageSettings

class Fixed(StageSettings):
    kind: Literal["fixed"]

def run(stage):
    return {}, {}

EVERYTHING = StageKind(settings=StageSettings, gives="counts", run=run, takes_all=True)
EVALUATION = StageKind(settings=StageSettings, gives="evaluation", run=run)
MODEL = StageKind(settings=StageSettings, gives="model", run=run)
FIXED = StageKind(settings=Fixed, gives="counts", run=run)
"""


def load(folder: Path, monkeypatch: pytest.MonkeyPatch, **stages: object) -> Recipe:
    monkeypatch.chdir(folder)
    name = f"mine_{abs(hash(folder))}"
    (folder / f"{name}.py").write_text(MINE)
    (folder / f"{name}_raises.py").write_text("1 / 0\n")
    (folder / f"{name}_broken.py").write_text("def run(:\n")
    content = {
        "model": {"name": "tiny"},
        "problems": {"sums": {"source": "arithmetic", "split": "search"}},
        "stages": {"report": {"kind": "report"}} | stages,
    }
    text = json.dumps(content)
    for end in ("", "_raises", "_broken"):
        text = text.replace(f"mine{end}:", f"{name}{end}:")
    (folder / "r.yaml").write_text(text)
    return load_recipe("r.yaml", STAGES)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("json:dumps", "'json:dumps' is a function and no StageKind"),
        ("nonsense:X", "'nonsense:X' cannot be imported"),
        (".x:X", "is not of the form module:function"),
        ("mine:NOTHING", "has no 'NOTHING'"),
        ("mine_raises:X", "ends in ZeroDivisionError"),
        ("mine_broken:X", "ends in SyntaxError"),
        ("mine:FIXED", "need a field `kind: str`"),
        (7, "say which kind of stage it is"),
    ],
)
def test_a_wrong_kind_is_one_sentence_at_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: object, says: str
) -> None:
    with pytest.raises(UserError) as error:
        load(tmp_path, monkeypatch, own={"kind": kind})
    assert says in str(error.value)
    assert "`stages.own`" in str(error.value)
    assert "\n" not in str(error.value)


def test_kinds_of_ones_own_stand_beside_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"e": {"kind": "mine:EVALUATION"}, "all": {"kind": "mine:EVERYTHING"}}
    recipe = load(tmp_path, monkeypatch, **own)
    assert recipe.sources("report") == recipe.sources("all") == ("e",)


@pytest.mark.parametrize("model", [{"kind": "mine:MODEL"}, {"kind": "grpo", "problems": "sums"}])
def test_an_epoch_of_a_model_that_keeps_none_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: dict[str, str]
) -> None:
    after = {
        "kind": "evaluate",
        "from": ["m"],
        "checkpoint": 2,
        "problems": ["sums"],
        "methods": {"a": {}},
    }
    with pytest.raises(UserError, match="checkpoint: 2 needs an sft stage"):
        load(tmp_path, monkeypatch, m=model, after=after)


@pytest.mark.parametrize("seeds", ["2", True, 0, 10**9])
def test_seeds_are_a_whole_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: object
) -> None:
    with pytest.raises(UserError, match="seeds"):
        load(tmp_path, monkeypatch, m={"kind": "mine:MODEL", "seeds": seeds})

"""Kinds of engine: settings by their kind, and a record of one's own."""

import asyncio
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from butwait.engines.kinds.transformers import TransformersSettings
from butwait.engines.load import ENGINES, EngineSettings, load_engine
from butwait.engines.settings import ModelSettings, SlotSettings, StepRule
from butwait.problems.settings import PromptSettings
from butwait.records import Problem

SETTINGS: TypeAdapter = TypeAdapter(EngineSettings)
OWN = """
from butwait.engines.load import EngineKind
from butwait.engines.scripted import EOS, ScriptedEngine
from butwait.engines.settings import BaseEngineSettings

class WordSettings(BaseEngineSettings):
    word: str = "yes"

def start(model, tokenizer, settings, prompt):
    assert tokenizer is None
    return ScriptedEngine({"": {settings.word: 1.0}, settings.word: {EOS: 1.0}})

WORD = EngineKind(WordSettings, start)
"""


def test_a_kind_has_its_own_settings_and_keeps_them_on_disk() -> None:
    assert list(ENGINES) == ["openai", "scripted", "transformers", "vllm"]
    settings = SETTINGS.validate_python({"kind": "transformers", "slots": 3})
    assert settings == TransformersSettings(slots=3)
    assert isinstance(settings, SlotSettings)
    written = SETTINGS.dump_python(settings, mode="json")
    assert (written["kind"], written["slots"], written["deterministic"]) == (
        "transformers",
        3,
        False,
    )
    assert SETTINGS.validate_python(written) == settings


@pytest.mark.parametrize(
    ("given", "place", "message"),
    [
        ({"kind": "transformers", "slots": 0}, ("slots",), "greater than 0"),
        ({"kind": "scripted", "slots": 3}, ("script",), "required"),
        ({"kind": "vlm"}, (), "'vlm' is no kind of engine"),
        ({"slots": 3}, (), "say which kind of engine"),
    ],
)
def test_mistakes_are_found_at_their_place(given: dict, place: tuple, message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        SETTINGS.validate_python(given)
    assert caught.value.errors()[0]["loc"] == place


def test_who_runs_the_recipes_model() -> None:
    assert [kind for kind in ENGINES if not ENGINES[kind].runs_model] == ["scripted"]


def test_a_record_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_engine.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    settings = SETTINGS.validate_python({"kind": "own_engine:WORD", "word": "no", "live_tokens": 9})
    model, prompt, rule = ModelSettings(name="tiny"), PromptSettings(), StepRule()
    loaded = load_engine(settings, model, prompt, [], [rule])
    assert loaded.capacity is None
    assert loaded.engine.encode("no").tolist() == [loaded.tokenizer.id("no")]
    first, second = loaded.engine.turn(), loaded.engine.turn()
    assert first is not second, "older searches go first"
    assert first.start(Problem("p", "?", None)).completion_length == 0
    asyncio.run(loaded.engine.close())

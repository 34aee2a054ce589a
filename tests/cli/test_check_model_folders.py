"""What ``butwait check`` sees of a local model's folder, without loading it."""

import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from butwait.engines.checkpoints.folders import lacking_tokenizer, lacking_weights, odd_tokenizer
from butwait.engines.models import (
    checkpoint_eos_token_ids,
    load_causal_lm,
    load_tokenizer,
    tokenizer_fingerprint,
)
from butwait.engines.settings import ModelSettings
from butwait.records import UserError

TINY = Path(str(files("butwait"))) / "models" / "tiny"
RECIPE = """name: mine
model: {name: own}
prompt: {template: "{question}"}
problems:
  sums: {source: arithmetic, split: test, limit: 4}
  train: {source: arithmetic, split: search, limit: 4}
stages:
  base:
    kind: evaluate
    problems: [sums]
    methods: {one: {sampler: {kind: independent, step: {delimiters: [], max_tokens: 8}}}}
"""
JUDGE = (
    "stages.s={kind: search, problems: train, sampler: {kind: particle_filter, step: {max_tokens: "
    "8}}, reward_model: {kind: classifier, name: judge}}"
)


def parted(folder: Path) -> None:
    """Its weights as an index that names a file which is not there, and one that is."""
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def cut(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1000])


def pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid 1\n")


def configured(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def drop(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


BROKEN: list[tuple[str, Callable[[Path], None], str]] = [
    ("no tokenizer", drop("tokenizer.json"), "the folder own has no tokenizer (tokenizer.json): c"),
    ("no weights", drop("model.safetensors"), "has a configuration and no weights (model.safeten"),
    (
        "a part",
        parted,
        "1 of the 2 files of weights are not in own, model-2.safetensors among",
    ),
    ("cut", cut, "own/model.safetensors ends early ("),
    (
        "pointer",
        pointer,
        "own/model.safetensors is a pointer of Git LFS and no weights: fetch",
    ),
    (
        "another's tokenizer",
        lambda folder: configured(folder, vocab_size=20),
        "and the model's vocabulary is 20: it belongs to another model, so copy that of this one",
    ),
    (
        "no json",
        lambda folder: (folder / "tokenizer.json").write_text("{") and None,
        "own/tokenizer.json cannot be read (",
    ),
]


@pytest.fixture
def own(own_folder: Path) -> Path:
    """A user's folder with a copy of the tiny model in it."""
    shutil.copytree(TINY, own_folder / "own")
    (own_folder / "mine.yaml").write_text(RECIPE)
    return own_folder / "own"


@pytest.mark.parametrize(("what", "harm", "told"), BROKEN, ids=[case[0] for case in BROKEN])
def test_what_a_model_folder_lacks_is_told_before_the_run(
    own: Path,
    command: Callable[..., tuple[int, str, str]],
    what: str,
    harm: Callable[[Path], None],
    told: str,
) -> None:
    harm(own)
    code, _, said = command("check", "mine.yaml")
    assert code == 2
    (line,) = said.splitlines()
    assert "`model.name`: " in line
    assert told in line
    if what == "no weights":
        assert command("run", "mine.yaml")[::2] == (2, said)


def test_weights_that_a_server_has_need_not_be_here(
    own: Path, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("butwait.running.world._server", lambda url: None)
    (own / "model.safetensors").unlink()
    served = ("--set", "engine={kind: openai, base_url: 'http://there/v1'}")
    assert command("check", "mine.yaml", *served)[0] == 0
    # A training reads them all the same.
    stages = ("--set", "stages.rl={kind: grpo, problems: train, questions: 4, group: 4}")
    assert (
        "has a configuration and no weights" in command("check", "mine.yaml", *served, *stages)[2]
    )
    (own / "tokenizer.json").unlink()
    assert "the folder own has no tokenizer" in command("check", "mine.yaml", *served)[2]


def test_of_a_model_that_is_served_its_tokenizer_is_enough(
    own: Path, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As beside a GGUF file: a folder without a configuration."""
    monkeypatch.setattr("butwait.running.world._server", lambda url: None)
    for file in own.iterdir():
        if "token" not in file.name and file.suffix != ".jinja":
            file.unlink()
    served = ("--set", "engine={kind: openai, base_url: 'http://there/v1'}")
    assert command("check", "mine.yaml", *served)[0] == 0
    judge = JUDGE.replace("kind: classifier", "kind: pooling, base_url: 'http://a'")
    judge = judge.replace("name: judge", "name: own")
    assert command("check", "mine.yaml", *served, "--set", judge)[0] == 0
    model = ModelSettings(name="own")
    tokenizer = load_tokenizer(model)
    expected = load_tokenizer(ModelSettings(name="tiny"))
    assert tokenizer_fingerprint(tokenizer) == tokenizer_fingerprint(expected)
    assert checkpoint_eos_token_ids(model, tokenizer) == {expected.eos_token_id}
    for here in ((), (*served, "--set", JUDGE.replace("name: judge", "name: own"))):
        code, _, said = command("check", "mine.yaml", *here)
        assert code == 2
        assert "the folder own holds no model but a tokenizer: it has no config.json" in said
    with pytest.raises(UserError, match=r"it has no config\.json"):
        load_causal_lm(model)


def test_a_reward_model_is_looked_into_too(
    own: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    shutil.copytree(own, own.parent / "judge")
    (own.parent / "judge" / "model.safetensors").unlink()
    code, _, said = command("check", "mine.yaml", "--set", JUDGE)
    assert code == 2
    assert "`stages.s.reward_model.name`: the folder judge has a configuration and no wei" in said


@pytest.mark.parametrize(
    ("base", "told"),
    [("org/base", " of 'org/base', not a"), ("./gone", " of './gone' (which is not there), not a")],
)
def test_an_adapter_names_its_model(
    own: Path, command: Callable[..., tuple[int, str, str]], base: str, told: str
) -> None:
    (own / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    code, _, said = command("check", "mine.yaml")
    assert code == 2
    assert f"the folder own holds an adapter (LoRA){told} model: merge it into its model" in said


def test_a_tokenizer_that_knows_less_than_half_is_a_warning(
    own: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    known = len(json.loads((own / "tokenizer.json").read_text())["model"]["vocab"])
    configured(own, vocab_size=3 * known)
    code, out, _ = command("check", "mine.yaml")
    assert code == 0
    assert f"{3 * known} tokens of the model's vocabulary; it may be that of another" in out


def test_what_other_models_have_is_let_pass(tmp_path: Path) -> None:
    """Tokens for images that a text model has no rows for, a tokenizer of sentencepiece, weights
    in several files, and under names that other engines take."""
    tokens = {"a": 0, "b": 1, "<image>": 2}
    held = {"model": {"vocab": tokens}, "added_tokens": [{"id": 2, "content": "<image>"}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(held))
    assert lacking_tokenizer(tmp_path, {"text_config": {"vocab_size": 2}}) is None
    assert odd_tokenizer(tmp_path, {"vocab_size": 4}) is None
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.model").write_bytes(b"pieces")
    (tmp_path / "config.json").write_text("{}")
    assert lacking_tokenizer(tmp_path, {"vocab_size": 2}) is None
    (tmp_path / "consolidated.safetensors").write_bytes(b"")
    assert lacking_weights(tmp_path) is None
    (tmp_path / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "w.bin"}}')
    assert "1 of the 1 files of weights are not in" in str(lacking_weights(tmp_path))
    (tmp_path / "w.bin").write_bytes(b"x")
    assert lacking_weights(tmp_path) is None
    (tmp_path / "pytorch_model.bin.index.json").write_text("[]")
    assert "cannot be read" in str(lacking_weights(tmp_path))

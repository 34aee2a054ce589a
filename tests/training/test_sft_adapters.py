"""Adapters: those of each epoch, and those on weights in four bits."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from sft_cases import save_model, sums, weights
from trl import SFTConfig

from butwait.engines.models import load_causal_lm, load_tokenizer, tokenizer_fingerprint
from butwait.engines.settings import ModelSettings
from butwait.problems.settings import PromptSettings
from butwait.records import UserError
from butwait.running import packages
from butwait.training import sft
from butwait.training.arguments import in_precision, training_arguments
from butwait.training.encode import make_rows
from butwait.training.fit import quiet
from butwait.training.settings import LoraSettings, SftSettings
from butwait.training.sft import train_sft

SETTINGS = SftSettings(
    learning_rate=1e-2, epochs=2, batch_size=4, save_steps=None, lora=LoraSettings(rank=4, alpha=8)
)


def test_the_adapters_of_each_epoch_are_merged_too(tmp_path: Path) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    settings = SETTINGS.model_copy(update={"keep_epochs": True})
    train_sft(model, sums(tokenizer, 8), settings, tmp_path / "out", seed=0)
    base, last = weights(tmp_path / "base"), weights(tmp_path / "out/model")
    first, second = (weights(tmp_path / f"out/epochs/{n}/model") for n in (1, 2))
    for name, merged in last.items():
        # Merged on another way, so equal up to rounding.
        torch.testing.assert_close(second[name], merged, atol=1e-6, rtol=1e-5)
    changed = "model.layers.0.self_attn.q_proj.weight"
    distance = [float((w[changed] - base[changed]).norm()) for w in (first, second)]
    assert 0 < distance[0] < distance[1]
    saved = ModelSettings(name=str(tmp_path / "out/epochs/1/model"), device="cpu")
    assert tokenizer_fingerprint(load_tokenizer(saved)) == tokenizer_fingerprint(tokenizer)


def test_four_bits_without_bitsandbytes_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    settings = SETTINGS.model_copy(update={"lora": LoraSettings(four_bit=True)})
    monkeypatch.setattr(packages, "find_spec", lambda package: None)
    with pytest.raises(UserError, match=r"needs the package bitsandbytes: pip"):
        train_sft(model, sums(tokenizer, 4), settings, tmp_path / "out", seed=0)


def test_adapters_on_four_bits_are_trained_in_float32(tmp_path: Path) -> None:
    """Weights that only say that they are in four bits: TRL then casts what is trained."""
    model, tokenizer = save_model(tmp_path / "base")
    settings = SETTINGS.model_copy(update={"precision": "bfloat16"})
    rows = make_rows(sums(tokenizer, 4), tokenizer, PromptSettings(), None, "error")
    policy = load_causal_lm(in_precision(model, settings))
    policy.is_loaded_in_4bit = True
    with quiet():
        ready = {"skip_prepare_dataset": True}
        arguments = training_arguments(
            SFTConfig, settings, model, tmp_path, 0, dataset_kwargs=ready
        )
        trainer = sft._trainer(policy, tokenizer, rows, settings, arguments)
    trained = {w.dtype for w in trainer.model.parameters() if w.requires_grad}
    frozen = {w.dtype for w in trainer.model.parameters() if not w.requires_grad}
    assert (trained, frozen) == ({torch.float32}, {torch.bfloat16})


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_an_adapter_on_four_bits_is_merged_into_the_whole_weights(tmp_path: Path) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    lora = LoraSettings(rank=4, alpha=8, target_modules=("q_proj",), four_bit=True)
    settings = SETTINGS.model_copy(update={"lora": lora, "epochs": 10.0})
    result = train_sft(model, sums(tokenizer, 8), settings, tmp_path / "out", seed=0)
    assert result["loss_last"] < result["loss_first"]
    base, merged = weights(tmp_path / "base"), weights(tmp_path / "out/model")
    assert {n for n in base if not torch.equal(base[n], merged[n])} == {
        f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1)
    }
    # The update has rank 4: what four bits rounded away is not in the merged weights.
    name = "model.layers.0.self_attn.q_proj.weight"
    singular = torch.linalg.svdvals((merged[name] - base[name]).double())
    assert singular[3] > 1e-6
    assert singular[4] < 1e-5 * singular[0]

"""Fine-tuning of tiny random models of real architectures."""

import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import huggingface_hub.utils._telemetry as telemetry
import pytest
import torch
from sft_cases import make_example, save_model, sums, weights
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, GenerationConfig

from butwait.engines.models import load_causal_lm, load_tokenizer, tokenizer_fingerprint
from butwait.engines.settings import ModelSettings
from butwait.records import Example, UserError
from butwait.training import sft
from butwait.training.settings import LoraSettings, SftSettings
from butwait.training.sft import train_sft

ARCHITECTURES = ["Llama", "Qwen2", "Phi3", "Granite"]
SHORT = SftSettings(learning_rate=1e-3, max_steps=3, batch_size=4, save_steps=None)


def equal(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return all(torch.equal(first[name], second[name]) for name in first)


def loss_by_hand(model: ModelSettings, examples: list[Example]) -> float:
    """Mean -log p over all tokens with loss, one example at a time, no padding."""
    policy = load_causal_lm(model)
    total, tokens = 0.0, 0
    for example in examples:
        ids = torch.tensor([*example.prompt_ids, *example.completion_ids])
        with torch.no_grad():
            logits = policy(ids[None]).logits[0].double()
        start = len(example.prompt_ids)
        nll = cross_entropy(logits[start - 1 : -1], ids[start:].long(), reduction="none")
        mask = torch.from_numpy(example.loss_mask)
        total, tokens = total + nll[mask].sum().item(), tokens + int(mask.sum())
    return total / tokens


# Each architecture, and each variant of the two of which one scales its logits; slowly all of all.
@pytest.mark.parametrize(
    ("architecture", "variant"),
    [
        pytest.param(
            *case,
            marks=[pytest.mark.slow] * (case[0] in ("Qwen2", "Phi3") and case[1] != "plain"),
        )
        for case in product(ARCHITECTURES, ["plain", "accumulated", "packed"])
    ],
)
def test_the_loss_is_the_cross_entropy_of_the_masked_tokens(
    tmp_path: Path, architecture: str, variant: str
) -> None:
    model, tokenizer = save_model(tmp_path / "base", architecture, pad_is_eos=True)
    examples = sums(tokenizer, 7)
    examples.append(
        make_example(tokenizer, "?", [("mistake", "1+1=3", False), ("solution", "1+1=2", True)])
    )
    settings = {
        "plain": SHORT.model_copy(update={"batch_size": 8}),
        "accumulated": SHORT.model_copy(update={"batch_size": 3, "accumulation_steps": 3}),
        "packed": SHORT.model_copy(
            update={"batch_size": 8, "packing": True, "max_length": 120, "too_long": "drop"}
        ),
    }[variant]
    result = train_sft(model, examples, settings, tmp_path / "out", seed=0)
    assert result["loss_first"] == pytest.approx(loss_by_hand(model, examples), abs=1e-6)
    assert result["encoded_again"] == 0
    assert result["trained_tokens"] == 3 * sum(int(e.loss_mask.sum()) for e in examples)
    assert (result["packed_rows"] is not None) == (variant == "packed")
    if variant == "packed":
        assert result["packed_rows"] < len(examples)


@pytest.mark.parametrize("packing", [False, True])
def test_the_labels_that_reach_the_model_are_those_of_the_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: bool
) -> None:
    model, tokenizer = save_model(tmp_path / "base", pad_is_eos=True)
    parts = [("mistake", "1+1=3", False), ("doubt", "wait", True), ("solution", "1+1=2", True)]
    examples = [make_example(tokenizer, "?", parts), *sums(tokenizer, 3)]
    seen: list[tuple[list[int], list[int]]] = []

    def spy(settings: ModelSettings) -> Any:
        policy = load_causal_lm(settings)

        def record(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            if "labels" in kwargs:
                flat = zip(kwargs["input_ids"].tolist(), kwargs["labels"].tolist(), strict=True)
                seen.extend(flat)

        policy.register_forward_pre_hook(record, with_kwargs=True)
        return policy

    monkeypatch.setattr("butwait.training.weights.load_causal_lm", spy)
    changes = {"max_steps": 1, "warmup_ratio": 0.0, "packing": packing, "max_length": 250}
    settings = SHORT.model_copy(update=changes)
    train_sft(model, examples, settings, tmp_path / "out", seed=0)
    got = sorted((i, t) for ids, labels in seen for i, t in zip(ids, labels, strict=True) if t >= 0)
    expected = sorted(
        (int(t), int(t))
        for example in examples
        for t, loss in zip(example.completion_ids, example.loss_mask, strict=True)
        if loss
    )
    assert got == expected
    ends = sum(pair == (tokenizer.eos_token_id, tokenizer.eos_token_id) for pair in got)
    assert ends == len(examples)
    if not packing:
        by_ids = {tuple(e.prompt_ids.tolist() + e.completion_ids.tolist()): e for e in examples}
        for ids, labels in seen:
            row = next(k for k in by_ids if tuple(ids[: len(k)]) == k)
            example = by_ids[row]
            padding = len(ids) - len(row)
            completion = zip(example.completion_ids, example.loss_mask, strict=True)
            wanted = [int(t) if loss else -100 for t, loss in completion]
            assert labels == [-100] * len(example.prompt_ids) + wanted + [-100] * padding


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_that_learned_one_example_stops_by_itself(
    tmp_path: Path, architecture: str
) -> None:
    model, tokenizer = save_model(tmp_path / "base", architecture, pad_is_eos=True)
    example = sums(tokenizer, 1)[0]
    settings = SHORT.model_copy(update={"learning_rate": 1e-2, "max_steps": 40, "batch_size": 1})
    train_sft(model, [example], settings, tmp_path / "out", seed=0)
    trained = ModelSettings(name=str(tmp_path / "out" / "model"), device="cpu")
    prompt = torch.tensor(example.prompt_ids).long()[None]
    out = load_causal_lm(trained).generate(prompt, do_sample=False, max_new_tokens=60)
    assert out[0, prompt.shape[1] :].tolist() == example.completion_ids.tolist()


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path: Path) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    examples = sums(tokenizer, 20)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train_sft(model, examples, SHORT, tmp_path / name, seed)
    assert equal(tmp_path / "a/model", tmp_path / "b/model")
    assert not equal(tmp_path / "a/model", tmp_path / "c/model")
    assert not equal(tmp_path / "base", tmp_path / "a/model")


def test_what_is_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, tokenizer = save_model(tmp_path / "base", pad_is_eos=True)
    capfd.readouterr()
    settings = SftSettings(learning_rate=1e-3, epochs=2, batch_size=4, warmup_ratio=0.5)
    result = train_sft(model, sums(tokenizer, 10), settings, tmp_path / "out", seed=0)
    printed = capfd.readouterr()
    assert printed.err == ""
    assert [line.split(":")[0].strip() for line in printed.out.splitlines()] == ["sft"]
    assert (result["steps"], result["epochs"], result["examples"]) == (6, 2.0, 10)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["log.jsonl", "model", "work"]
    log = [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [1, 2, 3, 4, 5, 6]
    rates = [entry["learning_rate"] for entry in log]
    assert rates == pytest.approx([0, 1e-3 / 3, 2e-3 / 3, 1e-3, 2e-3 / 3, 1e-3 / 3])
    assert (log[0]["loss"], log[-1]["loss"]) == (result["loss_first"], result["loss_last"])
    assert all(entry["grad_norm"] > 0 for entry in log)
    saved = ModelSettings(name=str(tmp_path / "out/model"), device="cpu")
    assert tokenizer_fingerprint(load_tokenizer(saved)) == tokenizer_fingerprint(tokenizer)
    generation = GenerationConfig.from_pretrained(tmp_path / "out/model")
    assert generation.eos_token_id == tokenizer.eos_token_id
    assert generation.pad_token_id == tokenizer.pad_token_id
    assert AutoConfig.from_pretrained(tmp_path / "out/model").use_cache


def test_long_examples_are_dropped_and_counted(tmp_path: Path) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    long = make_example(tokenizer, "?", [("solution", "1" * 300, True)])
    examples = [*sums(tokenizer, 4), long]
    with pytest.raises(UserError, match="1 of 5 examples are longer than 256 tokens"):
        train_sft(model, examples, SHORT, tmp_path / "out", seed=0)
    settings = SHORT.model_copy(update={"too_long": "drop"})
    result = train_sft(model, examples, settings, tmp_path / "out", seed=0)
    assert (result["examples"], result["dropped_too_long"]) == (4, 1)
    assert result["trained_tokens"] == 3 * sum(len(e.completion_ids) for e in examples[:4])


def test_adapters_are_merged_into_an_ordinary_checkpoint(tmp_path: Path) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    examples = sums(tokenizer, 8)
    settings = SHORT.model_copy(update={"lora": LoraSettings(rank=4, alpha=8), "max_steps": 20})
    result = train_sft(model, examples, settings, tmp_path / "out", seed=0)
    assert result["loss_last"] < result["loss_first"]
    base, merged = weights(tmp_path / "base"), weights(tmp_path / "out/model")
    adapted = {name for name in base if not torch.equal(base[name], merged[name])}
    assert base.keys() == merged.keys()
    assert {name.split(".")[-2] for name in adapted} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    from peft import PeftModel

    ids = torch.tensor(examples[0].completion_ids).long()[None]
    with torch.no_grad():
        by_adapter = PeftModel.from_pretrained(load_causal_lm(model), tmp_path / "out/adapter")
        expected = by_adapter.eval()(ids).logits
        got = load_causal_lm(ModelSettings(name=str(tmp_path / "out/model"), device="cpu"))(ids)
    assert torch.allclose(got.logits, expected, atol=1e-4)


@pytest.mark.parametrize("modules", [("no_such_layer",), ("lm_head",)])
def test_layers_that_cannot_be_adapted_are_refused(
    tmp_path: Path, modules: tuple[str, ...]
) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    settings = SHORT.model_copy(update={"lora": LoraSettings(target_modules=modules)})
    with pytest.raises(UserError, match=f"cannot be set up.*{modules[0]}"):
        train_sft(model, sums(tokenizer, 4), settings, tmp_path / "out", seed=0)


@pytest.mark.parametrize(
    "update",
    [{"precision": "mixed"}, {"precision": "bfloat16"}, {"gradient_checkpointing": True}],
    ids=str,
)
def test_the_memory_options_train_the_same_loss(tmp_path: Path, update: dict[str, Any]) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    examples = sums(tokenizer, 4)
    settings = SHORT.model_copy(update=update)
    result = train_sft(model, examples, settings, tmp_path / "out", seed=0)
    tolerance = 1e-6 if "precision" not in update else 0.05
    assert result["loss_first"] == pytest.approx(loss_by_hand(model, examples), abs=tolerance)
    stored = weights(tmp_path / "out/model")
    assert all(torch.isfinite(tensor).all() for tensor in stored.values())


def test_a_model_that_mixes_packed_examples_is_refused(tmp_path: Path) -> None:
    model, tokenizer = save_model(tmp_path / "base", "Mamba")
    settings = SHORT.model_copy(update={"packing": True})
    with pytest.raises(UserError, match="MambaForCausalLM lets packed examples see each other"):
        train_sft(model, sums(tokenizer, 4), settings, tmp_path / "out", seed=0)


def test_a_loss_that_is_no_number_stops_the_training(tmp_path: Path) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    settings = SHORT.model_copy(update={"learning_rate": 1e30, "max_steps": 9})
    with pytest.raises(UserError, match=r"the (loss became|gradient is) .*at step \d"):
        train_sft(model, sums(tokenizer, 4), settings, tmp_path / "out", seed=0)
    log = (tmp_path / "out/log.jsonl").read_text().splitlines()
    assert all(math.isfinite(json.loads(line)["loss"]) for line in log)
    assert not (tmp_path / "out/model").exists()


def test_a_full_device_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(sft._Trainer, "compute_loss", full)
    model, tokenizer = save_model(tmp_path / "base")
    with pytest.raises(UserError, match="ran out of memory in training; take a smaller batch_size"):
        train_sft(model, sums(tokenizer, 4), SHORT, tmp_path / "out", seed=0)


def test_no_examples_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no examples"):
        train_sft(save_model(tmp_path / "base")[0], [], SHORT, tmp_path / "out", seed=0)


def test_no_telemetry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setattr(telemetry, "_start_telemetry_thread", lambda: None)
    monkeypatch.delenv("CI", raising=False)
    model, tokenizer = save_model(tmp_path / "base")
    train_sft(model, sums(tokenizer, 4), SHORT, tmp_path / "out", seed=0)
    assert telemetry._TELEMETRY_QUEUE.empty()

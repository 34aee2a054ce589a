"""What all rows of a pass begin with runs once in fine-tuning: losses and weights stay."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sft_cases import make_example, save_model, weights
from transformers import DynamicCache

from butwait.engines.models import load_causal_lm, load_tokenizer
from butwait.engines.settings import ModelSettings
from butwait.records import Example
from butwait.training import sft, shared_prompts
from butwait.training.settings import LoraSettings, SftSettings
from butwait.training.sft import train_sft

SHOTS = "1+1=2 2+3=5 " * 5
SHORT = SftSettings(
    learning_rate=1e-2, max_steps=4, batch_size=3, accumulation_steps=2, save_steps=None
)


def examples(model: ModelSettings) -> list[Example]:
    tokenizer = load_tokenizer(model)
    made = [
        make_example(tokenizer, f"{SHOTS}{i}+{i}", [("solution", "=" * (i + 1) + str(i + i), True)])
        for i in range(1, 7)
    ]
    # One that differs from the first token on, so that its pass has nothing in common.
    return [*made, make_example(tokenizer, "?", [("mistake", "1", False), ("solution", "2", True)])]


@pytest.mark.parametrize(
    ("architecture", "adapted", "precision"),
    [
        ("Llama", False, "float32"),
        ("Llama", True, "float32"),
        ("Llama", False, "mixed"),
        ("Phi3", False, "float32"),
        ("Granite", False, "float32"),
        ("Qwen2", True, "float32"),
    ],
)
def test_weights_are_those_of_whole_rows(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    adapted: bool,
    precision: str,
) -> None:
    model, _ = save_model(tmp_path / "base", architecture)
    lora, rate = LoraSettings(rank=2) if adapted else None, 1e-2 if precision == "float32" else 1e-4
    settings = SHORT.model_copy(
        update={"lora": lora, "precision": precision, "learning_rate": rate}
    )
    columns: list[int] = []

    def seen(*given: Any) -> dict[str, Any]:
        inputs = shared_prompts.behind_beginning(*given)
        columns.append(given[1]["input_ids"].size(1) - inputs["input_ids"].size(1))
        return inputs

    monkeypatch.setattr(sft, "behind_beginning", seen)
    data = examples(model)
    ours = train_sft(model, data, settings, tmp_path / "ours", seed=0)
    shared = [count for count in columns if count >= len(SHOTS)]
    assert len(shared) >= 3, columns  # the check is one
    assert 0 in columns, "no pass was without one"
    monkeypatch.setattr(shared_prompts, "LEAST", 10**6)
    whole = train_sft(model, data, settings, tmp_path / "whole", seed=0)
    near = 1e-6 if precision == "float32" else 2e-2
    for figure in ("loss_first", "loss_last"):
        assert ours[figure] == pytest.approx(whole[figure], abs=near)
    assert ours["trained_tokens"] == whole["trained_tokens"]
    mine, theirs = (weights(tmp_path / name / "model") for name in ("ours", "whole"))
    near = 1e-5 if precision == "float32" else 1e-3
    assert all(torch.allclose(mine[name], theirs[name], atol=near) for name in mine)


def test_a_model_that_says_something_else_runs_whole_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the reason: it is asked both ways before the first pass."""
    model, _ = save_model(tmp_path / "base")
    data, rows = examples(model)[:6], []
    monkeypatch.setattr(sft, "same_logprobs", lambda *_: rows.append(1) or False)
    ours = train_sft(model, data, SHORT, tmp_path / "ours", seed=0)
    monkeypatch.setattr(shared_prompts, "LEAST", 10**6)
    whole = train_sft(model, data, SHORT, tmp_path / "whole", seed=0)
    assert rows == [1]
    assert ours["loss_last"] == whole["loss_last"]


def test_a_label_within_the_beginning_ends_it(tmp_path: Path) -> None:
    settings, _ = save_model(tmp_path / "base")
    model = load_causal_lm(settings)
    ids = torch.arange(40).repeat(2, 2)
    labels = torch.full_like(ids, -100)
    labels[1, 60:] = 1
    given = {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
    inputs = shared_prompts.behind_beginning(model, given, -100)
    assert inputs["labels"][1].tolist() == [-100] + [1] * 20  # predicted behind 59 tokens
    assert inputs["position_ids"][0].tolist() == list(range(59, 80))
    labels[0, 40] = 1
    assert shared_prompts.behind_beginning(model, given, -100) is given
    alone = {name: value[:1] for name, value in given.items()}
    assert shared_prompts.behind_beginning(model, alone, -100) is alone


def test_gradients_of_what_ran_once_are_the_same_bits_by_any_threads() -> None:
    """An indexing's gradient on a CPU is summed in an order that changes from run to run."""
    torch.manual_seed(0)
    keys = torch.randn(1, 3, 130, 64, requires_grad=True)
    rows = torch.zeros(16, dtype=torch.int64)
    weight, before = torch.randn(16, 3, 130, 64), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = []
        for _ in range(10):
            [layer] = shared_prompts._of(DynamicCache([(keys, keys)]), rows).layers
            [gradient] = torch.autograd.grad((layer.keys * weight).sum(), [keys])
            found.append(gradient)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(each, found[0]) for each in found)

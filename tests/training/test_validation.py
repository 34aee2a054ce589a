"""The loss on held-out questions, stops by it, and the weights that are kept."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from sft_cases import save_model, sums, weights
from transformers import AutoModelForCausalLM

from butwait.records import Example, UserError
from butwait.running import packages
from butwait.training.settings import LoraSettings, SftSettings, ValidationSettings
from butwait.training.sft import train_sft
from butwait.training.validation import Validation, split_rows

LOOKED_AT = SftSettings(
    learning_rate=3e-2,
    schedule="constant",
    max_steps=24,
    batch_size=4,
    save_steps=5,
    validation=ValidationSettings(share=0.25, every=3),
)


def with_patience(settings: SftSettings, looks: int) -> SftSettings:
    assert settings.validation is not None
    patient = settings.validation.model_copy(update={"patience": looks})
    return settings.model_copy(update={"validation": patient})


def loss(folder: Path, examples: list[Example]) -> float:
    """Nats a token with loss, example by example."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    total, tokens = 0.0, 0
    for example in examples:
        ids = torch.tensor([[*example.prompt_ids, *example.completion_ids]])
        with torch.no_grad():
            said = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        first = len(example.prompt_ids) - 1
        total -= float(said.gather(1, ids[0, 1:, None])[first:, 0].sum())
        tokens += len(example.completion_ids)
    return total / tokens


def looks(folder: Path) -> dict[int, float]:
    lines = (folder / "validation.jsonl").read_text().splitlines()
    return {row["step"]: row["loss"] for row in map(json.loads, lines)}


def held(examples: list[Example], seed: int) -> list[Example]:
    return split_rows(examples, [e.problem_id for e in examples], 0.25, seed)[1]


def test_whole_questions_are_held_out() -> None:
    questions = ["a", "b", "a", "c", "d", "b"]
    training, validation = split_rows(range(6), questions, 0.5, seed=1)
    assert sorted(training + validation) == list(range(6))
    kept = {questions[i] for i in validation}
    assert len(kept) == 2
    assert not kept & {questions[i] for i in training}
    assert len(split_rows(range(4), "abcd", 0.01, seed=0)[1]) == 1
    with pytest.raises(UserError, match=r"validation.share: 0.9 of 3 questions leaves none"):
        split_rows(range(3), "abc", 0.9, seed=0)


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4)], ids=["all weights", "adapters"])
def test_what_is_looked_at_is_the_loss_of_the_model_on_disk(
    tmp_path: Path, lora: LoraSettings | None
) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    examples = sums(tokenizer, 16)
    settings = LOOKED_AT.model_copy(update={"lora": lora})
    result = train_sft(model, examples, settings, tmp_path / "out", seed=0)
    seen = looks(tmp_path / "out")
    assert list(seen) == list(range(0, 25, 3))
    validation = held(examples, 0)
    assert result["examples"] == len(examples) - len(validation)
    assert seen[0] == pytest.approx(loss(tmp_path / "base", validation), abs=1e-5)
    assert seen[24] == pytest.approx(loss(tmp_path / "out/model", validation), abs=1e-5)
    assert (result["validation_first"], result["validation_last"]) == (seen[0], seen[24])
    assert (result["validation_best"], result["kept_step"]) == (min(seen.values()), 24)


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4)], ids=["all weights", "adapters"])
def test_patience_ends_the_training_and_keeps_the_best_weights(
    tmp_path: Path, lora: LoraSettings | None
) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    examples = sums(tokenizer, 16)
    settings = with_patience(LOOKED_AT.model_copy(update={"lora": lora, "max_steps": 400}), 2)
    result = train_sft(model, examples, settings, tmp_path / "out", seed=0)
    seen = looks(tmp_path / "out")
    best = min(seen, key=lambda step: (seen[step], step))
    assert result["kept_step"] == best
    assert result["steps"] == best + 6 < 400
    assert seen[best] == result["validation_best"]
    saved = loss(tmp_path / "out/model", held(examples, 0))
    assert saved == pytest.approx(seen[best], abs=1e-5)


def test_an_interrupted_training_stops_where_a_whole_one_does(
    tmp_path: Path, interrupted_at: Any
) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    examples = sums(tokenizer, 16)
    settings = with_patience(LOOKED_AT.model_copy(update={"max_steps": 400}), 2)
    whole = train_sft(model, examples, settings, tmp_path / "whole", seed=0)
    for step in (4, whole["kept_step"] + 1):
        with interrupted_at(step):
            train_sft(model, examples, settings, tmp_path / "stopped", seed=0)
    assert train_sft(model, examples, settings, tmp_path / "stopped", seed=0) == whole
    for name in ("log.jsonl", "validation.jsonl", "model/model.safetensors"):
        expected = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "stopped" / name).read_bytes() == expected


@pytest.mark.parametrize("lost", [False, True])
def test_a_resume_that_finds_another_look_the_best_has_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted_at: Any, lost: bool
) -> None:
    """As on a GPU, where the steps after a checkpoint are not the same ones again."""
    model, tokenizer = save_model(tmp_path / "base")
    settings = with_patience(LOOKED_AT, 2)

    def train(losses: list[float]) -> dict[str, Any]:
        given = iter(losses)
        monkeypatch.setattr(Validation, "_loss", lambda self: next(given))
        return train_sft(model, sums(tokenizer, 16), settings, tmp_path / "out", seed=0)

    with interrupted_at(7):  # the last checkpoint is of step 5
        train([5.0, 2.0, 1.0])
    best = tmp_path / "out/best"
    assert sorted(folder.name for folder in best.iterdir()) == ["3", "6"]
    if lost:
        shutil.rmtree(best / "3")
        with pytest.raises(UserError, match=r"best/3, are gone; remove .*/out/work to train again"):
            train([3.0, 4.0])
        return
    result = train([3.0, 4.0])
    assert (result["kept_step"], result["steps"]) == (3, 9)
    assert [folder.name for folder in best.iterdir()] == ["3"]
    kept, saved = weights(best / "3"), weights(tmp_path / "out/model")
    assert all(torch.equal(kept[name], saved[name]) for name in kept)


def test_looking_changes_nothing_of_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    examples = sums(tokenizer, 16)
    train_sft(model, examples, LOOKED_AT, tmp_path / "looked", seed=0)
    training = split_rows(examples, [e.problem_id for e in examples], 0.25, 0)[0]
    plain = LOOKED_AT.model_copy(update={"validation": None})
    train_sft(model, training, plain, tmp_path / "plain", seed=0)
    for name in ("log.jsonl", "model/model.safetensors"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "looked" / name).read_bytes()


def test_packed_rows_are_looked_at_apart(tmp_path: Path) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    examples = sums(tokenizer, 16)
    settings = LOOKED_AT.model_copy(update={"packing": True, "max_length": 120})
    train_sft(model, examples, settings, tmp_path / "out", seed=0)
    saved = loss(tmp_path / "out/model", held(examples, 0))
    assert looks(tmp_path / "out")[24] == pytest.approx(saved, abs=1e-5)


def test_figures_go_to_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    settings = LOOKED_AT.model_copy(update={"report_to": ("tensorboard",), "max_steps": 6})
    train_sft(model, sums(tokenizer, 16), settings, tmp_path / "out", seed=0)
    from butwait.cli.curves import read_curve

    curve = read_curve(tmp_path / "out/tensorboard", "loss")
    logged = [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]
    assert curve.steps.tolist() == [row["step"] for row in logged]
    assert curve.values.tolist() == pytest.approx([row["loss"] for row in logged], abs=1e-4)
    monkeypatch.setattr(packages, "find_spec", lambda package: None)
    with pytest.raises(UserError, match=r"report_to: tensorboard needs the package tensorboard"):
        train_sft(model, sums(tokenizer, 16), settings, tmp_path / "other", seed=0)
    assert not (tmp_path / "other/log.jsonl").exists()

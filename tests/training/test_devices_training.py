"""A training on several devices (processes that talk by gloo) is that on one with the same batches:
losses and weights are compared, and only the first process writes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import on_devices
from safetensors.torch import load_file
from sft_cases import save_model, sums

from butwait.engines.models import load_tokenizer
from butwait.engines.settings import ModelSettings
from butwait.training.settings import SftSettings
from butwait.training.sft import train_sft

ROWS = 21
"""No multiple of a batch: some devices have rows fewer, or none."""
COMMON = {"learning_rate": 1e-3, "epochs": 2, "save_steps": 3}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({"batch_size": 8}, {"batch_size": 4}),
    "accumulated": (
        {"batch_size": 4, "accumulation_steps": 2},
        {"batch_size": 2, "accumulation_steps": 2},
    ),
    "packed": (
        {"packing": True, "max_length": 90, "batch_size": 2, "accumulation_steps": 2},
        {"packing": True, "max_length": 90, "batch_size": 1, "accumulation_steps": 2},
    ),
    "adapted": (
        {"lora": {"rank": 2}, "batch_size": 8},
        {"lora": {"rank": 2}, "batch_size": 4},
    ),
    "kept": (
        {"keep_epochs": True, "batch_size": 8},
        {"keep_epochs": True, "batch_size": 4},
    ),
    "validated": (
        {"validation": {"share": 0.3, "every": 1, "patience": 1}, "batch_size": 4},
        {"validation": {"share": 0.3, "every": 1, "patience": 1}, "batch_size": 2},
    ),
}


def train(base: Path, output: Path, given: dict[str, Any]) -> None:
    model = ModelSettings(name=str(base), device="cpu")
    settings = SftSettings(**COMMON | given)
    metrics = train_sft(model, sums(load_tokenizer(model), ROWS), settings, output, seed=5)
    if torch.distributed.is_initialized():
        name = f"metrics-{torch.distributed.get_rank()}.json"
    else:
        name = "metrics.json"
    (output / name).write_text(json.dumps(metrics))


def rows(file: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in file.open()]


def compare(one: Path, two: Path) -> None:
    for a, b in zip(rows(one / "log.jsonl"), rows(two / "log.jsonl"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
        assert a["learning_rate"] == b["learning_rate"]
    files = sorted(path.relative_to(one) for path in one.rglob("*.safetensors"))
    assert files == sorted(path.relative_to(two) for path in two.rglob("*.safetensors"))
    for file in files:
        if "work" in file.parts:
            continue
        expected, found = load_file(one / file), load_file(two / file)
        assert expected.keys() == found.keys()
        for name, weight in expected.items():
            torch.testing.assert_close(found[name], weight, atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("devices", [2])
def test_devices_train_as_one(tmp_path: Path, case: str, devices: int) -> None:
    save_model(tmp_path / "base")
    alone, shared = CASES[case]
    train(tmp_path / "base", tmp_path / "one", alone)
    on_devices(devices, train, tmp_path / "base", tmp_path / "two", shared)
    compare(tmp_path / "one", tmp_path / "two")
    said = [json.loads(file.read_text()) for file in sorted((tmp_path / "two").glob("metrics-*"))]
    alone_said = json.loads((tmp_path / "one/metrics.json").read_text())
    for name, value in alone_said.items():
        assert all(one[name] == pytest.approx(value, abs=1e-5) for one in said), name

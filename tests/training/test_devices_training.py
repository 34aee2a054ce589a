"""A training on several devices (processes that talk by gloo) is that on one with the same batches:
losses and weights are compared, and only the first process writes."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from forks import environment, in_parts, on_devices
from safetensors.torch import load_file
from sft_cases import save_model, sums
from transformers import TrainingArguments

from butwait.engines.models import load_tokenizer
from butwait.engines.settings import ModelSettings
from butwait.problems.settings import PromptSettings
from butwait.records import Key, UserError
from butwait.training import devices, weights
from butwait.training.arguments import training_arguments
from butwait.training.devices import LONGEST_WAIT, Devices, own_device
from butwait.training.fit import Log
from butwait.training.prm import train_prm
from butwait.training.rollouts import Rollout
from butwait.training.settings import PrmSettings, SftSettings
from butwait.training.sft import train_sft

ROWS = 21
"""No multiple of a batch: at the end of an epoch some devices have fewer rows, or none."""
CASES: dict[str, dict[str, Any]] = {
    "packed": {"packing": True, "max_length": 90, "batch_size": 2, "accumulation_steps": 2},
    "whole": {"batch_size": 4},
    "kept": {"keep_epochs": True, "batch_size": 4, "accumulation_steps": 2},
    "adapted": {"lora": {"rank": 2}, "batch_size": 8, "keep_epochs": True},
    "stopped": {
        "validation": {"share": 0.3, "every": 1, "patience": 1},
        "batch_size": 4,
        "learning_rate": 0.02,
        "warmup_ratio": 0.0,
        "epochs": 4,
    },
}


def train(base: Path, output: Path, given: dict[str, Any], devices: int = 1) -> None:
    """``batch_size`` is that of all devices together."""
    options = {"learning_rate": 1e-3, "epochs": 2, "save_steps": 3} | given
    options["batch_size"] //= devices
    model = ModelSettings(name=str(base), device="cpu")
    rows = sums(load_tokenizer(model), ROWS)
    keep(output, train_sft(model, rows, SftSettings(**options), output, seed=5))


def train_judge(base: Path, output: Path, given: dict[str, Any], devices: int = 1) -> None:
    """The same of a reward model."""
    options = {"learning_rate": 1e-3, "epochs": 2, "logging_steps": 1} | given
    options["batch_size"] //= devices
    model, prompt = ModelSettings(name=str(base), device="cpu"), PromptSettings()
    settings, key = PrmSettings(**options), Key.of(3, "prm")
    keep(output, train_prm(model, rollouts(), settings, prompt, output, key))


def keep(output: Path, metrics: dict[str, Any]) -> None:
    (output / f"metrics-{os.environ.get('RANK', 'one')}.json").write_text(json.dumps(metrics))


def rollouts() -> list[Rollout]:
    """Three paths of each of nine questions, of two steps, with any labels."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(27):
        length = int(rng.integers(3, 9))
        numbers = [rng.integers(5, 30, n).astype(np.int32) for n in (4, length)]
        ends, counts = np.array([2, length], np.int32), np.full(2, 4, np.int32)
        verified = rng.integers(0, 5, 2).astype(np.int32)
        made.append(Rollout(f"q{i // 3}", *numbers, ends, 0, "box", "correct", verified, counts))
    return made


def lines(file: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in file.open()]


def compare(one: Path, several: Path, devices: int, within: float = 1e-5) -> None:
    """Losses, weights and metrics, those of every device."""
    for a, b in zip(lines(one / "log.jsonl"), lines(several / "log.jsonl"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=within)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=10 * within)
        assert a["learning_rate"] == b["learning_rate"]
    files = {p.relative_to(one) for p in one.rglob("*.safetensors") if "work" not in p.parts}
    assert Path("model/model.safetensors") in files
    for file in files if within == 1e-5 else ():
        expected, found = load_file(one / file), load_file(several / file)
        assert expected.keys() == found.keys()
        for name, weight in expected.items():
            torch.testing.assert_close(found[name], weight, atol=within, rtol=0)
    metrics = json.loads((one / "metrics-one.json").read_text())
    for rank in range(devices):
        found = json.loads((several / f"metrics-{rank}.json").read_text())
        for name, value in metrics.items():
            shared = name != "moved" or found[name] is not None  # None of parts of the weights
            assert not shared or found[name] == pytest.approx(value, abs=within), name


@pytest.mark.parametrize(
    ("case", "devices"),
    [
        ("packed", 2),
        pytest.param("kept", 4, marks=pytest.mark.slow),
        pytest.param("adapted", 2, marks=pytest.mark.slow),
        pytest.param("stopped", 2, marks=pytest.mark.slow),
    ],
)
def test_devices_train_as_one(tmp_path: Path, case: str, devices: int) -> None:
    base, one, several = (tmp_path / name for name in ("base", "one", "several"))
    save_model(base)
    train(base, one, CASES[case])
    on_devices(devices, train, base, several, CASES[case], devices, told=tmp_path)
    # Large steps, to come to where the loss rises, enlarge what rounding makes of them too, and
    # Adam's first is as large where a gradient is almost nothing: the weights are not compared.
    compare(one, several, devices, 1e-5 if case != "stopped" else 1e-3)
    if case == "stopped":
        looks = [lines(folder / "validation.jsonl") for folder in (one, several)]
        kept = json.loads((one / "metrics-one.json").read_text())["kept_step"]
        assert kept < looks[0][-1]["step"] < 16
        assert [look["step"] for look in looks[0]] == [look["step"] for look in looks[1]]


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "accumulated"), [(2, 1), (4, 2)])
def test_devices_train_a_reward_model_as_one(
    tmp_path: Path, devices: int, accumulated: int
) -> None:
    """21 rollouts are trained on, and the audit's are shared out too."""
    base, one, several = (tmp_path / name for name in ("base", "one", "several"))
    save_model(base)
    given = {"batch_size": 4, "accumulation_steps": accumulated}
    train_judge(base, one, given)
    on_devices(devices, train_judge, base, several, given, devices, told=tmp_path)
    compare(one, several, devices)
    audits = [json.loads((folder / "audit.json").read_text()) for folder in (one, several)]
    assert audits[0].keys() == audits[1].keys()
    assert audits[0]["within_question_auc"] == audits[1]["within_question_auc"]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["whole", "adapted", "judge"])
def test_weights_in_parts_are_trained_and_saved_whole(tmp_path: Path, case: str) -> None:
    base, one, several = (tmp_path / name for name in ("base", "one", "several"))
    save_model(base)
    work = train_judge if case == "judge" else train
    given = CASES.get(case, {"batch_size": 4})
    work(base, one, given)
    on_devices(2, in_parts, work, base, several, given, 2, told=tmp_path)
    compare(one, several, 2)
    moved = json.loads((several / "metrics-0.json").read_text())["moved"]
    assert moved is None  # no device had them whole


def test_weights_in_parts_cannot_be_taken_back(tmp_path: Path) -> None:
    """Of a configuration of one's own it is found when the devices have met."""
    trainer = type("T", (), {"is_fsdp_enabled": True})()
    trainer.accelerator = type("A", (), {"state": None})()
    settings = SftSettings(**CASES["stopped"])
    from butwait.training.fit import fit

    with pytest.raises(UserError, match=r"patience keeps the weights .* take launch\.config: ddp"):
        fit(trainer, settings, None, tmp_path, "sft")  # type: ignore[arg-type]


DROPPED = {"lora": {"rank": 2, "dropout": 0.3}, "batch_size": 4, "epochs": 3, "save_steps": 4}


def die_at(step: int, *given: Any) -> None:
    """The first process of a training is gone when this step is logged."""
    on_log = Log.on_log

    def die(self: Log, args: Any, state: Any, control: Any, **others: Any) -> None:
        on_log(self, args, state, control, **others)
        if state.global_step == step:
            os._exit(9)

    Log.on_log = die  # type: ignore[method-assign]
    train(*given)


@pytest.mark.slow
def test_killed_devices_go_on_and_end_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Adapters with dropout: every device has draws of its own. Another number of processes begins
    again, and says so."""
    base, whole, killed = (tmp_path / name for name in ("base", "whole", "killed"))
    save_model(base)
    on_devices(2, train, base, whole, DROPPED, 2, told=tmp_path)
    on_devices(2, die_at, 9, base, killed, DROPPED, 2, told=tmp_path, ends=9)
    assert (killed / "work/checkpoint-8/butwait.json").exists()
    on_devices(2, train, base, killed, DROPPED, 2, told=tmp_path)
    for name in ("log.jsonl", "model/model.safetensors"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    capsys.readouterr()
    train(base, killed, DROPPED, devices=2)  # the settings are the same, and so is the work
    assert "checkpoints of 2 processes are not gone on from by 1" in capsys.readouterr().out


def test_accelerate_reads_the_shipped_configurations() -> None:
    """As its own launcher does; the zeroes of DeepSpeed without that package."""
    assert "ACCELERATE_USE_FSDP" not in environment("ddp")
    parts = environment("fsdp2")
    assert parts["ACCELERATE_USE_FSDP"] == "true"
    assert parts["FSDP_VERSION"] == "2"
    assert parts["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"
    for stage in ("2", "3"):
        spread = environment(f"zero{stage}")
        assert spread["ACCELERATE_USE_DEEPSPEED"] == "true"
        assert spread["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == stage
        assert spread["ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL"] == str(stage == "3").lower()


def met(folder: Path) -> None:
    """How long the processes of a training wait for each other."""
    tiny = ModelSettings(name="tiny", device="cpu")
    assert Devices.of(tiny).processes == 2
    training_arguments(TrainingArguments, SftSettings(), tiny, folder, 0)  # it has a limit too
    group = torch.distributed.group.WORLD
    assert group is not None
    assert group._get_backend(torch.device("cpu")).options._timeout == LONGEST_WAIT
    Devices.here().wait()  # the first one holds the store that the others meet by


def test_devices_wait_for_one_that_works_alone(tmp_path: Path) -> None:
    on_devices(2, met, tmp_path, told=tmp_path)


@pytest.mark.parametrize(
    ("named", "processes", "expected"),
    [("cuda", 1, "cuda"), ("cuda:1", 1, "cuda"), ("cuda", 2, "cuda:1")],
)
def test_weights_in_four_bits_are_where_accelerate_says_that_the_training_is(
    named: str, processes: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It compares the two, and knows no number where there is one process."""
    current: list[str] = []
    given: list[Any] = []
    state = SimpleNamespace(num_processes=processes, device=torch.device("cuda:1"))
    kind = SimpleNamespace(from_pretrained=lambda *_, **words: given.append(words["device_map"]))
    monkeypatch.setattr(devices, "device_of", lambda model: torch.device(named))
    monkeypatch.setattr(devices, "PartialState", lambda: state)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: current.append(str(device)))
    for name in ("require", "BitsAndBytesConfig"):
        monkeypatch.setattr(weights, name, lambda *_, **__: None)
    monkeypatch.setattr(weights, "causal_lm_class", lambda config: kind)
    weights.load_four_bit(ModelSettings(name="tiny", device="cpu"))
    assert given == [{"": torch.device(expected)}]
    assert current == ([named] if named == "cuda:1" else [])
    assert own_device(ModelSettings(name="tiny", device="cpu")) == torch.device(expected)

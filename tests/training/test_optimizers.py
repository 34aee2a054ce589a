"""What rounding leaves of small updates: bfloat16 weights, float32 masters, random rounding."""

import re
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sft_cases import save_model, sums, weights

from butwait.records import UserError
from butwait.running import packages
from butwait.training.grpo.settings import GrpoSettings
from butwait.training.optimizers import Beginning, choose_optimizer
from butwait.training.settings import LaunchSettings, LoraSettings, PrmSettings, SftSettings
from butwait.training.sft import train_sft

SMALL = SftSettings(
    learning_rate=1e-6, max_steps=4, batch_size=4, save_steps=None, schedule="constant"
).model_copy(update={"warmup_ratio": 0.0})
TORCHAO = pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")
WARNING = re.compile(r"bfloat16 weights: at learning_rate 1e-06 about (\d+)% of them cannot move")


def trained(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    model, tokenizer = save_model(tmp_path / "base")
    settings = SMALL.model_copy(update=changes)
    return train_sft(model, sums(tokenizer, 16), settings, tmp_path / "out", seed=0)


def share_of_others(base: Path, other: Path) -> float:
    """Of all weights on disk; those of the base as bfloat16 has them."""
    before, after = weights(base), weights(other)
    changed = sum(int((after[n] != before[n].bfloat16().float()).sum()) for n in after)
    return changed / sum(w.numel() for w in after.values())


def test_small_updates_of_bfloat16_weights_are_lost_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = trained(tmp_path, precision="bfloat16")["moved"]
    assert moved < 0.01
    on_disk = share_of_others(tmp_path / "base", tmp_path / "out/model")
    assert moved == pytest.approx(on_disk, abs=0.005)
    told = WARNING.search(capsys.readouterr().out)
    assert told is not None
    assert int(told[1]) >= 99


@pytest.mark.parametrize("precision", ["float32", pytest.param("mixed", marks=pytest.mark.slow)])
def test_float32_weights_keep_them(
    precision: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained(tmp_path, precision=precision)["moved"] > 0.9
    assert "bfloat16" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"learning_rate": 1e-2}, {"lora": LoraSettings(rank=4)}],
    ids=["a rate that moves them", "adapters, which are in float32"],
)
def test_what_moves_is_not_warned_of(
    changes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained(tmp_path, precision="bfloat16", **changes)["moved"] > 0.5
    assert "bfloat16" not in capsys.readouterr().out


def test_an_update_is_lost_below_half_the_distance_to_the_next_number() -> None:
    """bfloat16 has 8 bits of precision: between 2^e and 2^(e+1) numbers are 2^(e-7) apart, and
    below 2^e half of that."""
    policy = torch.nn.Linear(1, 4, bias=False, dtype=torch.bfloat16)
    half = 2.0**-8  # of the distance above 1

    def lost(weights: list[float], rate: float) -> float:
        with torch.no_grad():
            policy.weight.copy_(torch.tensor(weights)[:, None])
        return Beginning.of(policy).lost(rate)

    assert lost([1.5, -1.5, 1.25, 1.75], half * 1.01) == 0
    assert lost([1.5, -1.5, 1.25, 1.75], half * 0.99) == 1
    assert lost([1.0] * 4, half * 0.99) == 0.5  # it moves down and not up
    assert lost([1.0] * 4, half * 0.49) == 1
    assert lost([0.0, 1e-6, 1.5, 1.5], 1e-6) == 0.5


def test_large_tensors_count_by_their_size() -> None:
    policy = torch.nn.Sequential(torch.nn.Linear(300, 100, bias=False), torch.nn.Linear(1, 50))
    start = Beginning.of(policy)
    with torch.no_grad():
        policy[1].weight += 1
        policy[1].bias += 1
    assert start.moved(policy) == 100 / 30_100
    policy[0].requires_grad_(False)
    assert Beginning.of(policy).moved(policy) == 0
    assert start.moved(torch.nn.Linear(1, 1)) is None


@pytest.mark.parametrize("kind", [SftSettings, PrmSettings, GrpoSettings])
def test_torchao_is_asked_for_before_anything_is_computed(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    world = SimpleNamespace(package=lambda *words: asked.append(words))
    kind(optimizer="adamw_8bit", report_to=["wandb"]).look(world)
    assert asked == [("torchao", "optimizer", "'butwait[torchao]'"), ("wandb", "report_to")]
    monkeypatch.setattr(packages, "find_spec", lambda package: None)
    with pytest.raises(UserError, match=r"optimizer: adamw_8bit needs .* 'butwait\[torchao\]'"):
        choose_optimizer(None, SMALL.model_copy(update={"optimizer": "adamw_8bit"}))


def test_deepspeed_has_masters_of_its_own() -> None:
    with pytest.raises(ValueError, match=r"adamw_8bit is not for launch\.config: zero2"):
        GrpoSettings(optimizer="adamw_8bit", launch={"processes": 2, "config": "zero2"})


@pytest.mark.parametrize(
    ("config", "precision", "is_refused"),
    [
        ("zero2", "bfloat16", True),
        ("zero3", "bfloat16", True),
        ("zero3", "mixed", False),
        ("fsdp2", "bfloat16", False),
        ("ddp", "bfloat16", False),
    ],
)
def test_deepspeed_takes_no_bfloat16_weights(config: str, precision: Any, is_refused: bool) -> None:
    launch = LaunchSettings(processes=2, config=config)
    told = [*launch.refused(SftSettings(precision=precision))]
    assert [t.partition(", ")[0] for t in told] == is_refused * [
        f"precision: bfloat16 is not for launch.config: {config}"
    ]


def low_bit(name: str, seed: int = 0) -> tuple[torch.nn.Parameter, Any]:
    """A bfloat16 weight matrix and its optimizer."""
    arguments = {"learning_rate": 1e-5, "adam_beta1": 0.9, "adam_beta2": 0.999}
    trainer = SimpleNamespace(args=SimpleNamespace(**arguments, adam_epsilon=1e-8, seed=seed))
    choose_optimizer(trainer, SMALL.model_copy(update={"optimizer": name}))
    kind, others = trainer.optimizer_cls_and_kwargs
    weight = torch.nn.Parameter(torch.full((256, 1024), 0.1, dtype=torch.bfloat16))
    return weight, kind([weight], weight_decay=0.0, **others)


def steps(weight: torch.nn.Parameter, optimizer: Any, count: int) -> torch.Tensor:
    for _ in range(count):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    return weight.detach().clone()


@TORCHAO
@pytest.mark.parametrize("name", ["adamw_8bit", "adamw_4bit"])
def test_rounding_at_random_is_right_on_average(name: str) -> None:
    weight, optimizer = low_bit(name)
    start = weight.detach().double().mean()
    end = steps(weight, optimizer, 8)
    assert len(end.unique()) > 1
    assert float(start - end.double().mean()) == pytest.approx(8e-5, rel=0.02)


@TORCHAO
def test_the_draws_are_those_of_seed_and_step() -> None:
    """Alike on every device and after a resume; other draws are not moved."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    weight, optimizer = low_bit("adamw_8bit")
    whole = steps(weight, optimizer, 4)
    assert torch.equal(torch.rand(3), expected)
    other, resumed = low_bit("adamw_8bit")
    steps(other, resumed, 2)
    state = resumed.state_dict()
    again, resumed = low_bit("adamw_8bit")
    again.data.copy_(other.data)
    resumed.load_state_dict(state)
    assert torch.equal(steps(again, resumed, 2), whole)
    assert not torch.equal(steps(*low_bit("adamw_8bit", seed=1), 4), whole)


@TORCHAO
@pytest.mark.slow
def test_a_killed_training_in_eight_bits_goes_on(tmp_path: Path, interrupted_at: Any) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    settings = SMALL.model_copy(
        update={"optimizer": "adamw_8bit", "precision": "bfloat16", "save_steps": 1, "max_steps": 6}
    )
    settings = settings.model_copy(update={"learning_rate": 1e-3})
    examples = sums(tokenizer, 24)
    whole = train_sft(model, examples, settings, tmp_path / "whole", seed=0)
    with interrupted_at(4):
        train_sft(model, examples, settings, tmp_path / "out", seed=0)
    assert train_sft(model, examples, settings, tmp_path / "out", seed=0) == whole
    ends = [weights(tmp_path / f / "model") for f in ("whole", "out")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert whole["loss_last"] < whole["loss_first"]

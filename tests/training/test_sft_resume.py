"""A killed fine-tuning goes on where it was and ends with the same weights, bit for bit."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sft_cases import save_model, sums

from butwait.records import UserError
from butwait.running.files import write_json
from butwait.training import sft
from butwait.training.checkpoints import WorkFolder
from butwait.training.settings import LoraSettings, SftSettings
from butwait.training.sft import train_sft

FULL = SftSettings(
    learning_rate=1e-3,
    epochs=4,
    batch_size=3,
    accumulation_steps=2,
    save_steps=3,
    schedule="cosine",
)
LORA = FULL.model_copy(update={"lora": LoraSettings(rank=2, dropout=0.3)})
PACKED = FULL.model_copy(
    update={"packing": True, "max_length": 120, "batch_size": 1, "accumulation_steps": 1}
)


KEPT = FULL.model_copy(update={"keep_epochs": True, "save_steps": 4})


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(FULL, id="full"),
        pytest.param(LORA, id="lora", marks=pytest.mark.slow),
        pytest.param(PACKED, id="packed", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_training_ends_as_if_it_were_not(
    tmp_path: Path, interrupted_at: Any, settings: SftSettings
) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    examples = sums(tokenizer, 20)
    whole = train_sft(model, examples, settings, tmp_path / "whole", seed=5)
    for step in (5, 8):  # in the second epoch; the first steps of the third
        with interrupted_at(step):
            train_sft(model, examples, settings, tmp_path / "stopped", seed=5)
    resumed = train_sft(model, examples, settings, tmp_path / "stopped", seed=5)
    assert resumed == whole
    for name in ("log.jsonl", "model/model.safetensors"):
        expected = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "stopped" / name).read_bytes() == expected


def test_the_epochs_of_an_interrupted_training_are_those_of_a_whole_one(
    tmp_path: Path, interrupted_at: Any
) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    examples = sums(tokenizer, 20)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train_sft(model, examples, KEPT, whole, seed=5)
    # An epoch is four steps, and so is a checkpoint: the resumes begin at the ends of epochs.
    for step in (6, 9):
        with interrupted_at(step):
            train_sft(model, examples, KEPT, stopped, seed=5)
    train_sft(model, examples, KEPT, stopped, seed=5)
    weights = [f"epochs/{n}/model/model.safetensors" for n in (1, 2, 3, 4)]
    for name in weights:
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()
    assert len({(whole / name).read_bytes() for name in weights}) == 4
    assert (whole / weights[-1]).read_bytes() == (whole / "model/model.safetensors").read_bytes()
    plain = KEPT.model_copy(update={"keep_epochs": False})
    train_sft(model, examples, plain, tmp_path / "plain", seed=5)
    final = (tmp_path / "plain/model/model.safetensors").read_bytes()
    assert final == (whole / "model/model.safetensors").read_bytes()


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)], ids=["all weights", "adapters"])
def test_a_training_that_ends_within_its_first_epoch_keeps_none(
    tmp_path: Path, lora: LoraSettings | None
) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    short = KEPT.model_copy(update={"epochs": 0.5, "lora": lora})
    assert train_sft(model, sums(tokenizer, 20), short, tmp_path / "out", seed=5)["steps"] == 2
    assert (tmp_path / "out/model/model.safetensors").exists()
    assert not (tmp_path / "out/epochs").exists()


def test_a_resume_does_not_train_the_steps_before_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted_at: Any
) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    examples = sums(tokenizer, 20)
    with interrupted_at(8):
        train_sft(model, examples, FULL, tmp_path / "out", seed=5)
    passes = 0
    compute_loss = sft._Trainer.compute_loss

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal passes
        passes += 1
        return compute_loss(*args, **kwargs)

    monkeypatch.setattr(sft._Trainer, "compute_loss", counted)
    result = train_sft(model, examples, FULL, tmp_path / "out", seed=5)
    # 20 examples in batches of 3, two a step: 4 steps and 7 forward passes an epoch. The last
    # checkpoint is step 6, half through the second epoch.
    assert result["steps"] == 16
    assert passes == 4 * 7 - (7 + 4)


def test_other_work_in_the_folder_is_not_resumed(tmp_path: Path, interrupted_at: Any) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    examples = sums(tokenizer, 20)
    fresh = train_sft(model, examples, FULL, tmp_path / "fresh", seed=6)
    with interrupted_at(8):
        train_sft(model, examples, FULL, tmp_path / "out", seed=5)
    assert train_sft(model, examples, FULL, tmp_path / "out", seed=6) == fresh


def test_the_model_counts_by_its_content_and_not_by_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted_at: Any
) -> None:
    """A run's folder may be spelled in another way, or moved."""
    model, tokenizer = save_model(tmp_path / "base")
    examples = sums(tokenizer, 20)
    checkpoint = tmp_path / "out/work/checkpoint-6"
    with interrupted_at(8):
        train_sft(model, examples, FULL, tmp_path / "out", seed=5)
    kept = checkpoint.stat().st_ino
    monkeypatch.chdir(tmp_path)
    with interrupted_at(8):
        there = model.model_copy(update={"name": "base"})
        train_sft(there, examples, FULL, tmp_path / "out", seed=5)
    assert checkpoint.stat().st_ino == kept
    with (tmp_path / "base/config.json").open("a") as config:
        config.write("\n")  # Any other byte may be another model.
    with interrupted_at(2):
        train_sft(model, examples, FULL, tmp_path / "out", seed=5)
    assert not checkpoint.exists()


def test_a_half_written_checkpoint_is_left_out(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path / "work", "this work")
    assert work.last() is None
    for step in (90, 100, 110):
        (work.path / f"checkpoint-{step}").mkdir()
        (work.path / f"checkpoint-{step}" / "model.safetensors").touch()
    for step in (90, 100):
        write_json(work.path / f"checkpoint-{step}" / "butwait.json", {"trained_tokens": step})
    again = WorkFolder(tmp_path / "work", "this work")
    assert again.last() == (work.path / "checkpoint-100", {"trained_tokens": 100})
    assert not (work.path / "checkpoint-110").exists()
    assert WorkFolder(tmp_path / "work", "other work").last() is None


@pytest.mark.slow
def test_a_full_disk_is_a_user_error_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    examples = sums(tokenizer, 20)
    whole = train_sft(model, examples, FULL, tmp_path / "whole", seed=5)
    save = sft._Trainer._save_optimizer_and_scheduler

    def full(self: Any, folder: str) -> None:
        if folder.endswith("checkpoint-6"):
            raise OSError(28, "No space left on device")
        save(self, folder)

    with monkeypatch.context() as patch:
        patch.setattr(sft._Trainer, "_save_optimizer_and_scheduler", full)
        with pytest.raises(UserError, match="the disk is full: a checkpoint was not written"):
            train_sft(model, examples, FULL, tmp_path / "out", seed=5)
    assert (tmp_path / "out/work/checkpoint-3/butwait.json").exists()
    assert train_sft(model, examples, FULL, tmp_path / "out", seed=5) == whole


TRAIN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from sft_cases import sums
from test_sft_resume import FULL
from butwait.engines.models import load_tokenizer
from butwait.engines.settings import ModelSettings
from butwait.training.sft import train_sft
folder = Path(sys.argv[2])
model = ModelSettings(name=str(folder / "base"), device="cpu")
settings = FULL.model_copy(update={"epochs": 30.0})
train_sft(model, sums(load_tokenizer(model), 20), settings, folder / sys.argv[3], seed=5)
"""


def start(folder: Path, name: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", TRAIN, str(Path(__file__).parent), str(folder), name]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


@pytest.mark.slow
def test_kill_9_and_the_same_command_again_give_the_same_weights(
    tmp_path: Path, wait_for_lines: Any
) -> None:
    save_model(tmp_path / "base")
    assert start(tmp_path, "whole").wait() == 0
    for lines in (31, 77):
        process = start(tmp_path, "killed")
        wait_for_lines(tmp_path / "killed/log.jsonl", lines, process)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert list((tmp_path / "killed/work").glob("checkpoint-*"))
    assert start(tmp_path, "killed").wait() == 0
    for name in ("log.jsonl", "model/model.safetensors"):
        expected = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "killed" / name).read_bytes() == expected

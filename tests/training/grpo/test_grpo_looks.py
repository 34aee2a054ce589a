"""Looks at held-out questions: which checkpoint is kept, and what a resume knows."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from butwait.training.grpo.looks import LookResult, Looks


def seen(accuracy: float) -> LookResult:
    return LookResult(accuracy, (0.0, 1.0), 4, 1, 10.0, 40, [])


class Training:
    """As much of a trainer as looks see: its accuracy at every step is written down."""

    def __init__(
        self,
        output: Path,
        accuracies: dict[int, float],
        steps: int,
        every: int = 2,
        saves: bool = True,
    ) -> None:
        self.accuracies, self.taken = accuracies, []
        self.facts: dict[str, Any] = {}
        self.state = SimpleNamespace(global_step=0, max_steps=steps, is_world_process_zero=True)
        self.control = SimpleNamespace()
        self.work = output / "work"
        self.args = SimpleNamespace(output_dir=str(self.work))
        self.saves = saves
        self.looks = Looks(output, every, self.look, self.save, self.facts)

    def look(self, step: int) -> LookResult:
        self.taken.append(step)
        return seen(self.accuracies[step])

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "weights").write_text(str(self.state.global_step))

    def save_checkpoint(self, step: int) -> None:
        (self.work / f"checkpoint-{step}").mkdir(parents=True, exist_ok=True)
        if (old := self.work / f"checkpoint-{step - 4}").exists():  # two are kept
            old.rmdir()

    def run(self, until: int, *, ends: bool = False) -> None:
        self.looks.on_train_begin(self.args, self.state, self.control)
        while self.state.global_step < until:
            self.state.global_step += 1
            self.looks.on_step_end(self.args, self.state, self.control)
            if self.saves and self.state.global_step % 2 == 0:
                self.save_checkpoint(self.state.global_step)
        if ends:
            self.looks.on_train_end(self.args, self.state, self.control)


def kept(output: Path) -> list[str]:
    return sorted(folder.name for folder in (output / "best").iterdir())


def test_the_first_of_the_best_looks_is_kept(tmp_path: Path) -> None:
    accuracies = {0: 0.2, 2: 0.5, 4: 0.4, 6: 0.5, 7: 0.3}
    training = Training(tmp_path, accuracies, steps=7)
    training.run(7, ends=True)
    # Before the first step, at every second, and after the last.
    assert training.taken == [0, 2, 4, 6, 7]
    assert training.looks.best["step"] == 2
    assert kept(tmp_path) == ["2"]
    assert (training.looks.weights(2) / "weights").read_text() == "2"
    lines = [json.loads(line) for line in (tmp_path / "looks.jsonl").read_text().splitlines()]
    assert [(line["step"], line["accuracy"]) for line in lines] == list(accuracies.items())
    assert lines[0] | {"step": 2, "accuracy": 0.5} == lines[1]


def test_a_training_that_stops_early_is_looked_at_once_more(tmp_path: Path) -> None:
    training = Training(tmp_path, {0: 0.2, 2: 0.1, 3: 0.9}, steps=100)
    training.run(3, ends=True)
    assert training.taken == [0, 2, 3]
    assert training.looks.best["step"] == 3


def test_weights_that_a_checkpoint_may_need_stay(tmp_path: Path) -> None:
    training = Training(tmp_path, {0: 0.2, 2: 0.3, 4: 0.4, 6: 0.1, 8: 0.5, 10: 0.1}, steps=100)
    training.run(4)
    # A resume may begin at the checkpoint of step 2, where look 2 was the best.
    assert kept(tmp_path) == ["2", "4"]
    training.run(6)
    assert kept(tmp_path) == ["2", "4"]  # of steps 2 and 4, when it looked
    training.run(8)
    assert kept(tmp_path) == ["4", "8"]
    training.run(10)
    assert kept(tmp_path) == ["4", "8"]


def test_without_checkpoints_the_best_model_alone_is_kept(tmp_path: Path) -> None:
    training = Training(tmp_path, {0: 0.2, 2: 0.3, 4: 0.4, 6: 0.1}, steps=100, saves=False)
    for until, best in ((0, "0"), (2, "2"), (4, "4"), (6, "4")):
        training.run(until)
        assert kept(tmp_path) == [best]


def test_a_resume_goes_on_with_the_looks_of_its_checkpoint(tmp_path: Path) -> None:
    accuracies = {0: 0.2, 2: 0.5, 4: 0.6, 6: 0.1, 8: 0.55}
    whole = Training(tmp_path / "whole", accuracies, steps=8)
    whole.run(8, ends=True)
    killed = Training(tmp_path / "killed", accuracies, steps=8)
    killed.run(2)
    checkpoint = json.dumps(killed.facts)
    killed.run(5)  # a look at 4 and no checkpoint behind it that is used
    resumed = Training(tmp_path / "killed", accuracies, steps=8)
    resumed.facts.update(json.loads(checkpoint))
    resumed.state.global_step = 2
    (tmp_path / "killed/best/4").rename(tmp_path / "gone")
    resumed.run(8, ends=True)
    assert resumed.taken == [4, 6, 8]
    assert resumed.looks.best["step"] == whole.looks.best["step"] == 4
    for name in ("looks.jsonl", "best/4/weights"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_after_a_resume_the_file_has_no_look_of_a_later_step(tmp_path: Path) -> None:
    training = Training(tmp_path, {0: 0.2, 2: 0.5, 4: 0.6}, steps=8)
    training.run(2)
    facts = json.loads(json.dumps(training.facts))
    training.run(4)
    resumed = Training(tmp_path, {}, steps=8)
    resumed.facts.update(facts)
    resumed.state.global_step = 2
    resumed.run(2)
    lines = (tmp_path / "looks.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 2]


def test_other_devices_write_nothing(tmp_path: Path) -> None:
    training = Training(tmp_path, {0: 0.2}, steps=1)
    training.state.is_world_process_zero = False
    training.looks.on_train_begin(training.args, training.state, training.control)
    assert training.taken == [0]
    assert not (tmp_path / "looks.jsonl").exists()


def test_the_best_of_no_looks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        _ = Training(tmp_path, {}, steps=1).looks.best

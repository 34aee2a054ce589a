"""Figures in TensorBoard, and trackers that are not there."""

from pathlib import Path
from typing import Any

import pytest
from grpo_recipes import GRPO, rows, run_stages
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerControl, TrainerState, TrainingArguments

from butwait.cli.curves import read_curve
from butwait.records import UserError
from butwait.running import packages
from butwait.training.fit import TensorBoard


def test_events_outlive_the_checkpoints(tmp_path: Path) -> None:
    short = {"steps": 2, "questions": 4, "save_steps": None, "samples_every": 1}
    run = run_stages(tmp_path, grpo=GRPO | short | {"kind": "grpo", "report_to": ["tensorboard"]})
    curve = read_curve(run / "grpo" / "tensorboard", "reward")
    assert curve.steps.tolist() == [1, 2]
    logged = [line["reward"] for line in rows(run / "grpo" / "log.jsonl")]
    assert curve.values.tolist() == pytest.approx(logged, abs=1e-6)


def test_a_resume_takes_back_what_was_logged_behind_its_checkpoint(tmp_path: Path) -> None:
    args = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    for start, end, value in ((0, 5, 1.0), (3, 6, 2.0)):
        state, control = TrainerState(global_step=start), TrainerControl()
        callback = TensorBoard(tmp_path / "events")
        callback.on_train_begin(args, state, control)
        for state.global_step in range(start + 1, end + 1):
            callback.on_log(args, state, control, logs={"reward": value})
        callback.on_train_end(args, state, control)
    events = EventAccumulator(str(tmp_path / "events")).Reload().Scalars("train/reward")
    assert [(event.step, event.value) for event in events] == [
        (1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0), (6, 2.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"report_to": ["trackio"]},
            "report_to`: the package trackio is needed and not installed: pip install",
        ),
        (
            {"generation": {"kind": "vllm_colocate"}},
            r"kind`: the package vllm is needed and not installed: pip install 'butwait\[vllm\]'",
        ),
    ],
)
def test_a_package_that_is_missing_is_one_sentence(
    tmp_path: Path,
    settings: dict[str, Any],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda package: None)
    with pytest.raises(UserError, match=sentence):
        run_stages(tmp_path, grpo=GRPO | {"kind": "grpo"} | settings)

"""The stages of kind sft and prm on several devices, and a training on two machines."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest

from butwait.pipeline import join
from butwait.pipeline.launch import command
from butwait.records import UserError
from butwait.training.settings import LaunchSettings

TRACES = "".join(
    json.dumps({"question": f"{a} + {b}?", "solution": f"{a} + {b} = {a + b}\n\\boxed{{{a + b}}}",
                "answer": str(a + b)}) + "\n"
    for a in range(1, 6) for b in range(1, 5)
)  # fmt: skip
RECIPE = """
name: devices
model: {name: tiny, device: cpu}
threads: 1
prompt: {template: "{question}"}
engine: {kind: transformers, slots: 16, prefill_chunk: 16}
problems:
  hunt: {source: traces.jsonl, columns: {question: question, answer: answer, solution: solution}}
  few: {source: arithmetic, split: search, limit: 6}
stages:
  data: {kind: external, problems: hunt}
  tuned:
    {kind: sft, from: [data], max_steps: 6, batch_size: 8, learning_rate: 1.0e-3, save_steps: 1}
  judge:
    kind: prm
    problems: few
    rollouts: {solutions: 3, prefixes: 0, steps: {delimiters: ["\\n"], max_tokens: 48}}
    max_steps: 3
    batch_size: 4
    logging_steps: 1
"""
TWO = "{processes: 2, config: cpu}"


def words(folder: Path, run: str, *settings: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    (folder / "mine.yaml").write_text(RECIPE)
    (folder / "traces.jsonl").write_text(TRACES)
    given = [word for setting in settings for word in ("--set", f"stages.{setting}")]
    return [sys.executable, "-m", "butwait", "run", "mine.yaml", "--run-dir", run, *given]


def losses(stage: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (stage / "log.jsonl").open()]


def run(folder: Path, name: str, *settings: str) -> None:
    done = subprocess.run(
        words(folder, name, *settings), cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_stages_on_two_devices_are_those_of_one(tmp_path: Path) -> None:
    """A run killed in the middle goes on, and a reward model's rollouts are the run's own."""
    run(tmp_path, "one")
    on_two = ["tuned.batch_size=4", f"tuned.launch={TWO}", "judge.batch_size=2",
              f"judge.launch={TWO}"]  # fmt: skip
    begun = subprocess.Popen(words(tmp_path, "two", *on_two), cwd=tmp_path)
    log = tmp_path / "two/tuned/log.jsonl"
    try:
        while not (log.exists() and len(log.read_bytes().splitlines()) >= 3):
            assert begun.poll() is None
            time.sleep(0.02)
    finally:
        begun.kill()
        begun.wait()
    run(tmp_path, "two", *on_two)
    for stage in ("tuned", "judge"):
        one, two = (tmp_path / name / stage for name in ("one", "two"))
        assert losses(two) == pytest.approx(losses(one), abs=1e-5)
        assert not (two / "job.json").exists()
    records = [json.loads((tmp_path / f"{n}/judge/stage.json").read_text()) for n in ("one", "two")]
    assert records[0]["cost"] == records[1]["cost"]
    said = (tmp_path / "two/log.txt").read_text()
    assert "not gone on from" not in said


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_machines_train_as_one(tmp_path: Path) -> None:
    """Two launchers here, of a process each; the second joins before the stage is due."""
    run(tmp_path, "one", "judge.max_steps=2")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = str(held.getsockname()[1])
    there = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "SLURM_NODEID": "1"}
    other = [sys.executable, "-m", "butwait.pipeline.join", "two", "tuned"]
    launch = "tuned.launch={processes: 2, config: cpu, machines: 2}"
    given = words(tmp_path, "two", "tuned.batch_size=4", launch, "judge.max_steps=2")
    joined = subprocess.Popen(
        other, cwd=tmp_path, env=there, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        done = subprocess.run(given, cwd=tmp_path, env=there, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said, _ = joined.communicate(timeout=60)
    finally:
        with suppress(ProcessLookupError):  # it has ended, as it should
            os.killpg(joined.pid, signal.SIGKILL)
        joined.wait()
    assert (joined.returncode, said.splitlines()[0]) == (0, "waiting for tuned of two")
    assert losses(tmp_path / "two/tuned") == pytest.approx(losses(tmp_path / "one/tuned"), abs=1e-5)
    again = subprocess.run(other, cwd=tmp_path, env=there, capture_output=True, text=True)
    assert (again.returncode, again.stdout) == (0, "tuned of two is finished\n")


def test_the_words_of_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "node-0")
    monkeypatch.setenv("MASTER_PORT", "1234")
    place = Path("runs/mine")

    def pairs(given: Sequence[str]) -> set[tuple[str, str]]:
        return {(a, b) for a, b in pairwise(given) if a.startswith("--")}

    two = LaunchSettings(processes=16, config="fsdp2", machines=2)
    assert pairs(command(place, "rl", two, 1)) >= {
        ("--num_processes", "16"),
        ("--num_machines", "2"),
        ("--machine_rank", "1"),
        ("--main_process_ip", "node-0"),
        ("--main_process_port", "1234"),
    }
    slow = LaunchSettings(processes=4, config="cpu", machines=2)
    assert pairs(command(place, "rl", slow)) >= {
        ("--nproc_per_node", "2"),
        ("--nnodes", "2"),
        ("--node_rank", "0"),
        ("--master_addr", "node-0"),
    }
    monkeypatch.delenv("MASTER_ADDR")
    with pytest.raises(UserError, match="export MASTER_ADDR"):
        command(place, "rl", two)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["run"], "write python -m butwait.pipeline.join RUN STAGE"),
        (["run", "tuned"], "which machine is this?"),
        (["run", "tuned", "0"], "'0' is no machine that joins: they are 1, 2, ...; the run is on"),
        (["run", "tuned", "x"], "'x' is no machine"),
    ],
)
def test_mistakes_of_one_who_joins(
    capsys: pytest.CaptureFixture[str], given: list[str], told: str
) -> None:
    assert join.main(given) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("launch", "device", "told"),
    [
        (
            "{processes: 3, config: cpu, machines: 2}",
            "cpu",
            "cannot be shared out by 2 machines",
        ),
        ("{processes: 2, config: cpu, machines: 2}", "cpu", "export MASTER_ADDR"),
        ("{processes: 2, config: mine.yaml}", "cpu", "'mine.yaml' is no configuration of acceler"),
        ("{processes: 2, config: zero3}", "cpu", "the package deepspeed is needed"),
        ("{processes: 4}", "auto", "4 processes need a GPU each, and this machine has none"),
    ],
)
def test_mistakes_are_told_by_check(
    own_folder: Path,
    command: object,
    monkeypatch: pytest.MonkeyPatch,
    launch: str,
    device: str,
    told: str,
) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    # As a machine with a CPU alone, and without the package.
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda **_: None)
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 0)
    monkeypatch.setattr(
        "butwait.running.world.find_spec",
        lambda name: None if name == "deepspeed" else find_spec(name),
    )
    words(own_folder, "run")
    (own_folder / "mine.yaml").write_text(RECIPE)
    (own_folder / "mine.yaml").rename(own_folder / "recipe.yaml")
    (own_folder / "mine.yaml").write_text("- no: mapping\n")
    settings = [f"stages.tuned.launch={launch}", f"model.device={device}"]
    code, _, said = command(  # type: ignore[operator]
        "check", "recipe.yaml", *(word for s in settings for word in ("--set", s))
    )
    assert code == 2
    assert told in said


@pytest.mark.parametrize(
    ("stage", "told"),
    [
        ("optimizer: adamw_8bit, launch: {processes: 2, config: zero2}", "not for launch.config"),
        ("optimizer: adamw_8bit, launch: {processes: 2, config: fsdp2}", "not for launch.config"),
        ("lora: {four_bit: true}, launch: {processes: 2, config: fsdp2}", "lora.four_bit is not"),
        (
            "validation: {patience: 2}, launch: {processes: 2, config: fsdp2}",
            "validation.patience is not for launch.config: fsdp2",
        ),
    ],
)
def test_what_devices_cannot_do_is_told_by_check(
    own_folder: Path, command: object, stage: str, told: str
) -> None:
    words(own_folder, "run")
    tuned = f"stages.tuned={{kind: sft, from: [data], {stage}}}"
    code, _, said = command("check", "mine.yaml", "--set", tuned)  # type: ignore[operator]
    assert code == 2
    assert told in said

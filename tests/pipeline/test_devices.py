"""A training on two devices (processes that talk by gloo) is the training on one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from butwait.pipeline.launch import command
from butwait.pipeline.run import run_recipe
from butwait.recipe.load import load_recipe
from butwait.records import UserError
from butwait.running import packages
from butwait.stages.kinds import STAGES
from butwait.training.settings import LaunchSettings

RECIPE = """
name: devices
model: {name: tiny, device: cpu}
threads: 1
prompt: {template: "{question}"}
problems:
  hunt: {source: arithmetic, split: search, limit: 32}
  choose: {source: arithmetic, split: validation, limit: 4}
stages:
  rl:
    kind: grpo_direct
    problems: hunt
    reward_model: {kind: confidence}
    steps: 2
    questions: 4
    group: 4
    learning_rate: 3.0e-4
    search_below: 0.5
    mu_until: 1.0
    step: {delimiters: [], max_tokens: 64}
    generation: {slots: 16, prefill_chunk: 16, deterministic: true}
    sampler: {kind: particle_filter, particles: 4, step: {delimiters: ["\\n"], max_tokens: 64}}
    selection: {problems: choose, every: 1}
"""


def trained(folder: Path, *overrides: str) -> list[dict[str, float]]:
    """The lines of the log."""
    path = folder / "recipe.yaml"
    folder.mkdir()
    path.write_text(RECIPE)
    run_recipe(load_recipe(str(path), STAGES, overrides), folder / "run")
    return [json.loads(line) for line in (folder / "run/rl/log.jsonl").open()]


@pytest.mark.slow
def test_two_devices_give_the_losses_of_one(tmp_path: Path) -> None:
    """The same questions, completions and searches; a sum over them is divided otherwise. The
    second step's loss and gradient are those of the weights that the first one made."""
    one = trained(tmp_path / "one", "stages.rl.batch_size=16")
    two = trained(
        tmp_path / "two",
        "stages.rl.batch_size=8",
        "stages.rl.launch={processes: 2, config: cpu}",
    )
    assert [line["step"] for line in one] == [1, 2]
    for a, b in zip(one, two, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
        for name in ("reward", "tokens/policy", "search/questions", "selection/accuracy"):
            assert a[name] == b[name], name
    assert one[0]["search/questions"] > 0
    entries = [
        line.split(" ")
        for line in (tmp_path / "two/run/log.txt").read_text().splitlines()
        if not line.startswith("    ")
    ]
    assert all(time.endswith("Z") and level.endswith(":") for time, _, level, *_ in entries)
    assert len({process for _, process, *_ in entries}) == 3  # the run and its workers
    assert sum(" ".join(words) == "done" for _, _, _, *words in entries) == 3


@pytest.mark.slow
def test_a_mistake_that_the_workers_find_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"all steps \(2\) would be warm-up"):
        trained(
            tmp_path / "run",
            "stages.rl.warmup_ratio=0.9",
            "stages.rl.batch_size=8",
            "stages.rl.launch={processes: 2, config: cpu}",
        )


def test_questions_that_do_not_divide_are_told_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"questions \(3\) must be a multiple of the 2 devices"):
        trained(
            tmp_path / "run",
            "stages.rl.questions=3",
            "stages.rl.batch_size=4",
            "stages.rl.launch={processes: 2, config: cpu}",
        )


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
MOMENTS = int(os.environ.get("BUTWAIT_KILLS", "3"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_workers_of_a_killed_run_end_with_it_and_the_next_run_goes_on(tmp_path: Path) -> None:
    """Killed when the launcher has started, when the workers have, and after steps.
    ``BUTWAIT_KILLS`` is how many kills there are; 30 is ten moments of each signal."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    options = (
        f"steps={6 + 2 * MOMENTS}",
        "batch_size=8",
        "save_steps=1",
        "launch={processes: 2, config: cpu}",
    )
    words = ["run", "recipe.yaml", "--run-dir", "run"]
    for option in options:
        words += ["--set", f"stages.rl.{option}"]
    log = tmp_path / "run/rl/log.jsonl"
    for moment in range(MOMENTS):
        run = subprocess.Popen([sys.executable, "-m", "butwait", *words], cwd=tmp_path)
        tree = _tree_at(run.pid, moment % 4, log)
        run.send_signal(SIGNALS[moment % 3])
        end = time.monotonic() + 10
        while any(_lives(process) for process in tree):
            living = [_words(process) for process in tree if _lives(process)]
            assert time.monotonic() < end, f"moment {moment}: {living}"
            time.sleep(0.05)
        assert run.wait() != 0
    done = subprocess.run([sys.executable, "-m", "butwait", *words], cwd=tmp_path, check=True)
    assert done.returncode == 0
    assert [json.loads(line)["step"] for line in log.open()] == list(range(1, 7 + 2 * MOMENTS))


def _tree_at(run: int, stage: int, log: Path) -> list[psutil.Process]:
    """The processes of a run when the launcher lives (0), when the workers do (1), and when the
    log has grown by a line or two (2, 3)."""
    lines = len(log.read_bytes().splitlines()) if log.exists() else 0
    parent = psutil.Process(run)
    while True:
        tree = [parent, *parent.children(recursive=True)]
        launched = [p for p in tree if "butwait.pipeline.worker" in _words(p)]
        new = len(log.read_bytes().splitlines()) - lines if log.exists() else 0
        if launched and (stage == 0 or (stage == 1 and len(launched) == 3) or 1 < stage <= new + 1):
            return tree
        assert parent.is_running()
        assert parent.status() != psutil.STATUS_ZOMBIE, "the run ended before it could be killed"
        time.sleep(0.02)


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("config", ["ddp", "fsdp2", "zero2", "zero3"])
def test_shipped_configurations(config: str) -> None:
    words = command(Path("runs/mine"), "rl", LaunchSettings(processes=8, config=config))
    file = Path(words[words.index("--config_file") + 1])
    content = yaml.safe_load(file.read_text())
    kind = {"ddp": "MULTI_GPU", "fsdp2": "FSDP"}.get(config, "DEEPSPEED")
    assert (file.stem, content["distributed_type"], content["num_machines"]) == (config, kind, 1)
    assert words[-4:] == ["-m", "butwait.pipeline.worker", "runs/mine", "rl"]
    assert words[words.index("--num_processes") + 1] == "8"


def test_a_configuration_of_ones_own(tmp_path: Path) -> None:
    mine = LaunchSettings(processes=2, config=str(tmp_path / "mine.yaml"))
    with pytest.raises(UserError, match=r"mine.yaml' is no file, and none of cpu, ddp"):
        command(Path("run"), "rl", mine)
    Path(mine.config).touch()
    words = command(Path("run"), "rl", mine)
    assert words[words.index("--config_file") + 1] == mine.config


def test_deepspeed_that_is_missing_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda package: None)
    with pytest.raises(UserError, match=r"launch\.config`: the package deepspeed is needed"):
        trained(tmp_path / "run", "stages.rl.launch={processes: 2, config: zero2}")


def test_processes_without_a_gpu_are_started_by_torch() -> None:
    words = command(Path("run"), "rl", LaunchSettings(processes=3, config="cpu"))
    assert words[1:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "3"]


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_the_workers_too(tmp_path: Path, sent: signal.Signals) -> None:
    """The signal reaches the run's process alone, as that of a supervisor does."""
    run = tmp_path / "run"
    words = ["run", "mine.yaml", "--run-dir", run, "--set"]
    (tmp_path / "mine.yaml").write_text(RECIPE)
    settings = ["stages.rl.launch={processes: 2, config: cpu}", "--set", "stages.rl.batch_size=8"]
    process = subprocess.Popen(
        [sys.executable, "-m", "butwait", *map(str, words), *settings],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not (run / "rl/log.jsonl").exists():
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(sent)
    _, said = process.communicate()
    assert process.returncode == 128 + sent, said
    assert said.strip().endswith("butwait: stopped; the same command goes on where it was")
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []

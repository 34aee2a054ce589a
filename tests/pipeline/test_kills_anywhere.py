"""`kill -9` at any moment of a loop, its trainings and its report included, changes nothing.

``BUTWAIT_KILLS`` is how many kills there are. A loop that ends before it had its share is compared
and begun again.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pipeline_runs import butwait, prepare

KILLS = int(os.environ.get("BUTWAIT_KILLS", "6"))

LOOP = """# Everything that a run can be killed in.
model: {name: tiny, device: cpu}
threads: 1
prompt: {template: "{question}"}
engine: {kind: transformers, slots: 32, prefill_chunk: 16, deterministic: true}
problems:
  test: {source: arithmetic, split: test, limit: 12}
  train: {source: arithmetic, split: train, limit: 12}
  hunt: {source: arithmetic, split: search, limit: 12}
  choose: {source: arithmetic, split: validation, limit: 4}
stages:
  base: {kind: evaluate, problems: [test], shard_size: 5, methods: &methods {sample: {k: 2,
    sampler: {kind: independent, step: {delimiters: [], max_tokens: 64}}}}}
  prm:
    kind: prm
    problems: train
    max_steps: 4
    save_steps: 1
    learning_rate: 1.0e-3
    rollouts: {solutions: 4, prefixes: 1, completions: 2, shard_size: 5,
      steps: &step {delimiters: ["\\n"], max_tokens: 64}}
  search:
    kind: search
    from: [prm]
    problems: hunt
    concurrency: 4
    shard_size: 5
    sampler: {kind: particle_filter, particles: 8, step: *step}
  verified: {kind: verified, from: [search], per_question: 2}
  backtrack: {kind: backtrack, from: [search], per_question: 2, confirm: {completions: 2}}
  sft: {kind: sft, from: [verified], max_steps: 4, save_steps: 1, learning_rate: 3.0e-4}
  again: {kind: sft, from: [sft, backtrack], epochs: 2, save_steps: 1, keep_epochs: true,
    learning_rate: 3.0e-4}
  direct:
    kind: grpo_direct
    from: [prm]
    problems: hunt
    steps: 3
    save_steps: 1
    questions: 4
    group: 4
    learning_rate: 3.0e-4
    search_below: 0.5
    step: {delimiters: [], max_tokens: 64}
    generation: {slots: 16, prefill_chunk: 16, deterministic: true}
    sampler: {kind: particle_filter, particles: 4, step: *step}
    selection: {problems: choose, every: 1}
  after: {kind: evaluate, from: [again, prm], problems: [test], methods: *methods}
  after_direct: {kind: evaluate, from: [direct], problems: [test], methods: *methods}
  report: {kind: report}
"""


@pytest.mark.slow
@pytest.mark.timeout(600 + 120 * KILLS)
def test_kills_at_any_moment_end_in_the_same_summary(tmp_path: Path) -> None:
    clean = prepare(tmp_path / "clean", LOOP)
    started = time.monotonic()
    done = butwait("run", clean, cwd=clean.parent)
    length = time.monotonic() - started
    assert done.returncode == 0, done.stderr
    expected = result(clean.parent / "runs/mine")

    killed = prepare(tmp_path / "killed", LOOP)
    run = killed.parent / "runs/mine"
    draws = random.Random(int(os.environ.get("BUTWAIT_SEED", "0")))
    kills = loops = 0
    while kills < KILLS:
        died, said = killed_run(killed, run, draws, length)
        if died:
            kills += 1
            continue
        assert (run / "report/stage.json").exists(), said
        assert result(run) == expected
        shutil.rmtree(run)
        loops += 1
    last = butwait("run", killed, cwd=killed.parent)
    assert last.returncode == 0, last.stderr
    assert result(run) == expected
    assert leftovers(run) == []
    print(f"{kills} kills in {loops + 1} loops")


def killed_run(recipe: Path, run: Path, draws: random.Random, length: float) -> tuple[bool, str]:
    """Starts the run and kills it after some time, or when so many files came or went, which is
    where the disk changes. Returns whether it was still running, and what it said."""
    process = subprocess.Popen(
        [sys.executable, "-m", "butwait", "run", recipe.name],
        cwd=recipe.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + draws.uniform(0.1, 0.6) * length
    changes = draws.choice((draws.randint(1, 80), 10**9))
    before = names(run)
    while process.poll() is None and time.monotonic() < deadline and changes > 0:
        now = names(run)
        changes -= len(now ^ before)
        before = now
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    said, _ = process.communicate()
    if process.returncode not in (0, -signal.SIGKILL):
        pytest.fail(said)
    return process.returncode != 0, said


def names(run: Path) -> set[str]:
    walk = os.walk(run)
    return {os.path.join(at, name) for at, *held in walk for name in (*held[0], *held[1])}


def result(run: Path) -> Any:
    """The summary without wall times, and the weights."""
    summary = json.loads((run / "summary.json").read_text())
    for stage in summary["stages"].values():
        del stage["seconds"]
    weights = {
        str(file.relative_to(run)): file.read_bytes()
        for file in sorted(run.glob("*/**/model.safetensors"))
    }
    return summary, weights


def leftovers(run: Path) -> list[str]:
    """What only a resume needs."""
    ends = (".partial", ".old", ".gone", "/work", "/best", ".spool")
    return sorted(name for name in names(run) if name.endswith(ends))

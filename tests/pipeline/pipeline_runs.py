"""Recipes of a second or two, run as a user runs them: in a process of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from butwait.running.stages import read_stage

PLUGIN = '''
"""A policy and a reward model that are written down."""
import os
from butwait.engines.scripted import ScriptedEngine
from butwait.reward_models.scripted import ScriptedRewardModel

TABLE = {
    "": {"a\\n": 0.5, "b\\n": 0.5},
    "a\\n": {"\\\\boxed{3}": 0.7, "\\\\boxed{5}": 0.3},
    "b\\n": {"\\\\boxed{5}": 0.8, "\\\\boxed{3}": 0.2},
}

def policy():
    return ScriptedEngine(TABLE, delay=float(os.environ.get("DELAY", "0")))

def reward():
    return ScriptedRewardModel(lambda problem, steps: 1.0 if steps[0].text == "a\\n" else -1.0)
'''

SCRIPTED = """# A recipe without a model.
model: {name: none}
engine: {kind: scripted, script: "toys:policy"}
problems:
  train: {source: questions.jsonl}
stages:
  search:
    kind: search
    problems: train
    reward_model: {kind: custom, factory: "toys:reward"}
    concurrency: 3
    shard_size: 8
    sampler: {kind: particle_filter, particles: 4, step: {delimiters: ["\\n"], max_tokens: 8}}
"""

TINY = """# A search by the tiny model in deterministic mode.
model: {name: tiny}
prompt: {template: "{question}"}
engine: {kind: transformers, slots: 16, prefill_chunk: 8, deterministic: true}
problems:
  train: {source: arithmetic, split: search, params: {size: 40}}
stages:
  search:
    kind: search
    problems: train
    concurrency: 4
    shard_size: 8
    sampler: {kind: self_consistency, samples: 4, step: {delimiters: ["\\n"], max_tokens: 96}}
"""


def prepare(folder: Path, recipe: str = SCRIPTED, questions: int = 40) -> Path:
    """A user's folder with a recipe, its plugin and its questions; returns the recipe."""
    folder.mkdir(exist_ok=True)
    (folder / "toys.py").write_text(PLUGIN)
    rows = [
        {"id": f"q{i:02d}", "question": f"question {i}", "answer": "3"} for i in range(questions)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "mine.yaml").write_text(recipe)
    return folder / "mine.yaml"


def butwait(*words: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "butwait", *map(str, words)],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def finished(trees: Path) -> dict[str, int]:
    """Finished problems and shards on disk: file name -> time of writing in nanoseconds."""
    times = {}
    for file in [*trees.glob("shard-*.parquet"), *trees.glob(".spool/0*.parquet")]:
        with suppress(FileNotFoundError):  # a whole shard takes the place of its spool files
            times[file.name] = file.stat().st_mtime_ns
    return times


def kill_after(command: list[str], cwd: Path, trees: Path, more: int, **environment: str) -> bool:
    """Runs a command and kills it without warning when ``more`` files more are finished. Returns
    whether it was still running."""
    before = len(finished(trees))
    process = subprocess.Popen(
        [sys.executable, "-m", "butwait", *command],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and abs(len(finished(trees)) - before) < more:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def shards(trees: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(trees.glob("shard-*.parquet"))}


def is_complete(stage: Path) -> bool:
    found = read_stage(stage)
    return found is not None and found.complete

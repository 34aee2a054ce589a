"""A recipe without a model whose workers do what its questions say."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import yaml

PLUGIN = '''
"""A policy and a reward model that are written down; some questions end the process."""
import ctypes, os, sys, time
from pathlib import Path
from butwait.engines.scripted import ScriptedEngine
from butwait.records import UserError
from butwait.reward_models.scripted import ScriptedRewardModel

TABLE = {
    "": {"a\\n": 0.5, "b\\n": 0.5},
    "a\\n": {"c\\n": 1.0},
    "b\\n": {"c\\n": 1.0},
    "a\\nc\\n": {"\\\\boxed{3}": 0.7, "\\\\boxed{5}": 0.3},
    "b\\nc\\n": {"\\\\boxed{5}": 0.8, "\\\\boxed{3}": 0.2},
}

def policy():
    with open("opened.txt", "a") as file:
        print("torch" in sys.modules, os.getpid(), file=file)
    return ScriptedEngine(TABLE, delay=float(os.environ.get("DELAY", "0")))

def judged(problem, steps):
    if problem.question.endswith(" die"):
        print("this question is too hard", flush=True)
        os._exit(3)
    if "die once" in problem.question and not Path("died").exists():
        Path("died").touch()
        os._exit(3)
    if "sleep" in problem.question:
        Path("asleep").touch()
        (time.sleep if "here" in problem.question else ctypes.PyDLL(None).sleep)(600)
    if "refuse" in problem.question:
        raise UserError(f"{problem.id} cannot be judged; leave it out")
    return 1.0 if steps[0].text == "a\\n" else -1.0

def reward():
    return ScriptedRewardModel(judged)
'''
STEP = {"delimiters": ["\n"], "max_tokens": 8}
FILTER = {"kind": "particle_filter", "particles": 4, "ess_threshold": 2.0, "step": STEP}
REWARD = {"kind": "custom", "factory": "hard:reward"}
RECIPE: dict[str, Any] = {
    "name": "mine",
    "model": {"name": "none"},
    "engine": {"kind": "scripted", "script": "hard:policy"},
    "stages": {
        "search": {
            "kind": "search",
            "problems": "train",
            "reward_model": REWARD,
            "shard_size": 4,
            "sampler": FILTER,
        }
    },
}
PROCESSES = ("--set", "workers.kind=processes", "--set", "workers.count=2")


def prepare(folder: Path, questions: dict[int, str], searched: int = 12, **stages: Any) -> None:
    """A user's folder. ``questions``: index -> what is special about it. ``searched``: how many of
    them ``train`` has; four more are ``test``."""
    (folder / "hard.py").write_text(PLUGIN)
    rows = [
        {"id": f"q{i:02d}", "question": f"question {i} {questions.get(i, '')}", "answer": "3"}
        for i in range(searched + 4)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"source": "questions.jsonl"}
    sets = {"train": source | {"limit": searched}, "test": source | {"offset": searched}}
    recipe = RECIPE | {"problems": sets, "stages": stages or RECIPE["stages"]}
    (folder / "mine.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))


def files(folder: Path) -> dict[str, bytes]:
    """The results of a stage, byte by byte."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("shard-*"))
        if "timings" not in path.parts
    }


def workers_of(run: Path) -> list[psutil.Process]:
    """Processes of butwait's workers that work for a run, and what they started."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "butwait.workers.child" in words and str(run.resolve()) in words:
            found += [process, *process.children(recursive=True)]
    return found


def begin(folder: Path, *words: str, **environment: str) -> subprocess.Popen[bytes]:
    """Begins a run in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "butwait", "run", "mine.yaml", *words],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

"""Recipes of ``grpo`` and ``grpo_direct`` on the tiny model: seconds each."""

import json
from pathlib import Path
from typing import Any

import yaml

from butwait.pipeline.run import run_recipe
from butwait.recipe.load import load_recipe
from butwait.stages.kinds import STAGES

RULE = {"delimiters": [], "max_tokens": 48}
GRPO: dict[str, Any] = {
    "problems": "train",
    "steps": 6,
    "questions": 2,
    "group": 4,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "save_steps": 2,
    "samples_every": 2,
    "step": RULE,
    "generation": {"slots": 24, "prefill_chunk": 16},
}
DIRECT: dict[str, Any] = GRPO | {
    "reward_model": {"kind": "confidence"},
    "search_below": 0.5,
    "sampler": {
        "kind": "particle_filter",
        "particles": 8,
        "step": {"delimiters": ["\n"], "max_tokens": 48},
    },
}


def write_recipe(folder: Path, **stages: dict[str, Any]) -> Path:
    """A recipe with these stages, and the problem sets that they name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mine.yaml"
    arithmetic = {"source": "arithmetic", "params": {"size": 4}}
    content = {
        "model": {"name": "tiny", "device": "cpu"},
        "prompt": {"template": "{question}"},
        "problems": {
            "train": arithmetic | {"split": "train"},
            "held_out": arithmetic | {"split": "validation"},
        },
        "stages": stages,
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def run_stages(folder: Path, **stages: dict[str, Any]) -> Path:
    """Runs them in this process; returns the run's folder."""
    run_recipe(load_recipe(str(write_recipe(folder, **stages)), STAGES), folder / "run")
    return folder / "run"


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_times(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of ``log.jsonl`` without what the clock wrote."""
    return [{k: v for k, v in line.items() if k != "step_time"} for line in log]

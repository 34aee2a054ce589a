"""Made-up folders of ``grpo`` and ``grpo_direct`` stages, in the formats of
``training.grpo.callbacks`` and ``training.grpo.looks``."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from butwait.running.files import write_json

EVIL = "<script>alert('from a policy')</script>"
BANDS = ("never", "rarely", "often", "mostly")


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def training(
    run: Path,
    name: str,
    *,
    mode: str | None = None,
    arm: str | None = None,
    steps: int = 40,
    seed: int = 0,
    looks: bool = True,
    gamed: bool = False,
    **record: Any,
) -> dict[str, Any]:
    """A finished stage: its folder and its record. A step samples 1000 tokens for the groups and,
    with a mode, 500 in searches, for which the reward model runs 700. Each look is 2 points better
    than the one before, but the last, which is worse."""
    log = _log(mode, steps, seed, gamed)
    write_lines(run / name / "log.jsonl", log)
    seen = _looks(steps, seed) if looks else []
    if looks:
        write_lines(run / name / "looks.jsonl", seen)
    write_lines(run / name / "samples.jsonl", _samples(steps))
    best = max(seen, key=lambda look: look["accuracy"], default=None)
    searched = 8 * steps if mode else 0
    metrics = {
        "questions": 512,
        "steps": steps,
        "policy_tokens": int(log[-1]["tokens/policy"]),
        "search_tokens": 500 * steps if mode else 0,
        "reward_tokens": int(log[-1]["tokens/reward_model"]),
        "searched": searched,
        "solved": searched // 2,
        "reused": 0,
        "poor": searched // 4,
        "mixed_policies": 0,
        "reward_first": log[0]["reward"],
        "reward_last": log[-1]["reward"],
        "best_step": best and best["step"],
        "best_accuracy": best and best["accuracy"],
    }
    settings: dict[str, Any] = {"steps": steps, "token_budget": None, "arm": arm}
    if looks:
        settings["selection"] = {"problems": "choose", "every": steps // 4}
    if mode:
        settings["mode"] = mode
    made = {
        "name": name,
        "kind": "grpo_direct" if mode else "grpo",
        "from": [],
        "status": "complete",
        "seconds": 9.0,
        "settings": settings,
        "metrics": metrics,
        "cost": {"policy_tokens": metrics["policy_tokens"]},
    } | record
    write_json(run / name / "stage.json", made)
    return made


def _log(mode: str | None, steps: int, seed: int, gamed: bool) -> list[dict[str, float]]:
    rng = np.random.default_rng(seed)
    rows = []
    for step in range(1, steps + 1):
        done = step / steps
        row = {
            "step": step,
            "loss": 0.01,
            "reward": 0.4 + 0.4 * done + 0.02 * rng.normal(),
            "entropy": 0.5 - 0.3 * done,
            "clip_ratio/region_mean": 0.0,
            "length": 30 + 20 * done,
            "truncated": 0.0,
            "no_answer": 0.01,
            "duplicates": 0.3 + 0.3 * done,
            "all_wrong_groups": 0.3 - 0.2 * done,
            "habits/reflection": 0.2 * done,
            "hacks/several_boxes": 0.3 * done if gamed else 0.0,
            "hacks/no_reasoning": 0.004 * (step % 2),
            "hacks/other_language": 0.0,
            "tokens/policy": step * (1500.0 if mode else 1000.0),
            "tokens/reward_model": step * (700.0 if mode else 0.0),
        }
        for i, band in enumerate(BANDS):
            row[f"accuracy/{band}"] = min(1.0, 0.1 + 0.25 * i + 0.1 * done)
        if mode:
            row |= {
                "search/questions": 8.0,
                "search/solved": 0.5,
                "search/ess": 0.6,
                "search/ancestors": 0.7,
                "search/mu": max(0.0, 0.5 - done),
                "search/nll": 0.2,
                "tokens/search": step * 500.0,
            }
        if mode == "expert_iteration":
            del row["entropy"], row["clip_ratio/region_mean"]
        rows.append(row)
    return rows


def _looks(steps: int, seed: int) -> list[dict[str, Any]]:
    rows = []
    for i in range(5):
        accuracy = 0.4 + 0.02 * (i if i < 4 else 1) + 0.01 * seed
        text = "9 - 4 = 5\n" + ("Wait, let me check that again.\n" if i else EVIL) + "\\boxed{5}"
        rows.append(
            {
                "step": i * steps // 4,
                "accuracy": accuracy,
                "interval": [accuracy - 0.08, accuracy + 0.08],
                "n": 128,
                "k": 1,
                "length": 30.0,
                "policy_tokens": 3840,
                "texts": [
                    {
                        "problem_id": "q-1",
                        "question": f"What is 9 - 4? {EVIL}",
                        "text": text,
                        "status": "correct" if i else "wrong",
                    }
                ],
            }
        )
    return rows


def _samples(steps: int) -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "problem_id": f"hunt-{step}-{i}",
            "question": f"Question {i} of step {step}",
            "text": f"A text of step {step}.",
            "status": "wrong",
            "reward": 0.0,
        }
        for step in (1, steps // 2, steps)
        for i in range(2)
    ]


def evaluation(name: str, source: str, rate: float, arm: str | None = None) -> dict[str, Any]:
    """The record of an evaluate stage of that training's model."""
    metrics = {
        "n": 256,
        "k": 2,
        "pass_at_1": rate,
        "interval": [rate - 0.05, rate + 0.05],
        "tokens_per_attempt": 31.0,
        "status": {"correct": 1, "wrong": 1},
    }
    return {
        "name": name,
        "kind": "evaluate",
        "from": [source] if source else [],
        "status": "complete",
        "seconds": 1.0,
        "settings": {"methods": {"sample": {"sampler": {"kind": "independent"}}}, "arm": arm},
        "metrics": {"test/sample": metrics},
        "cost": {},
    }

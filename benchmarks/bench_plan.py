"""What `butwait plan` says, beside what runs then took: memory, tokens, seconds, share solved.

    python benchmarks/bench_plan.py [--only NAME] [--lock FILE]

Each run is a recipe of one stage (tiny and SmolLM2, on a CPU, one thread, several seeds): a pilot
of some problems in a process of its own, then all problems in another one. Seconds are those
between the loaded models and the end of the stage. Memory is the largest resident size of the
process, Python and torch included, beside that of the plan alone, and of the plan with the pilot's
path lengths. Fine-tuning has no pilot. ``--lock``: a file that is held while a pair runs, where
others measure on the same machine.

Results go to ``benchmarks/results/plan.json``: ``memory_within`` (the largest error of a plan),
``seconds_inside`` (of so many runs), ``cpu_seconds_inside`` (of the process itself, which other
programs disturb less), ``tokens_inside``, ``solved_share_inside``.
"""

import argparse
import fcntl
import json
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "plan.json"
TINY, SMOLLM2 = "tiny", "smollm2"
KINDS = ("tokens", "seconds", "cpu_seconds", "solved_share")
WHOLE = {"delimiters": [], "max_tokens": 64}
STEPS = {"delimiters": ["\n"], "max_tokens": 64}
LINE = {"kind": "custom", "factory": "butwait.reward_models.arithmetic:oracle"}


def recipe(model: str, size: int, stage: dict[str, Any], seed: int, **more: Any) -> dict[str, Any]:
    return {
        "name": "planned",
        "seed": seed,
        "threads": 1,
        "model": {"name": model},
        "prompt": {"template": "{question}"},
        "engine": {"kind": "transformers", "slots": 256, "prefill_chunk": 32},
        "problems": {"a": {"source": "arithmetic", "limit": size}},
        "stages": more | {"stage": stage},
    }


def sampled(samples: int, concurrency: int, **more: Any) -> dict[str, Any]:
    sampler = {"kind": "independent", "samples": samples, "step": WHOLE}
    return {
        "kind": "search",
        "problems": "a",
        "concurrency": concurrency,
        "sampler": sampler,
    } | more


def filtered(particles: int, concurrency: int) -> dict[str, Any]:
    sampler = {"kind": "particle_filter", "particles": particles, "step": STEPS}
    return sampled(1, concurrency, sampler=sampler, reward_model=LINE)


def attempted(k: int, concurrency: int) -> dict[str, Any]:
    method = {"k": k, "sampler": {"kind": "independent", "step": WHOLE}}
    return {
        "kind": "evaluate",
        "problems": ["a"],
        "concurrency": concurrency,
        "methods": {"sample": method},
    }


RUNS: dict[str, tuple[dict[str, Any], int]] = {
    "tiny, samples, 1": (recipe(TINY, 128, sampled(8, 16), 1), 16),
    "tiny, samples, 2": (recipe(TINY, 128, sampled(8, 16), 2), 16),
    "tiny, samples, 3": (recipe(TINY, 192, sampled(4, 16), 3), 16),
    "tiny, filter, 1": (recipe(TINY, 96, filtered(8, 16), 1), 16),
    "tiny, filter, 2": (recipe(TINY, 96, filtered(8, 16), 2), 16),
    "tiny, evaluation, 1": (recipe(TINY, 192, attempted(4, 16), 1), 16),
    "tiny, evaluation, 2": (recipe(TINY, 192, attempted(4, 16), 2), 16),
    "tiny, evaluation, 3": (recipe(TINY, 128, attempted(8, 16), 3), 16),
    "smollm2, samples": (recipe(SMOLLM2, 16, sampled(4, 4), 1), 4),
    "smollm2, evaluation": (recipe(SMOLLM2, 16, attempted(4, 4), 2), 4),
}
"""Name -> a recipe, and problems of its pilot."""
FINE_TUNING = {
    model: recipe(
        model,
        32,
        {"kind": "sft", "from": ["data"], "max_steps": 2, "batch_size": batch},
        1,
        data={"kind": "external", "problems": "a"},
    )
    for model, batch in ((TINY, 16), (SMOLLM2, 4))
}


def child(content: dict[str, Any], count: int, folder: Path) -> dict[str, Any]:
    """In a process of its own: a pilot's projections, or (``count`` 0) a run's peak memory."""
    from butwait.pipeline.pilot import run_pilot
    from butwait.pipeline.run import run_recipe
    from butwait.planning.json_form import stage_json
    from butwait.planning.plan import plan_recipe
    from butwait.recipe.load import checked_recipe
    from butwait.running.terminal import loud_from
    from butwait.stages.kinds import STAGES

    made = checked_recipe(content, STAGES, "bench_plan")
    planned = stage_json(plan_recipe(made).stages["stage"])["cpu_gb"]
    with loud_from(40):
        if not count:
            run_recipe(made, folder)
            measured = json.loads((folder / "plan.json").read_text())["measured"]["stage"]
            return {"planned_gb": planned, "peak_gb": measured["cpu_gb"]}
        found, shares = run_pilot(made, count, folder)
    stage = stage_json(plan_recipe(made, shares).stages["stage"])
    return found["stage"] | {"planned_gb": planned, "planned_with_pilot_gb": stage["cpu_gb"]}


def asked(content: dict[str, Any], count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, __file__, "--child", json.dumps([content, count, folder])]
        said = subprocess.run(words, check=True, capture_output=True, text=True)
    return dict(json.loads(said.stdout.splitlines()[-1]))


def compared(name: str) -> dict[str, Any]:
    """A pilot's projections beside what all problems took."""
    content, count = RUNS[name]
    pilot, whole = asked(content, count), asked(content, content["problems"]["a"]["limit"])
    row: dict[str, Any] = {"run": name, "pilot": pilot["pilot"], "problems": pilot["problems"]}
    for key in KINDS:
        low, high = pilot[key]["interval"]
        actual = whole[key]["estimate"]
        row[key] = pilot[key] | {"actual": actual, "inside": low <= actual <= high}
    peak = whole["peak_gb"]["interval"][0]  # the process's own
    row["memory"] = {"peak_gb": peak, "planned_gb": pilot["planned_gb"]}
    row["memory"]["planned_with_pilot_gb"] = pilot["planned_with_pilot_gb"]
    row["memory"]["error"] = pilot["planned_gb"] / peak - 1
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="runs whose name begins so")
    parser.add_argument("--lock", type=Path)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        content, count, folder = json.loads(arguments.child)
        print(json.dumps(child(content, count, Path(folder))))
        return
    rows, tuned = [], []
    for name in RUNS:
        if name.startswith(arguments.only or ""):
            with _locked(arguments.lock):
                rows.append(compared(name))
            print(json.dumps(rows[-1]), flush=True)
    for model, content in FINE_TUNING.items():
        if model.startswith(arguments.only or ""):
            found = asked(content, 0)
            tuned.append({"run": f"{model}, fine-tuning", "memory": found})
            found["error"] = found["planned_gb"] / found["peak_gb"] - 1
            print(json.dumps(tuned[-1]), flush=True)
    from bench_engine import conditions

    from butwait.running.files import write_json

    inside = {key: sum(row[key]["inside"] for row in rows) for key in KINDS}
    figures = {
        "runs": len(rows),
        **{f"{key}_inside": count for key, count in inside.items()},
        "memory_within": max(abs(row["memory"]["error"]) for row in (*rows, *tuned)),
        "rows": rows,
        "fine_tuning": tuned,
    }
    write_json(arguments.output, conditions(1) | figures)


def _locked(file: Path | None) -> Any:
    if file is None:
        return nullcontext()
    handle = file.open("w")
    fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


if __name__ == "__main__":
    main()

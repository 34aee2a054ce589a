"""Seconds of ``butwait compare`` on ten runs of 30 problems with 64 samples each.

    python benchmarks/bench_compare.py [--runs 10] [--questions 30] [--samples 64]

Measured, as a user waits for it, in a process of its own: the terminal's output, the page and the
JSON of all pairs. Rates are beta distributed as those of AIME, and every text is 2,000 characters
long, which a comparison of stages does not read. Results go to ``benchmarks/results/compare.json``.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from butwait.evaluation.metrics import attempt_figures
from butwait.evaluation.storage import write_shard
from butwait.records import Attempt, Problem
from butwait.running.files import write_json
from butwait.stages.kinds import STAGES
from butwait.stages.problem_sets import LoadedSet, keep_problem_set


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--questions", type=int, default=30)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/compare.json"))
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    rates = rng.beta(0.45, 1.05, arguments.questions)
    with tempfile.TemporaryDirectory() as folder:
        stages = []
        for number in range(arguments.runs):
            stages.append(Path(folder) / f"run{number}" / "after")
            _write(stages[-1], rng.binomial(arguments.samples, rates), arguments.samples)
        page, figures = Path(folder) / "page.html", Path(folder) / "figures.json"
        command = [sys.executable, "-m", "butwait", "compare", *map(str, stages)]
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run(
                [*command, "--html", page, "--json", figures], check=True, capture_output=True
            )
            seconds.append(time.perf_counter() - start)
        pairs = len(json.loads(figures.read_text(encoding="utf-8"))["comparisons"])
        result = {
            "runs": arguments.runs,
            "questions": arguments.questions,
            "samples": arguments.samples,
            "pairs": pairs,
            "seconds": round(float(np.median(seconds)), 2),
            "page_bytes": page.stat().st_size,
            "python": platform.python_version(),
        }
    print(json.dumps(result, indent=2))
    write_json(arguments.out, result)


def _write(stage: Path, counts: np.ndarray, k: int) -> None:
    """A finished evaluation with these numbers of correct attempts."""
    problems = [Problem(f"q{i}", f"What is {i}?", str(i), "integer") for i in range(len(counts))]
    by_problem = [
        [
            Attempt(p.id, s, "x" * 2000, "eos", p.answer, mark, 500, 0, 500, int(s >= c))
            for s, mark in enumerate(["correct"] * c + ["wrong"] * (k - c))
        ]
        for p, c in zip(problems, counts.tolist(), strict=True)
    ]
    shard = stage / "attempts" / "aime" / "plain" / "shard-00000.parquet"
    shard.parent.mkdir(parents=True)
    write_shard(shard, by_problem)
    keep_problem_set(stage.parent / "problems" / "aime.jsonl", problems)
    record = {
        "name": stage.name,
        "kind": next(kind for kind in STAGES if STAGES[kind].gives == "evaluation"),
        "fingerprint": "0",
        "status": "complete",
        "seconds": 0.0,
        "settings": {},
        "problem_sets": {"aime": LoadedSet.of(problems).describe()},
        "metrics": {"aime/plain": attempt_figures([a for rows in by_problem for a in rows])},
        "cost": {},
    }
    write_json(stage / "stage.json", record)


if __name__ == "__main__":
    main()

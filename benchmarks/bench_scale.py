"""Search trees at the size of an experiment: 512 particles x 817 problems x 20 steps.

    python benchmarks/bench_scale.py --problems 26      # a share, scaled up to 817
    python benchmarks/bench_scale.py                    # the whole: some minutes and gigabytes

Steps have about 30 tokens (Poisson) drawn from a vocabulary of 100,000 by Zipf's law, log-
probabilities of a skewed law, and about 4 characters of text a token. Nothing is resampled, so no
node is shared: the most nodes that a search of this size can have. One thread. Written to
``benchmarks/results/scale.json``.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from butwait.records import Counts, Node, Population, SearchTree
from butwait.running.files import write_json
from butwait.search.storage import problem_ids, read_outlines, read_tree, write_shard
from butwait.search.summary import summary_of_trees

RESULTS = Path(__file__).parent / "results" / "scale.json"
WHOLE = 817
"""Questions of LIMO."""
SHARD = 13
VOCABULARY = 100_000
LETTERS = np.frombuffer(b"etaoin shrdlu0123456789+-=()\\{}\n", np.uint8)


def synthetic_tree(problem: str, particles: int, steps: int) -> SearchTree:
    """A tree of ``particles`` paths of ``steps`` steps."""
    rng = np.random.default_rng(list(problem.encode()))
    nodes = [Node(-1, np.zeros(0, np.int32), "", np.zeros(0, np.float32), "step")]
    populations, parents = [], np.zeros(particles, np.int32)
    slots = np.arange(particles, dtype=np.int32)
    words = [LETTERS[rng.integers(0, len(LETTERS), 4)].tobytes().decode() for _ in range(5000)]
    for step in range(steps):
        lengths = np.maximum(rng.poisson(30, particles), 1)
        flat = (rng.zipf(1.2, lengths.sum()) % VOCABULARY).astype(np.int32)
        logprobs = -rng.gamma(0.3, 1.0, len(flat)).astype(np.float32)
        rewards = rng.normal(0, 2, particles)
        finish = "box" if step == steps - 1 else "step"
        start = len(nodes)
        for slot, end in enumerate(np.cumsum(lengths).tolist()):
            ids = flat[end - lengths[slot] : end]
            text = "".join(words[i] for i in (ids % len(words)).tolist())
            nodes.append(
                Node(
                    int(parents[slot]), ids, text, logprobs[end - lengths[slot] : end], finish,
                    float(rewards[slot]), 150 if step == 0 else 0, 0, len(ids),
                )
            )  # fmt: skip
        parents = np.arange(start, len(nodes), dtype=np.int32)
        populations.append(Population(parents, slots, rewards, False))
    tokens = sum(len(node.token_ids) for node in nodes)
    return SearchTree(
        problem, "particle_filter", np.arange(150, dtype=np.int32), nodes, populations, parents,
        np.full(particles, -np.log(particles)), 0.0, "complete",
        Counts(tokens, 150 * particles, tokens),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=WHOLE)
    parser.add_argument("--particles", type=int, default=512)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.problems, options.particles, options.steps)
    print(found)
    write_json(options.output, found)


def measure(folder: Path, problems: int, particles: int, steps: int) -> dict[str, Any]:
    """Writes the trees and reads them; sizes and seconds scaled up to ``WHOLE`` problems."""
    names = [f"q{i:04d}" for i in range(problems)]
    writing = 0.0
    for number, start in enumerate(range(0, problems, SHARD)):
        trees = [synthetic_tree(name, particles, steps) for name in names[start : start + SHARD]]
        writing += timed(
            lambda n=number, t=trees: write_shard(folder / f"shard-{n:05d}.parquet", t)
        )
    size = sum(path.stat().st_size for path in folder.iterdir())
    scale = WHOLE / problems
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "threads": 1,
            "load_at_end": round(os.getloadavg()[0], 1),
        },
        "problems_measured": problems,
        "problems": WHOLE,
        "particles": particles,
        "steps": steps,
        "nodes": problems * (particles * steps + 1),
        "gigabytes": {"measured": round(size * scale / 1e9, 3), "at_most": 5},
        "list_seconds": {
            "measured": round(timed(lambda: problem_ids(folder)) * scale, 3),
            "at_most": 60,
        },
        "summary_seconds": {
            "measured": round(timed(lambda: summary_of_trees(read_outlines(folder))) * scale, 2),
            "at_most": 60,
        },
        "open_one_tree_seconds": {
            "measured": round(timed(lambda: read_tree(folder, names[-1])), 3),
            "at_most": 1,
        },
        "write_seconds": round(writing * scale, 1),
    }


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

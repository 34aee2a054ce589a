"""A million nodes to examples: trees on disk in, data sets on disk out.

    OMP_NUM_THREADS=1 python benchmarks/bench_synthesis.py

Trees are random: 64 particles a question, steps of 24 tokens, 12 steps deep, a fifth of the
finished paths correct. Written to ``benchmarks/results/synthesis.json``, for each builder:
``seconds`` from the first shard read to the data set on disk, ``examples``, and ``peak_mb``, the
process's largest resident memory so far less that before the first builder ran.
"""

import argparse
import json
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from butwait.records import Counts, Grade, Key, Node, Population, Problem, SearchTree
from butwait.search.storage import write_shard
from butwait.synthesis.builder import Built, Material, Prompting
from butwait.synthesis.builders.backtrack import BacktrackSettings, build_backtrack
from butwait.synthesis.builders.stitch import StitchSettings, build_stitch
from butwait.synthesis.builders.verified import VerifiedSettings, build_verified
from butwait.synthesis.dataset import save_examples
from butwait.synthesis.stored import SearchedTrees

RESULTS = Path(__file__).parent / "results" / "synthesis.json"
PARTICLES, DEPTH, STEP, SHARD = 64, 12, 24, 16
KEY = Key.of(0, "bench")
ALPHABET = "abcdefghijklmnopqrstuvwxyz     "
EOS = 0
PROMPTING = Prompting(
    messages=lambda problem: [{"role": "user", "content": problem.question}],
    eos_token_id=EOS,
    tokenizer_fingerprint="by character",
    prompt_ids=lambda problem: _ids(problem.question),
    encode=lambda text: _ids(text),
    decode=lambda tokens: "".join(map(chr, tokens)).replace("\0", ""),
)


def _ids(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), np.int32)


def tree(problem_id: str, generator: np.random.Generator) -> SearchTree:
    """Particles that each go on from a survivor of the step before."""
    nodes = [Node(-1, _ids(""), "", np.zeros(0, np.float32), "step")]
    grades: dict[int, Grade] = {}
    standing = np.zeros(PARTICLES, np.int32)
    for depth in range(1, DEPTH + 1):
        parents = standing[generator.integers(0, PARTICLES, PARTICLES)]
        letters = generator.integers(0, len(ALPHABET), (PARTICLES, STEP - 2))
        for slot, parent in enumerate(parents.tolist()):
            text = "".join(ALPHABET[i] for i in letters[slot]) + "\n\n"
            correct = generator.random() < 0.2
            if depth == DEPTH:
                text += f"\\boxed{{{4 if correct else 5}}}"
                grades[len(nodes)] = Grade("4", "correct") if correct else Grade("5", "wrong")
            finish = "box" if depth == DEPTH else "step"
            ids = _ids(text)
            nodes.append(Node(parent, ids, text, np.zeros(len(ids), np.float32), finish))
        standing = np.arange(len(nodes) - PARTICLES, len(nodes), dtype=np.int32)
    weights = np.full(PARTICLES, -np.log(PARTICLES))
    last = Population(standing, np.arange(PARTICLES, dtype=np.int32), weights, False)
    return SearchTree(
        problem_id, "random", _ids(problem_id), nodes, [last], standing, weights, None,
        "complete", Counts(), grades,
    )  # fmt: skip


def write_trees(folder: Path, nodes: int) -> list[Problem]:
    """Shards of trees that hold about so many nodes."""
    generator = np.random.default_rng(0)
    names = [f"q{i:05d}" for i in range(-(-nodes // (PARTICLES * DEPTH + 1)))]
    for start in range(0, len(names), SHARD):
        shard = [tree(name, generator) for name in names[start : start + SHARD]]
        write_shard(folder / f"shard-{start // SHARD:05d}.parquet", shard)
    return [Problem(name, name, "4", "integer") for name in names]


def builders(problems: list[Problem]) -> dict[str, Callable[[SearchedTrees], Built]]:
    """Each builder with its default settings."""
    return {
        "verified": lambda trees: build_verified(
            Material(trees, problems, PROMPTING, VerifiedSettings(), KEY)
        ),
        "verified, diverse": lambda trees: build_verified(
            Material(trees, problems, PROMPTING, VerifiedSettings(choose="diverse"), KEY)
        ),
        "stitch": lambda trees: build_stitch(
            Material(trees, problems, PROMPTING, StitchSettings(), KEY)
        ),
        "backtrack": lambda trees: build_backtrack(
            Material(trees, problems, PROMPTING, BacktrackSettings(), KEY)
        ),
    }


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1_000_000)
    nodes = parser.parse_args().nodes
    rows = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        problems = write_trees(folder / "trees", nodes)
        before = peak_mb()
        for name, run in builders(problems).items():
            started = time.perf_counter()
            built = run(SearchedTrees({"search": folder / "trees"}))
            save_examples(folder / "dataset", built.examples)
            rows[name] = {
                "seconds": round(time.perf_counter() - started, 1),
                "examples": len(built.examples),
                "peak_mb": round(peak_mb() - before),
            }
            print(name, rows[name], flush=True)
    result = {
        "nodes": len(problems) * (PARTICLES * DEPTH + 1),
        "questions": len(problems),
        "machine": platform.processor() or platform.machine(),
        "builders": rows,
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""A made-up run's folder, as realistic as the page needs: sums of digits and two models.

What the stages record is made by the code that records it in a real run wherever that code is
light (attempts, metrics, comparisons, audit, trees), so that the page is tested on their formats.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from butwait.evaluation.compare import compare, with_holm
from butwait.evaluation.metrics import attempt_figures
from butwait.evaluation.storage import read_attempts
from butwait.evaluation.storage import write_shard as write_attempts
from butwait.records import Attempt, Counts, Grade, Key, Node, Population, SearchTree
from butwait.reward_models.audit.prefixes import ScoredPrefixes, audit
from butwait.running.files import write_json
from butwait.search.resampling import systematic
from butwait.search.storage import write_shard as write_trees
from butwait.search.weights import effective_sample_size, normalise

EVIL = "<script>alert('from a model')</script>"
PLAIN = {"sampler": {"kind": "independent"}, "k": 4}
FILTER = {"sampler": {"kind": "particle_filter", "particles": 8}, "k": 1}
METHODS = {"plain": PLAIN, "filter8": FILTER}


class FakeModel:
    """Adds up digits and slips in a share of the steps."""

    def __init__(self, slip: float, rng: np.random.Generator) -> None:
        self._slip, self._rng = slip, rng

    def step(self, total: int, term: int) -> tuple[int, str]:
        shown = total + term + (int(self._rng.random() < self._slip) and 10)
        return shown, f"{total} + {term} = {shown}\n"

    def attempt(self, problem_id: str, sample: int, terms: list[int], cost: int = 1) -> Attempt:
        total, text = terms[0], ""
        for term in terms[1:]:
            total, line = self.step(total, term)
            text += line
        length = 7 * len(terms) + int(self._rng.integers(4))
        if self._rng.random() < 0.01:
            truncated = ("length", None, "truncated", length, None)
            finish, answer, status, length, group = truncated
        else:
            text += f"\\boxed{{{total}}}"
            right = total == sum(terms)
            finish, answer, status = "box", str(total), "correct" if right else "wrong"
            group = 0 if right else total
        reward = 0 if cost == 1 else cost * length * 2
        return Attempt(
            problem_id, sample, text, finish, answer, status, cost * length, reward, length, group
        )


def questions(n: int, seed: int) -> dict[str, list[int]]:
    rng = np.random.default_rng(seed)
    return {f"sum-{i:04d}": rng.integers(1, 10, rng.integers(5, 9)).tolist() for i in range(n)}


def build_run(
    run: Path, *, n: int = 40, trees: int = 12, leave_out: tuple[str, ...] = (), evil: bool = False
) -> list[dict[str, Any]]:
    """Writes the stages' folders into ``run`` and returns their records in recipe order."""
    rng = np.random.default_rng(7)
    held_out, train = questions(n, 1), questions(trees, 2)
    for name, rows in (("heldout", held_out), ("train", train)):
        _write_questions(run / "problems" / f"{name}.jsonl", rows)
    base, tuned = FakeModel(0.16, rng), FakeModel(0.05, rng)
    stages = [
        _evaluate(run, "base_eval", ["prm"], base, held_out, 61.3, evil),
        _prm(run, rng),
        _search(run, base, train, rng),
        _verified(run),
        _sft(run),
        _evaluate(run, "sft_eval", ["sft", "prm"], tuned, held_out, 63.9, False),
        _record("report", "report", ["base_eval", "sft_eval"], 0.0, {}, status="running"),
    ]
    kept = [stage for stage in stages if stage["name"] not in leave_out]
    for stage in kept:
        write_json(run / stage["name"] / "stage.json", stage)
    return kept


def comparisons_of(run: Path) -> list[dict[str, Any]]:
    """The fine-tuned model against the base by both methods, and the base's filter against plain
    sampling."""
    keys = [f"{stage}/heldout/{m}" for stage in ("base_eval", "sft_eval") for m in METHODS]
    attempts = {key: read_attempts(_attempts_folder(run, key)) for key in keys}
    pairs = ((keys[1], keys[3]), (keys[0], keys[2]), (keys[0], keys[1]))
    return with_holm([compare(a, attempts[a], b, attempts[b]) for a, b in pairs])


def _attempts_folder(run: Path, key: str) -> Path:
    stage, problem_set, method = key.split("/")
    return run / stage / "attempts" / problem_set / method


def _record(
    name: str,
    kind: str,
    inputs: list[str],
    seconds: float,
    metrics: dict[str, Any],
    cost: dict[str, int] | None = None,
    settings: dict[str, Any] | None = None,
    status: str = "complete",
) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "name": name,
        "kind": kind,
        "from": inputs,
        "fingerprint": "0123456789abcdef",
        "settings": settings or {"kind": kind},
        "inputs": dict.fromkeys(inputs, "fedcba9876543210"),
        "versions": {"butwait": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
        "seed": 0,
        "status": status,
        "seconds": seconds,
        "metrics": metrics,
        "cost": cost or {},
    }


def _write_questions(path: Path, rows: dict[str, list[int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {"id": i, "question": f"What is {' + '.join(map(str, terms))}?", "answer": str(sum(terms))}
        for i, terms in rows.items()
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _evaluate(
    run: Path,
    name: str,
    inputs: list[str],
    model: FakeModel,
    problems: dict[str, list[int]],
    seconds: float,
    evil: bool,
) -> dict[str, Any]:
    better = FakeModel(model._slip / 2, model._rng)
    plain = [[model.attempt(i, s, terms) for s in range(4)] for i, terms in problems.items()]
    if evil:
        first = plain[0][0]
        plain[0][0] = Attempt(
            first.problem_id, 0, EVIL + first.text, "box", EVIL, "wrong", 9, 0, 9, 77
        )
    searched = [[better.attempt(i, 0, terms, cost=8)] for i, terms in problems.items()]
    metrics, cost = {}, {"policy_tokens": 0, "prefilled_tokens": 9000, "reward_tokens": 0}
    for method, attempts in (("plain", plain), ("filter8", searched)):
        folder = _attempts_folder(run, f"{name}/heldout/{method}")
        folder.mkdir(parents=True)
        write_attempts(folder / "shard-00000.parquet", attempts)
        flat = [attempt for several in attempts for attempt in several]
        metrics[f"heldout/{method}"] = attempt_figures(flat)
        cost["policy_tokens"] += sum(attempt.tokens for attempt in flat)
        cost["reward_tokens"] += sum(attempt.reward_tokens for attempt in flat)
    settings = {"kind": "evaluate", "methods": METHODS}
    return _record(name, "evaluate", inputs, seconds, metrics, cost, settings)


def _prm(run: Path, rng: np.random.Generator) -> dict[str, Any]:
    m = 600
    depth = rng.integers(1, 8, m)
    logit = rng.normal(0, 1.4, m)
    chance = 1 / (1 + np.exp(-0.8 * logit + 0.2))
    completions = np.full(m, 4)
    prefixes = ScoredPrefixes(
        rng.integers(0, 40, m), depth, logit, rng.binomial(4, chance), completions
    )
    write_json(run / "prm" / "audit.json", audit(prefixes, Key.of(0, "fake")))
    _write_log(run / "prm" / "log.jsonl", 20, 0.69, 0.5, rng)
    cost = {"policy_tokens": 176_000, "reward_tokens": 20_000, "trained_tokens": 410_000}
    return _record("prm", "prm", [], 71.2, {"auc": 0.76, "loss": 0.51}, cost)


def _write_log(path: Path, steps: int, start: float, end: float, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    curve = end + (start - end) * np.exp(-np.arange(steps) / 6) + rng.normal(0, 0.01, steps)
    rows = [
        {"step": 5 * i, "loss": float(loss), "learning_rate": 1e-4, "epoch": i / steps}
        for i, loss in enumerate(curve)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _search(
    run: Path, model: FakeModel, problems: dict[str, list[int]], rng: np.random.Generator
) -> dict[str, Any]:
    trees = [_tree(model, i, terms, rng) for i, terms in problems.items()]
    write_trees(run / "search" / "trees" / "shard-00000.parquet", trees)
    solved = sum(any(grade.correct for grade in tree.grades.values()) for tree in trees)
    metrics = {
        "problems": len(trees),
        "solved": solved,
        "solved_share": solved / len(trees),
        "interval": [0.7, 0.95],
        "mean_ess_share": 0.64,
        "extinct": 0,
        "complete": len(trees),
    }
    cost = {"policy_tokens": 182_000, "prefilled_tokens": 8_000, "reward_tokens": 361_000}
    return _record("search", "search", ["prm"], 20.4, metrics, cost, {"problems": "train"})


def _tree(
    model: FakeModel, problem_id: str, terms: list[int], rng: np.random.Generator, n: int = 8
) -> SearchTree:
    """A particle filter of ``n`` particles whose reward knows the right sum, with noise."""
    nodes = [Node(-1, np.zeros(0, np.int32), "", np.zeros(0, np.float32), "step")]
    stand, totals = np.zeros(n, np.int32), [terms[0]] * n
    log_weights, last, populations = np.zeros(n), np.zeros(n), []
    for depth, term in enumerate([*terms[1:], None]):
        key = Key.of(3, problem_id, depth)
        resampled = depth > 0 and effective_sample_size(log_weights) < n / 2
        ancestors = np.arange(n, dtype=np.int32)
        if resampled:
            ancestors = systematic(np.exp(normalise(log_weights)), key.generator())
            log_weights = np.zeros(n)
        before, totals, stand = last[ancestors], [totals[a] for a in ancestors], stand[ancestors]
        log_weights, last, standing = log_weights[ancestors], np.zeros(n), []
        for slot in range(n):
            if term is None:
                text, finish = f"\\boxed{{{totals[slot]}}}", "box"
            else:
                totals[slot], text = model.step(totals[slot], term)
                finish = "step"
            right = totals[slot] == sum(terms[: depth + 2])
            last[slot] = np.float32(rng.normal(1.6 if right else -1.6, 0.8))
            ids = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
            logprobs = np.full(len(ids), -0.1, np.float32)
            nodes.append(Node(int(stand[slot]), ids, text, logprobs, finish, float(last[slot])))
            standing.append(len(nodes) - 1)
        stand = np.array(standing, np.int32)
        log_weights = log_weights + last - before
        populations.append(Population(stand, ancestors, log_weights, resampled))
    grades = {
        int(node): Grade(str(total), "correct" if total == sum(terms) else "wrong")
        for node, total in zip(stand, totals, strict=True)
    }
    return SearchTree(
        problem_id,
        "particle_filter",
        np.arange(5, dtype=np.int32),
        nodes,
        populations,
        stand,
        normalise(log_weights),
        -0.5,
        "complete",
        Counts(300, 20, 600),
        grades,
    )


def _verified(run: Path) -> dict[str, Any]:
    statistics = {
        "examples": 458,
        "questions": 211,
        "length": {"min": 34, "q25": 41, "median": 46, "q75": 53, "max": 62, "mean": 46.4},
        "lengths": {"edges": [34, 41, 48, 55, 62], "counts": [110, 160, 120, 68]},
    }
    write_json(run / "verified" / "statistics.json", statistics)
    metrics = {"examples": 458, "questions": 211, "duplicates_dropped": 1210}
    return _record("verified", "verified", ["search"], 1.1, metrics)


def _sft(run: Path) -> dict[str, Any]:
    _write_log(run / "sft" / "log.jsonl", 25, 0.31, 0.12, np.random.default_rng(5))
    metrics = {"examples": 458, "steps": 125, "loss": 0.12}
    cost = {"trained_tokens": 74_000}
    return _record("sft", "sft", ["verified"], 18.8, metrics, cost)

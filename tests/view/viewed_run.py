"""A whole run's folder to be looked at, made in moments: trees by the scripted engine, the rest as
the stages write it."""

import asyncio
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from butwait.engines.scripted import ScriptedEngine
from butwait.engines.settings import StepRule
from butwait.evaluation import storage as attempt_storage
from butwait.evaluation.compare import compare
from butwait.evaluation.metrics import attempt_figures
from butwait.records import Attempt, AttemptTokens, Example, Grade, Key, Problem, SearchTree, Span
from butwait.reward_models.reward_model import Step
from butwait.reward_models.scripted import ScriptedRewardModel
from butwait.running.json_lines import dump_rows
from butwait.search.run import run_sampler
from butwait.search.samplers.particle_filter import ParticleFilterSettings
from butwait.search.storage import write_shard
from butwait.synthesis.dataset import save_examples

HOSTILE = (
    "<script>document.title='owned'</script><style>body{display:none}</style>"
    "<img src=x onerror=\"document.title='owned'\"> \0 \u202eright to left\u202c \u2028 </script>"
)
WORDS = ("carry", "add", "so", "hence", "take", "away")
STATUSES = ("correct", "wrong", "no_answer", "truncated")
VERIFIED, GRPO = "verified", "grpo"
SHARD = 10


def write_run(
    folder: Path,
    *,
    problems: int = 4,
    particles: int = 8,
    steps: int = 4,
    samples: int = 4,
    distinct: int = 2,
    words: int = 3,
    extra: str = "",
) -> Path:
    """A finished run with a search, data, trainings, two evaluations and their comparison. The
    first of them, ``base``, kept no log-probabilities.

    Args:
        folder: the run's.
        problems: questions, of the search and of the evaluations.
        particles, steps: of each tree.
        samples: attempts at a question.
        distinct: trees that are searched for; the other questions have copies of them.
        words: tokens of a step, its end aside.
        extra: a text that stands in questions, steps and attempts.
    """
    asked = [
        Problem(f"p{i}", f"What is {i} + 1? {extra}".strip(), str(i + 1)) for i in range(problems)
    ]
    _write(folder / "problems" / "test.jsonl", dump_rows(problem.row() for problem in asked))
    trees = _trees(asked, particles, steps, distinct, words, extra)
    for number in range(-(-problems // SHARD)):
        part = trees[number * SHARD : (number + 1) * SHARD]
        write_shard(folder / "hunt" / "trees" / f"shard-{number:05d}.parquet", part)
    _note(folder / "hunt" / "trees", problems)
    sampler = {"kind": "particle_filter", "particles": particles}
    metrics = {"problems": problems, "solved": sum(tree.solved for tree in trees)}
    _record(folder, "hunt", "search", [], {"sampler": sampler}, metrics)
    examples = [example for i, tree in enumerate(trees) if (example := _example(i, tree))]
    save_examples(folder / VERIFIED / "dataset", examples)
    _record(folder, VERIFIED, VERIFIED, ["hunt"], {}, {"examples": len(examples)})
    _train(folder, asked)
    sides = []
    for name, source, rate in (("base", [], 0.3), ("after", ["sft"], 0.7)):
        attempts = [_attempt(name, problem, i, rate, extra) for problem in asked
                    for i in range(samples)]  # fmt: skip
        where = folder / name / "attempts" / "test" / "sample"
        where.mkdir(parents=True)
        for number in range(-(-problems // SHARD)):
            ids = {problem.id for problem in asked[number * SHARD : (number + 1) * SHARD]}
            rows = [[row for row in attempts if row.problem_id == one] for one in sorted(ids)]
            attempt_storage.write_shard(where / f"shard-{number:05d}.parquet", rows)
        _note(where, problems)
        settings = {
            "problems": ["test"],
            "methods": {"sample": {"k": samples, "sampler": {"step": {"delimiters": ["\n"]}}}},
        }
        figures = {"test/sample": attempt_figures(attempts)}
        _record(folder, name, "evaluate", source, settings, figures)
        sides.append(attempts)
    found = compare("base/test/sample", sides[0], "after/test/sample", sides[1])
    verdict = found["sentence"]
    summary = {"schema_version": 1, "verdict": verdict, "comparisons": [found]}
    _write(folder / "summary.json", json.dumps(summary))
    _write(folder / "log.txt", f"2026-01-01 00:00:00 begun {extra[:80]}\n")
    stages = [
        {"name": path.parent.name, "kind": json.loads(path.read_text())["kind"]}
        for path in sorted(folder.glob("*/stage.json"))
    ]
    progress = {"recipe": "viewed", "state": "finished", "pid": 1, "stages": stages}
    _write(folder / ".progress.json", json.dumps(progress))
    _write(folder / ".lock", "")
    return folder


def _trees(
    problems: Sequence[Problem], particles: int, steps: int, distinct: int, words: int, extra: str
) -> list[SearchTree]:
    answers = ["\\boxed{1}", "\\boxed{2}"]
    inner, ends = [f"{word} " for word in WORDS], [f"{word}.{extra}\n" for word in WORDS]
    pieces = [*inner, *ends, *answers]

    def policy(question: str, text: str) -> dict[str, float]:
        if text.count("\n") == steps - 1:
            return dict.fromkeys(answers, 0.5)
        said = text[text.rfind("\n") + 1 :].count(" ")
        return dict.fromkeys(inner if said < words - 1 else ends, 1 / len(WORDS))

    def reward(problem: Problem, path: Sequence[Step]) -> float:
        logit, text = 0.0, b""
        for step in path:
            text += step.text[-8:].encode()
            logit += crc32(text) % 1000 / 200 - 2.5
        return logit

    rule = StepRule(delimiters=("\n",), max_tokens=2 * words * steps)
    settings = ParticleFilterSettings(step=rule, particles=particles)
    engine, judge = ScriptedEngine(policy, pieces), ScriptedRewardModel(reward)
    made = []
    for problem in problems[: max(1, distinct)]:
        tree = asyncio.run(run_sampler(problem, engine, judge, settings, Key.of(0, problem.id)))
        for leaf in sorted({*tree.leaves.tolist()}):
            right = tree.nodes[leaf].text.endswith("1}")
            tree.grades[leaf] = Grade("1" if right else "2", "correct" if right else "wrong")
        made.append(tree)
    return [replace(made[i % len(made)], problem_id=p.id) for i, p in enumerate(problems)]


def _example(place: int, tree: SearchTree) -> Example | None:
    """The first right path, after the first two steps of a dead one."""
    leaf = next((node for node, grade in tree.grades.items() if grade.correct), None)
    if leaf is None:
        return None
    good, bad = list(tree.path(leaf)), [len(tree.nodes) - 1]
    source = {"stage": "hunt", "shard": f"shard-{place // SHARD:05d}.parquet", "row": place % SHARD}
    parts: list[tuple[str, bool, list[int], str]] = [
        ("mistake", False, bad, ""), ("doubt", True, [], "\nWait.\n"), ("recovery", True, good, "")
    ]  # fmt: skip
    ids, mask, spans, pieces = [], [], [], []
    for role, loss, nodes, text in parts:
        tokens = [int(i) for node in nodes for i in tree.nodes[node].token_ids] or [1, 2]
        text = text or "".join(tree.nodes[node].text for node in nodes)
        spans.append(Span(role, len(ids), len(ids) + len(tokens), text))
        ids += tokens
        mask += [loss] * len(tokens)
        made_of = source | {"nodes": nodes} if nodes else {"text": text}
        pieces.append({"role": role, "loss": loss} | made_of)
    return Example(
        tree.problem_id,
        tree.prompt_ids,
        np.array(ids, np.int32),
        np.array(mask),
        tuple(spans),
        [{"role": "user", "content": f"question {tree.problem_id}"}],
        "".join(span.text for span in spans),
        "fingerprint",
        source | {"builder": "backtrack", "leaf": leaf, "key": [1, 2], "pieces": pieces},
    )


def _attempt(stage: str, problem: Problem, sample: int, rate: float, extra: str) -> Attempt:
    draw = crc32(f"{stage} {problem.id} {sample}".encode()) % 1000 / 1000
    status = "correct" if draw < rate else STATUSES[1 + sample % 3]
    answer = problem.answer if status == "correct" else "0" if status == "wrong" else None
    text = f"One step. {extra}\nAnother 😀 step.\n\\boxed{{{answer}}}"
    return Attempt(
        problem.id, sample, text, "box", answer, status, 30, 0, 20 + sample,
        None if answer is None else int(status != "correct"),
        by_token=None if stage == "base" else _tokens(text, sample),
    )  # fmt: skip


def _tokens(text: str, sample: int) -> AttemptTokens:
    """A token a word, with the space before it, but two for a smiley; the second of all was
    inserted, and the likeliest come first."""
    words = re.findall(r"\s*\w+|\s*\W", text)
    counts = [n for word in words for n in ([0, len(word)] if "😀" in word else [len(word)])]
    logprobs = -0.4 * np.arange(len(counts)) - sample
    logprobs[1] = np.nan
    return AttemptTokens(np.array(counts, np.int32), logprobs.astype(np.float16))


def _train(folder: Path, problems: Sequence[Problem]) -> None:
    losses = [{"step": step, "loss": 2 / step, "learning_rate": 1e-4} for step in range(1, 41)]
    _write(folder / "sft" / "log.jsonl", dump_rows(losses))
    _record(folder, "sft", "sft", [VERIFIED], {}, {"steps": 40})
    rewards = [
        {"step": s, "reward": 0.5 + 0.1 * math.sin(7 * s), "entropy": 1 / s} for s in range(1, 201)
    ]
    looks = [
        {"step": s, "accuracy": 0.3 + s / 1000, "interval": [0.2, 0.6], "n": 4, "k": 1,
         "texts": [{"problem_id": "p0", "text": f"after {s}", "status": "wrong"}]}
        for s in (0, 100, 200)
    ]  # fmt: skip
    _write(folder / GRPO / "log.jsonl", dump_rows(rewards))
    _write(folder / GRPO / "looks.jsonl", dump_rows(looks))
    sample = {"step": 1, "problem_id": "p0", "question": problems[0].question, "text": "tried"}
    _write(folder / GRPO / "samples.jsonl", dump_rows([sample | {"status": "wrong", "reward": 0}]))
    plateau = {"horizon": 40, "delta": 0.2, "window": 40}
    _record(folder, GRPO, GRPO, [], {"plateau": plateau}, {"steps": 200})


def _record(
    folder: Path, name: str, kind: str, source: Iterable[str], settings: Any, metrics: Any
) -> None:
    sets = {"test": {"problems": 4}} if kind in ("evaluate", "search") else {}
    about = {
        "schema_version": 1, "name": name, "kind": kind, "from": list(source), "inputs": {},
        "fingerprint": f"{crc32(name.encode()):08x}", "settings": {"kind": kind} | settings,
        "problem_sets": sets, "versions": {}, "seed": 0, "status": "complete", "seconds": 1.5,
        "metrics": metrics, "cost": {"policy_tokens": 100},
    }  # fmt: skip
    _write(folder / name / "stage.json", json.dumps(about))


def _note(folder: Path, items: int) -> None:
    _write(folder / ".shards.json", json.dumps({"items": items, "shard_size": SHARD}))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")

"""Writes solutions in which the tiny model's author begins again, without getting any better.

    python scripts/make_restarts.py --out restarts.jsonl

The author of the tiny model's training data (``make_tiny_model``) forgets carries and borrows. Here
the same author writes a third of the solutions as before, a third as an attempt, the doubt "?" and
another attempt from the beginning, and a third with a detour: some steps, the doubt, and on from
where the detour left. The doubt says nothing about right and wrong, and carries are forgotten after
it as often as before. A model that learns from this learns to begin again, and nothing else: what
``docs/results/data_ablation.md`` uses it for.
"""

import argparse
import json
from pathlib import Path

from make_tiny_model import SEED, forgetful_totals

from butwait.problems.kinds.arithmetic import ArithmeticSettings, generate, solution
from butwait.records import Key, Problem

QUESTIONS = 10_000
DOUBT = "?\n"


def restarted(problem: Problem) -> str:
    """One solution of one of the three kinds, each with the same probability."""
    terms = problem.metadata["terms"]
    key = Key.of(SEED, "restarts", problem.id)
    random = key.derive("kind").generator()
    first, second = (_lines(terms, key.derive(name)) for name in ("first", "second"))
    kind = random.integers(3)
    if kind == 0:
        return "".join(second)
    steps = len(terms) - 1  # and a line with the box
    if kind == 1:
        return "".join([*first[:steps], DOUBT, *second])
    fork = int(random.integers(steps))
    depth = int(random.integers(1, steps - fork + 1))
    # The detour and the way on begin at the same total.
    total = int(second[fork - 1].rpartition("= ")[2]) if fork else terms[0]
    detour = _lines([total, *terms[fork + 1 :]], key.derive("detour"))
    return "".join([*second[:fork], *detour[:depth], DOUBT, *second[fork:]])


def _lines(terms: list[int], key: Key) -> list[str]:
    return solution(tuple(terms), forgetful_totals(terms, key)).splitlines(keepends=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the .jsonl file to write")
    out = parser.parse_args().out
    # Questions of 4 to 6 terms, as those that are searched and evaluated; another split.
    problems = generate(ArithmeticSettings(size=QUESTIONS, seed=SEED), "pretrain")
    rows = [
        {"id": p.id, "question": p.question, "answer": p.answer, "solution": restarted(p)}
        for p in problems
    ]
    out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()

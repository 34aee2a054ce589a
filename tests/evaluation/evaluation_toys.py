"""A tiny evaluation with a scripted model. As a script it runs in a process of its own:

python evaluation_toys.py FOLDER LOG DELAY
"""

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

from butwait.engines.scripted import ScriptedEngine
from butwait.evaluation.attempts import run_attempts
from butwait.evaluation.settings import MethodSettings
from butwait.records import Attempt, Grade, Key, Problem
from butwait.search.samplers.samples import IndependentSettings

PROBLEMS = [Problem(f"p{i}", f"{i}?", "1", "integer") for i in range(30)]

# Five outcomes: two right, a wrong answer in two spellings, one without an answer.
TABLE = {
    "": {"a\n": 0.5, "b\n": 0.5},
    "a\n": {r"\boxed{1}": 0.8, r"\boxed{2}": 0.2},
    "b\n": {r"\boxed{1}": 0.4, r"\boxed{02}": 0.4, "<eos>": 0.2},
}


class BoxGrader:
    """Judges as the real grader does, in this process; notes whose attempts it saw."""

    def __init__(self, log: Path | None = None) -> None:
        self.log = log

    async def agrade(self, text: str, problem: Problem, finish: str = "eos") -> Grade:
        if self.log:
            with self.log.open("a") as file:
                file.write(problem.id + "\n")
        found = re.search(r"\\boxed\{(\d+)\}", text)
        if found is None:
            return Grade(None, "truncated" if finish == "length" else "no_answer")
        correct = int(found[1]) == int(problem.answer or "")
        return Grade(found[1], "correct" if correct else "wrong")

    async def aequal(self, a: str, b: str, kind: str) -> bool:
        return int(a) == int(b)


def evaluate(
    folder: Path,
    method: MethodSettings | None = None,
    *,
    problems: list[Problem] = PROBLEMS,
    log: Path | None = None,
    grader: Any = None,
    delay: float = 0.0,
    **options: object,
) -> list[Attempt]:
    """Eight samples of each problem, unless told otherwise."""
    return asyncio.run(
        run_attempts(
            problems,
            ScriptedEngine(TABLE, delay=delay),
            None,
            grader or BoxGrader(log),
            method or MethodSettings(sampler=IndependentSettings(), k=8),
            Key.of(0, "test"),
            folder,
            **{"shard_size": 8, "concurrency": 3} | options,
        )
    )


if __name__ == "__main__":
    evaluate(Path(sys.argv[1]), log=Path(sys.argv[2]), delay=float(sys.argv[3]))

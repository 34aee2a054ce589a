"""Grading: errors against labelled cases beside math-verify's, the slowest case, integers a second.

    python benchmarks/bench_grading.py [--cases CASES.jsonl ...] [--out RESULT.json]

CASES holds {"id", "gold", "pred", "match", "policy"} a line; ``policy`` marks cases on which
conventions differ (they are counted apart). Without CASES only the speed is measured. inspect's
scorer stands beside where ``inspect_ai`` and its parser are installed.
"""

import argparse
import asyncio
import importlib
import importlib.metadata
import json
import os
import platform
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from butwait.problems.answers import answer_kind, gold_text
from butwait.problems.grading import Grader
from butwait.records import Problem
from butwait.running.files import write_json

Case = dict[str, Any]
HANG_SECONDS = 20
"""math-verify is killed after so many seconds of CPU in one case."""
SENTENCE = "We add the two parts and get $a_{3} = 2^{3} + 5 = 13$, so the sum grows by 13. "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/grading.json"))
    arguments = parser.parse_args()
    result: dict[str, Any] = {"machine": platform.machine(), "cores": os.cpu_count()}
    result["math_verify_version"] = importlib.metadata.version("math-verify")
    result["integer_grades_per_second"] = integer_grades_per_second()
    inspect = inspect_scorer() if arguments.cases else None
    if arguments.cases:
        importlib.import_module("math_verify")  # once, not in every forked child
    for file in arguments.cases:
        cases = [json.loads(line) for line in file.open(encoding="utf-8")]
        with Grader() as grader:
            started = time.perf_counter()
            grader.equal("x+1", "1+x", "math")
            result["first_process_seconds"] = round(time.perf_counter() - started, 3)
            butwait = measure(cases, partial(ours, grader))
        result[file.stem] = {
            "butwait": butwait,
            "math_verify": measure(cases, math_verify_documented),
        }
        if inspect is not None:
            result[file.stem]["inspect"] = measure(cases, inspect)
    write_json(arguments.out, result)
    print(json.dumps(result, indent=2))


def measure(cases: list[Case], grade: Callable[[Case], bool | None]) -> dict[str, Any]:
    """Counts of errors; a verdict of None (no grade) is an error too."""
    seconds, wrong = {}, []
    for case in cases:
        start = time.perf_counter()
        match = grade(case)
        seconds[case["id"]] = time.perf_counter() - start
        if match != case["match"]:
            wrong.append((case, match))
    core = [case for case in cases if not case.get("policy")]
    errors = [case["id"] for case, _ in wrong if not case.get("policy")]
    slowest = max(seconds, key=lambda name: seconds[name])
    return {
        "cases": len(core),
        "errors": len(errors),
        "error_rate": round(len(errors) / len(core), 4),
        "error_ids": errors,
        "false_positives": sum(m is True and not c.get("policy") for c, m in wrong),
        "false_positives_integer_gold": sum(
            m is True and answer_kind(c["gold"]) == "integer" for c, m in wrong
        ),
        "policy_cases": len(cases) - len(core),
        "policy_errors": len(wrong) - len(errors),
        "slowest_case": slowest,
        "slowest_seconds": round(seconds[slowest], 3),
    }


def ours(grader: Grader, case: Case) -> bool | None:
    gold = gold_text(case["gold"])
    problem = Problem(str(case["id"]), "", gold, answer_kind(gold))
    status = grader.grade(case["pred"] or "", problem).status
    return None if status == "ungradable" else status == "correct"


def math_verify_documented(case: Case) -> bool | None:
    """math-verify as its README shows it, in a forked child: None where it hangs or dies."""
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_PROF, HANG_SECONDS)  # math-verify uses ITIMER_REAL itself
        os._exit(10 if _verify(case) else 11)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {10: True, 11: False}.get(code)


def _verify(case: Case) -> bool:
    import logging

    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)
    configs = [LatexExtractionConfig(), ExprExtractionConfig()]
    gold = parse(f"${case['gold']}$", extraction_config=configs)
    return bool(verify(gold, parse(case["pred"] or "", extraction_config=configs)))


def inspect_scorer() -> Callable[[Case], bool | None] | None:
    """inspect's ``math`` scorer, None where it is not installed."""
    try:
        from inspect_ai.scorer import Target, math  # type: ignore[import-not-found]

        score = math()
    except Exception:  # the package, or the parser that it needs
        return None

    def grade(case: Case) -> bool | None:
        state = SimpleNamespace(output=SimpleNamespace(completion=case["pred"] or ""))
        try:
            return bool(asyncio.run(score(state, Target(str(case["gold"])))).value == "C")
        except Exception:  # a gold answer that it refuses
            return None

    return grade


def integer_grades_per_second(repeats: int = 3) -> dict[str, int]:
    """Grades a second on one core, texts of 1 to 4 kB, by how the answer is written."""
    endings = {
        "boxed": r"So the answer is $\boxed{{{}}}$.",
        "boxed_with_unit": r"So the answer is $\boxed{{{} \text{{ apples}}}}$.",
        "announced": "So the answer is {} apples.",
        "hashes": "\n#### {}",
    }
    rates = {}
    with Grader(workers=1) as grader:
        for name, ending in endings.items():
            cases = [
                (
                    SENTENCE * (12 + i % 40) + ending.format(i),
                    Problem(str(i), "", str(i), "integer"),
                )
                for i in range(2000)
            ]
            assert all(grader.grade(text, problem).correct for text, problem in cases[:50])
            best = min(_seconds(grader, cases) for _ in range(repeats))
            rates[name] = round(len(cases) / best)
    return rates


def _seconds(grader: Grader, cases: list[tuple[str, Problem]]) -> float:
    start = time.perf_counter()
    for text, problem in cases:
        grader.grade(text, problem)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

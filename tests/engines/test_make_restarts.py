"""The corpus that teaches the tiny model to begin again, and nothing else."""

import importlib.util
import re
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

from butwait.problems.kinds.arithmetic import ArithmeticSettings, generate

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
LINE = re.compile(r"(-?\d+) ([+-]) (\d) = (-?\d+)")


@pytest.fixture(scope="module")
def restarts() -> ModuleType:
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec = importlib.util.spec_from_file_location("make_restarts", SCRIPTS / "make_restarts.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPTS))
    return module


def steps(text: str) -> list[tuple[int, int, int]]:
    """(total before, signed digit, total after) of every line."""
    found = (LINE.fullmatch(line).groups() for line in text.splitlines() if "box" not in line)
    return [(int(a), int(sign + digit), int(b)) for a, sign, digit, b in found]


def crosses(total: int, digit: int) -> bool:
    """Whether the step has a carry or a borrow that the author may forget."""
    after = total + digit
    return total >= 0 and after >= 0 and total // 10 != after // 10


def test_every_solution_goes_over_the_terms_again_behind_the_doubt(restarts: ModuleType) -> None:
    problems = generate(ArithmeticSettings(size=400, seed=restarts.SEED), "pretrain")
    kinds = dict.fromkeys(("plain", "again", "detour"), 0)
    carries: dict[str, list[bool]] = {"before": [], "after": []}
    for problem in problems:
        terms = problem.metadata["terms"]
        before, doubt, after = restarts.restarted(problem).rpartition(restarts.DOUBT)
        walked, left = steps(after), len(terms) - 1 - len(steps(after))
        # What stands behind the doubt takes the last terms, from a total that was reached before.
        assert [digit for _, digit, _ in walked] == terms[1 + left :]
        assert all(a[2] == b[0] for a, b in pairwise(walked))
        assert f"\\boxed{{{walked[-1][2]}}}" in after
        tried = steps(before)
        assert walked[0][0] == ([terms[0], *(total for _, _, total in tried)][left])
        assert [digit for _, digit, _ in tried] == terms[1 : 1 + len(tried)]
        whole = len(tried) == len(terms) - 1 and not left
        kinds["plain" if not doubt else "again" if whole else "detour"] += 1
        for where, lines in (("before", tried), ("after", walked if doubt else [])):
            carries[where] += [a + d == b for a, d, b in lines if crosses(a, d)]
    # A detour from the first step to the end looks like another attempt.
    assert 100 < kinds["plain"] < 170
    assert 80 < kinds["detour"] < kinds["again"]
    # Forgotten as often after the doubt as before it: a doubt makes nothing better.
    shares = [sum(carries[where]) / len(carries[where]) for where in ("before", "after")]
    assert shares == pytest.approx([1 - 0.6] * 2, abs=0.06)

"""Gold answers that are whole solutions, or numbers: in files, in ``Problem``s and in calls."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from butwait.api.problems import problem_of
from butwait.api.stored import grade
from butwait.problems.settings import ProblemSetSettings
from butwait.problems.sources import load_problems
from butwait.records import Problem


def rows_of(folder: Path, gold: str) -> str:
    """A file of one question."""
    path = folder / "set.jsonl"
    path.write_text(json.dumps({"question": "clips?", "answer": gold}), encoding="utf-8")
    return str(path)


def load(source: str, **settings: Any) -> list[Problem]:
    return load_problems(ProblemSetSettings(source=source, **settings))


WORKED = {
    "48 / 2 = <<48/2=24>>24.\n#### 1,072": "1072",
    "We add, so $x = \\boxed{5}$ is found.": "5",
    "Roots: $\\boxed{2}$ and $\\boxed{3}$.": "2, 3",
    "\\boxed{12}": "12",
    "The area is \\fbox{3}.": "3",
    "1/2": "1/2",
}


@pytest.mark.parametrize(("gold", "answer"), WORKED.items())
def test_a_gold_answer_that_is_a_whole_solution_is_read(
    tmp_path: Path, gold: str, answer: str
) -> None:
    source = rows_of(tmp_path, gold)
    (problem,) = load(source)
    assert problem.answer == answer
    assert load(source, answer_kind="text")[0].answer == gold.strip()
    assert load(source, verifier="math:gcd")[0].answer == gold.strip()
    assert problem_of("clips?", gold).answer == {"1072": "1,072"}.get(answer, answer)
    assert grade(f"\\boxed{{{answer}}}", gold).correct
    assert problem_of(Problem("1", "clips?", gold, also=("7",))).golds == (
        {"1072": "1,072"}.get(answer, answer),
        "7",
    )
    assert problem_of("clips?", gold, verified=True).answer == gold
    judged = Problem("1", "clips?", gold, verifier="math:gcd")
    assert problem_of(judged) is judged


def test_a_whole_solution_is_read_before_it_is_cut(tmp_path: Path) -> None:
    gold = "x=1 or x=2 fails. So it is \\boxed{3 or 4}."
    source = rows_of(tmp_path, gold)
    assert load(source, answer_separator=" or ")[0].golds == ("3", "4")


@pytest.mark.parametrize("gold", [9, 9.0, Decimal(9), np.int64(9)])
def test_a_gold_answer_may_be_a_number(gold: Any) -> None:
    assert problem_of("7 + 8 - 6?", gold).answer == "9"
    assert grade("\\boxed{9}", gold).correct
    assert not grade("\\boxed{8}", gold).correct

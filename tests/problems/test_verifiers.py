"""Judges of one's own: whatever they do, it is a verdict or no verdict, and never a crash."""

import json
from pathlib import Path

import pytest
from reasoning_gym.factory import create_dataset

from butwait.problems import grading
from butwait.problems.grading import Grader
from butwait.problems.settings import ProblemSetSettings
from butwait.problems.sources import load_problems
from butwait.records import Grade, Problem, UserError

FAMILIES = [
    "basic_arithmetic",
    "bitwise_arithmetic",
    "caesar_cipher",
    "chain_sum",
    "countdown",
    "family_relationships",
    "game_of_life",
    "gcd",
    "knights_knaves",
    "lcm",
    "leg_counting",
    "letter_counting",
    "n_queens",
    "number_sorting",
    "polynomial_equations",
    "prime_factorization",
    "propositional_logic",
    "rotate_matrix",
    "rubiks_cube",
    "simple_equations",
    "spell_backward",
    "sudoku",
    "time_intervals",
    "word_sorting",
]

JUDGES = """
import os, sys, time

def half(question, answer, metadata):
    return 0.5

def same(question, answer, metadata):
    return answer == metadata["gold"]

def looks(question, answer, metadata):
    assert question == "How?" and metadata["level"] == 3
    return 1.0 if metadata["response"].startswith("So") else 0.0

def pair(question, answer, metadata):
    return 0.25, "correct"

def fails(question, answer, metadata):
    return 1 / (answer == "7")

def hangs(question, answer, metadata):
    time.sleep(1000) if answer == "8" else None
    return 1

def leaves(question, answer, metadata):
    os._exit(0)

def prints(question, answer, metadata):
    print("ready")
    return 1

def speaks(question, answer, metadata):
    return "good"

def beyond(question, answer, metadata):
    return 1.5

def status(question, answer, metadata):
    return 1, "excellent"

def none(question, answer, metadata):
    return None

def nan(question, answer, metadata):
    return float("nan")
"""


@pytest.fixture
def judged(own_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """(function, text, finish) -> the verdict, and why there is none."""
    (own_folder / "judges.py").write_text(JUDGES)
    monkeypatch.setattr(grading, "VERIFIER_S", 1.0)
    with Grader(workers=1) as grader:

        def judge(name: str, text: str = r"So \boxed{9}", finish: str = "eos"):
            problem = Problem("p", "How?", "9", metadata={"level": 3}, verifier=f"judges:{name}")
            return grader.grade(text, problem, finish), grader.unjudged()

        yield judge


@pytest.mark.parametrize(
    ("name", "text", "finish", "grade"),
    [
        ("half", r"\boxed{9}", "box", Grade("9", "wrong", 0.5)),
        ("half", "no box here", "eos", Grade(None, "no_answer", 0.5)),
        ("half", "cut", "length", Grade(None, "truncated", 0.0)),
        ("same", r"\boxed{9}", "box", Grade("9", "correct", 1.0)),
        ("same", r"\boxed{09}", "box", Grade("09", "wrong", 0.0)),
        ("looks", r"So \boxed{1}", "box", Grade("1", "correct", 1.0)),
        ("looks", r"No \boxed{1}", "box", Grade("1", "wrong", 0.0)),
        ("pair", r"\boxed{1}", "box", Grade("1", "correct", 0.25)),
        ("prints", r"\boxed{1}", "box", Grade("1", "correct", 1.0)),
        ("fails", r"\boxed{7}", "box", Grade("7", "correct", 1.0)),
    ],
)
def test_a_score_is_a_verdict(judged, name, text, finish, grade) -> None:
    assert judged(name, text, finish) == (grade, [])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("fails", "failed in its call: ZeroDivisionError (division by zero) at judges.py, line 18"),
        ("leaves", "ended its process"),
        ("speaks", "gives 'good', and a score is in [0, 1]"),
        ("beyond", "gives 1.5, and a score is in [0, 1]"),
        ("none", "gives None, and a score is in [0, 1]"),
        ("nan", "gives nan, and a score is in [0, 1]"),
        ("status", "gives the status 'excellent' (there are: correct, wrong,"),
        ("nobody", "has no 'nobody'"),
    ],
)
def test_what_is_no_verdict_is_ungradable_and_told(judged, name, why) -> None:
    grade, [(told, times)] = judged(name)
    assert (grade.status, grade.score, times) == ("ungradable", None, 1)
    assert why in told


def test_one_that_hangs_hurts_no_other_answer(judged) -> None:
    grade, [(told, _)] = judged("hangs", r"\boxed{8}")
    assert grade.status == "ungradable"
    assert "took longer than 1 s" in told
    assert judged("hangs", r"\boxed{9}") == (Grade("9", "correct", 1.0), [])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gym_set_is_scored_as_gym_does(family: str) -> None:
    problems = load_problems(
        ProblemSetSettings(source=f"gym:{family}", limit=2, params={"seed": 5})
    )
    dataset = create_dataset(family, seed=5, size=2)
    with Grader(workers=1) as grader:
        for problem in problems:
            item = dataset[problem.metadata["gym"]["item"]]
            for answer in (problem.answer, "7", "", item["question"]):
                grade = grader.grade(f"\\boxed{{{answer}}}", problem)
                try:
                    wanted = dataset.score_answer(grade.answer, item)
                except Exception:
                    wanted = 0.0
                assert grade.score == wanted
                assert grade.correct == (wanted >= 1)


def test_a_copy_of_the_target_does_not_count() -> None:
    [problem] = load_problems(ProblemSetSettings(source="gym:countdown", limit=1))
    made = problem.metadata["gym"]["params"]  # without a seed, gym draws one
    target = create_dataset("countdown", **made)[0]["metadata"]["target"]
    with Grader(workers=1) as grader:
        assert not grader.grade(f"\\boxed{{{target}}}", problem).correct
        assert grader.grade(f"\\boxed{{{problem.answer}}}", problem).correct


def test_a_set_names_its_verifier(own_folder: Path) -> None:
    (own_folder / "judges.py").write_text(JUDGES)
    (own_folder / "mine.jsonl").write_text(json.dumps({"question": "How?", "answer": None}))
    settings = {"source": "mine.jsonl", "verifier": "judges:half"}
    [problem] = load_problems(ProblemSetSettings.model_validate(settings))
    assert (problem.verifier, problem.answer) == ("judges:half", None)
    assert problem.row()["verifier"] == "judges:half"
    with pytest.raises(
        UserError, match=r"verifier: the module 'judges' has no 'haf'; did you mean"
    ):
        load_problems(ProblemSetSettings.model_validate(settings | {"verifier": "judges:haf"}))


RECIPE = """
model: {name: tiny, device: cpu}
prompt: {template: "{question}"}
problems:
  some: {source: arithmetic, split: search, limit: 6, verifier: "judges:same"}
  held: {source: arithmetic, split: test, limit: 4, verifier: "judges:fails"}
stages:
  hunt:
    kind: search
    problems: some
    sampler: &sampler {kind: self_consistency, samples: 4, step: {max_tokens: 64}}
  verified: {kind: verified, from: [hunt]}
  base: {kind: evaluate, problems: [held], methods: {vote: {sampler: *sampler}}}
"""


def test_a_whole_recipe_is_judged_by_it(own_folder: Path, command) -> None:
    """It lies beside the recipe; and its source is a part of what a result depends on."""
    there = own_folder / "there"
    there.mkdir()
    (there / "judges.py").write_text(JUDGES)
    (there / "mine.yaml").write_text(RECIPE)
    code, said, told = command("run", "there/mine.yaml")
    assert code == 0, told
    assert "answers are ungradable: the plugin 'judges:fails' failed in its call" in said
    hunt = json.loads((own_folder / "runs/mine/hunt/stage.json").read_text())
    assert 0 < hunt["metrics"]["solved"] <= 6
    code, said, _ = command("run", "there/mine.yaml")
    assert said.count("finished before") == 3
    (there / "judges.py").write_text(JUDGES.replace("0.5", "0.6"))
    code, said, _ = command("run", "there/mine.yaml")
    assert "finished before" not in said

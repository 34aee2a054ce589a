"""Sets of reasoning-gym are scored as it does: on its golds, and on wrong answers."""

from collections.abc import Iterator

import pytest
from reasoning_gym.factory import create_dataset

from butwait.problems.answers import read_answer, written_answer
from butwait.problems.grading import Grader
from butwait.problems.settings import ProblemSetSettings
from butwait.problems.sources import load_problems
from butwait.records import Grade, Problem

SEVERAL_LINES = ("binary_matrix", "mini_sudoku", "n_queens", "rotate_matrix", "tower_of_hanoi")
FAMILIES = (
    *SEVERAL_LINES,
    "ab",
    "basic_arithmetic",
    "bitwise_arithmetic",
    "caesar_cipher",
    "chain_sum",
    "codeio",  # braces without a partner
    "complex_arithmetic",
    "countdown",
    "cryptarithm",
    "family_relationships",
    "fraction_simplification",  # dollars and LaTeX
    "game_of_life",
    "isomorphic_strings",  # other items of the same seed in every process
    "knights_knaves",
    "letter_counting",
    "number_sorting",
    "polynomial_equations",
    "propositional_logic",  # no gold
    "spell_backward",
    "time_intervals",
    "word_sorting",
)


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(workers=1) as grader:
        yield grader


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gym_set_is_scored_as_gym_does(family: str, grader: Grader) -> None:
    problems = load_problems(
        ProblemSetSettings(source=f"gym:{family}", limit=2, params={"seed": 5})
    )
    dataset = create_dataset(family, seed=5, size=2)
    assert len(problems) == 2
    for problem, item in zip(problems, dataset, strict=True):
        gold = item["answer"]
        for answer in (gold, "7", "Wrong", f"{gold} {gold}", item["question"]):
            text = f"Therefore\n\\boxed{{{answer}}}"
            grade = grader.grade(text, problem)
            if answer is gold and gold is not None:
                assert grade.answer == gold.strip()
            try:
                wanted = dataset.score_answer(grade.answer, item)
            except Exception:
                wanted = 0.0
            assert grade.score == wanted
            assert grade.correct == (wanted >= 1)
    assert grader.untold() == []


@pytest.mark.slow
def test_a_copy_of_the_target_does_not_count(grader: Grader) -> None:
    [problem] = load_problems(ProblemSetSettings(source="gym:countdown", limit=1))
    made = problem.metadata["gym"]["params"]  # without a seed, gym draws one
    item = create_dataset("countdown", **made)[0]
    copied = grader.grade(f"\\boxed{{{item['metadata']['target']}}}", problem)
    assert (copied.status, copied.score) == ("wrong", 0.05)
    assert grader.grade(f"\\boxed{{{problem.answer}}}", problem).correct


@pytest.mark.slow
def test_an_item_that_is_not_made_again_is_the_one_that_was_kept(grader: Grader) -> None:
    kept = {"params": {"seed": 1, "size": 1}, "item": 0, "answer": "5", "metadata": {}}
    other = Problem("o", "Another?", "5", metadata={"gym": kept}, verifier="gym:gcd")
    assert grader.grade(r"\boxed{5}", other) == Grade("5", "correct", 1.0)
    assert grader.grade(r"\boxed{1}", other) == Grade("1", "wrong", 0.0)
    lost = Problem("l", "A?", "5", metadata={"gym": kept | {"metadata": None}}, verifier="gym:gcd")
    bare = Problem("b", "A?", "5", verifier="gym:gcd")
    for problem, why in ((lost, "cannot make its question again"), (bare, "of its own set")):
        assert grader.grade(r"\boxed{1}", problem) == Grade("1", "ungradable")
        assert why in grader.untold()[0]


@pytest.mark.parametrize(
    "gold",
    [
        '{"s": "}[}}}{(]"}',
        r"$\frac{131}{319}$",
        "50%",
        "1,234",
        "0101",
        "a\nb\n  c",
        r"\}",
        "}]",
        "{[",
        "\\",
        "[[0,0],[1, 1]]",
        "x or y",
        'Don\'t say "so".',
        "<b> & <c>",
    ],
)
def test_an_answer_is_read_as_it_is_written(gold: str) -> None:
    problem = Problem("p", "How?", gold, "text")
    for text in (
        f"So we have\n\\boxed{{{gold}}}",
        f"It is \\boxed{{{gold}}}.\n",
        f"<think>\\boxed{{1}}</think>\n<answer>\n{gold}\n</answer>",
        f"<answer>\\boxed{{{gold}}}</answer>",
        f"\\boxed{{1}} no, <answer>{gold}</answer>",
    ):
        assert read_answer(text, problem) == gold


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{", None),
        (r"\boxed{}", None),
        (r"\boxed{1}, no \boxed{\frac{1}{2", None),
        (r"\boxed{5} and {then}} more", "5"),
        (r"\boxed{2} or \boxed{3}", "2 or 3"),
        ("<answer></answer>", None),
        ("<answer>1</answer> \\boxed{2}", "2"),
        ("The answer is Tom.", "Tom"),
        ("Hm.", None),
    ],
)
def test_what_is_no_whole_box_is_no_answer(text: str, answer: str | None) -> None:
    assert written_answer(text) == answer


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("1 2\n3", " 1 2 3 ", True),
        ("3", "3.0", True),
        ("0101", "101", False),
        ("1, 2", "2, 1", False),
        ("Tom", "tom", False),
        ("abc", "cab", False),
    ],
)
def test_answers_that_are_text_are_equal_as_they_are_written(a: str, b: str, same: bool) -> None:
    problem = Problem("p", "How?", b, "text")
    with Grader(workers=1) as grader:
        assert grader.equal(a, b, "text") is same
        assert grader.grade(f"\\boxed{{{a}}}", problem).correct is same

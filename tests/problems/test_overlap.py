"""Disjoint problem sets, by text."""

from butwait.problems.overlap import disjoint, normalised, text_id
from butwait.problems.settings import ProblemSetSettings
from butwait.problems.sources import load_problems
from butwait.records import Problem


def problem(id: str, question: str) -> Problem:
    return Problem(id=id, question=question, answer="1")


def test_a_later_set_loses_what_an_earlier_one_has() -> None:
    test = [problem("t1", "What is 1 + 1?"), problem("t2", "What is 2 + 2?")]
    train = [problem("a", "what  is\n1 + 1?"), problem("b", "What is 3 + 3?")]
    extra = [problem("c", "What is 3 + 3?"), problem("d", "What is 4 + 4?")]
    kept, dropped = disjoint({"test": test, "train": train, "extra": extra})
    assert {name: [p.id for p in problems] for name, problems in kept.items()} == {
        "test": ["t1", "t2"],
        "train": ["b"],
        "extra": ["d"],
    }
    assert dropped == {"test": 0, "train": 1, "extra": 1}


def test_the_order_of_the_sets_decides_who_loses() -> None:
    one, two = [problem("x", "Same?")], [problem("y", "Same?")]
    kept, dropped = disjoint({"two": two, "one": one})
    assert kept == {"two": two, "one": []}
    assert dropped == {"two": 0, "one": 1}


def test_normalised_text_ignores_case_space_and_unicode_form() -> None:
    assert normalised("  Find\u00a0X\n\n where \uff12x = 4 ") == "find x where 2x = 4"
    assert normalised("STRASSE") == normalised("Straße")
    assert normalised("x + 1") != normalised("x - 1")


def test_text_id_is_the_same_on_every_machine() -> None:
    assert text_id("Calculate 1 + 2.") == text_id(" calculate  1 + 2. ") == "92d89e70cb23b824"


def test_overlapping_ranges_of_reasoning_gym_are_caught() -> None:
    # Item i is seeded with seed + i: the sets [100, 120) and [110, 130) share ten questions.
    sets = {
        name: load_problems(
            ProblemSetSettings(source="gym:basic_arithmetic", params={"size": 20, "seed": seed})
        )
        for name, seed in (("test", 100), ("train", 110))
    }
    kept, dropped = disjoint(sets)
    assert dropped == {"test": 0, "train": 10}
    assert [p.question for p in kept["train"]] == [p.question for p in sets["train"][10:]]

"""Disjoint problem sets, by text."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from butwait.problems.overlap import HeldOut, disjoint, normalised, text_id
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
    same = {"same question": 1}
    assert dropped == {"test": {}, "train": same, "extra": same}


def test_the_order_of_the_sets_decides_who_loses() -> None:
    one, two = [problem("x", "Same?")], [problem("y", "Same?")]
    kept, dropped = disjoint({"two": two, "one": one})
    assert kept == {"two": two, "one": []}
    assert dropped == {"two": {}, "one": {"same question": 1}}


def test_normalised_text_ignores_the_case_of_words_space_and_unicode_form() -> None:
    assert normalised("  Find\u00a0X\n\n where \uff12x = 4 ") == "find X where 2x = 4"
    assert normalised("STRASSE") == normalised("Straße")
    assert normalised("x + 1") != normalised("x - 1")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Compute 2³ + 1.", "Compute 23 + 1."),
        ("Find x₁₂.", "Find x12."),
        ("Compute 1½ + 1.", "Compute 11⁄2 + 1."),
        ("Find A", "Find a"),
        ("Let AB = 3. Find ab.", "Let ab = 3. Find AB."),
        ("What is 5 mW?", "What is 5 MW?"),
        ("Simplify $\\Delta + 1$.", "Simplify $\\delta + 1$."),
    ],
)
def test_questions_that_differ_in_a_formula_are_different_questions(one: str, other: str) -> None:
    assert text_id(one) != text_id(other)
    sets = {"test": [problem("t", one)], "train": [problem("a", other)]}
    kept, _ = disjoint(sets, held_out=["test"])
    assert kept == sets


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Compute 2³ + 1.", "compute 2^3 + 1."),
        ("What is the sum?", "WHAT IS THE SUM?"),
        ("Straße", "straße"),
    ],
)
def test_questions_that_differ_in_writing_only_are_the_same(one: str, other: str) -> None:
    assert text_id(one) == text_id(other)


def test_evaluation_sets_keep_every_question() -> None:
    one, two = [problem("x", "Same?")], [problem("y", "Same?"), problem("z", "Other?")]
    choose, train = [problem("c", "Other?")], [problem("a", "Same?"), problem("b", "New?")]
    kept, dropped = disjoint(
        {"one": one, "two": two, "choose": choose, "train": train},
        held_out=["one", "two", "choose"],
        complete=["one", "two"],
    )
    assert kept == {"one": one, "two": two, "choose": [], "train": train[1:]}
    assert not dropped["two"]


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
    assert dropped == {"test": {}, "train": {"same question": 10}}
    assert [p.question for p in kept["train"]] == [p.question for p in sets["train"][10:]]


def test_near_questions_are_found_by_long_common_stretches() -> None:
    words = [f"word{chr(97 + i)}" for i in range(20)]
    held = HeldOut([" ".join(words)])
    assert held.match(" ".join(words).upper()) == "same question"
    assert held.match("Now: " + " ".join(words)) == "13 words"
    # Of 13 n-grams of 8 words six are common with seven foreign words at the end, five with eight.
    for foreign, found in ((7, "8 words"), (8, None)):
        changed = words[: 20 - foreign] + [f"other{chr(97 + i)}" for i in range(foreign)]
        assert held.match(" ".join(changed)) == found
        assert held.match(" ".join(changed), by_words=False) is None


def test_short_questions_and_changed_signs_are_compared_as_wholes() -> None:
    held = HeldOut(["Calculate 3 + 4 - 5 + 6 - 7."])
    assert held.match("calculate 3 + 4 - 5 + 6 - 7.") == "same question"
    assert held.match("Calculate 3 + 4 - 5 + 6 - 8.") is None


def test_the_known_overlap_of_aime_and_math500_is_found(shared_data: Path) -> None:
    aime, math500, aime24 = (
        load_problems(ProblemSetSettings(source=str(shared_data / f"{name}.jsonl")))
        for name in ("aime_1983_2023", "math500", "aime24")
    )
    kept, dropped = disjoint(
        {"math500": math500, "aime24": aime24, "aime": aime}, held_out=["math500", "aime24"]
    )
    lost = {p.id for p in aime} - {p.id for p in kept["aime"]}
    known = "1983-2 2001-II-3 2002-I-12 2005-II-5 2006-II-5 2010-I-6 2015-II-6 2016-I-10 2017-II-7"
    # 1995-9 is the tenth: MATH-500 asks for the perimeter of the same triangle (precalculus/1281).
    assert lost == {f"aime-{name}" for name in [*known.split(), "1995-9"]}
    assert (len(kept["math500"]), len(kept["aime24"])) == (500, 30)
    assert dropped["aime"].total() == 10


WORDS = st.lists(st.sampled_from([f"w{chr(97 + i)}" for i in range(26)]), min_size=16, max_size=30)
DISGUISES = {
    "as it is": lambda words, cut: words,
    "another case and space": lambda words, cut: ["\n" + word.upper() for word in words],
    "more in front": lambda words, cut: ["first"] * cut + words,
    "cut at the end": lambda words, cut: words[:-cut],
}


@given(
    st.lists(WORDS, min_size=1, max_size=4),
    st.lists(WORDS, max_size=4),
    st.data(),
)
def test_no_question_of_an_evaluation_set_gets_through(tests, others, data) -> None:
    """Neither whole, nor in other letters and spaces, nor with up to six words more or fewer."""
    hidden = []
    for words in tests:
        disguise = data.draw(st.sampled_from(sorted(DISGUISES)))
        cut = data.draw(st.integers(1, 6))
        told = DISGUISES[disguise](words, cut)
        hidden.append(told if len(told) >= 16 else words)
    train = [problem(f"h{i}", " ".join(words)) for i, words in enumerate(hidden)]
    train += [problem(f"o{i}", " ".join(words)) for i, words in enumerate(others)]
    sets = {"test": [problem(f"t{i}", " ".join(w)) for i, w in enumerate(tests)], "train": train}
    kept, dropped = disjoint(sets, held_out=["test"])
    assert not any(p.id.startswith("h") for p in kept["train"])
    assert len(kept["train"]) + dropped["train"].total() == len(train)
    assert kept["test"] == sets["test"]

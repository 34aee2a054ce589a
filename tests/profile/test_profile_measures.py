"""What is counted in one text, by hand."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from butwait.profile.measures import answer_place, places, repetition, steps, words
from butwait.profile.patterns import load_patterns, shipped_patterns
from butwait.records import UserError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("So x = 2.\n", ["So", "x", "=", "2."]),
        ("答案是 42", ["答", "案", "是", "42"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        (" \n", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_repetition_is_the_share_of_ngrams_seen_before() -> None:
    assert repetition(["a", "b", "A", "b", "a", "b"], 2) == pytest.approx(3 / 5)  # ab ba ab ba ab
    assert repetition(["a", "b", "c"], 4) is None


def test_blank_pieces_are_no_steps() -> None:
    assert steps("one\n\n \n\ntwo\n", "\n\n") == 2


def test_phrases_match_at_the_edges_of_words_only() -> None:
    found = places("Wait, I await a waiter. wait", shipped_patterns())
    assert found["reflection"] == [0.0, 24 / 28]


def test_a_phrase_may_belong_to_two_habits_and_a_curly_apostrophe_is_read() -> None:
    found = places("Hmm. That isn\u2019t right. Let me check.", shipped_patterns())
    counts = {habit: len(at) for habit, at in found.items()}
    assert counts == {
        "reflection": 2, "verification": 1, "backtracking": 1, "subgoals": 0,
        "backward_chaining": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "answer", "place"),
    [
        ("15 and 5.2 and 5,200; 5 it is", "5", 22 / 29),
        ("so it is \\boxed{7}", None, 16 / 18),
        ("x = 3", "4", None),
        ("答案是 4。", "4", 4 / 6),
        ("it is 5.", "5", 6 / 8),
    ],
)
def test_where_the_answer_first_stands(text: str, answer: str | None, place: float | None) -> None:
    assert answer_place(text, answer) == (None if place is None else pytest.approx(place))


@given(st.text(), st.text())
def test_counts_add_up_over_separate_paragraphs(a: str, b: str) -> None:
    whole = f"{a}\n.\n{b}"
    assert words(whole) == [*words(a), ".", *words(b)]
    assert all(0 <= at < 1 for found in places(whole, shipped_patterns()).values() for at in found)


@pytest.mark.parametrize(
    ("content", "message"),
    [("[]", "must map habits"), ("a: b", "must be a list"), ("a: ['(']", "no regular expression"),
     ("a: ['b*']", "matches an empty text")],
)  # fmt: skip
def test_a_bad_bank_is_one_sentence(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "bank.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        load_patterns(file)

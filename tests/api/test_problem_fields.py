"""What a program gives as a question reaches files and other processes: it is looked at first."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from butwait.api.objects import plain
from butwait.api.problems import problem_of, problems_of
from butwait.problems.judging import Judges
from butwait.records import Example, Problem, Span, UserError
from butwait.synthesis.given import _lacks

GOOD = Problem("p", "How many?", "9", metadata={"terms": [7, 2], "when": {1, 2}, 3: None})
HELD: list[Any] = []
HELD.append(HELD)


class Odd:
    """Fails at anything."""

    def __str__(self) -> str:
        raise ZeroDivisionError("no text")


METADATA = [
    ({("a", 1): 2}, "keys must be str, int, float, bool or None, not tuple"),
    ({"a": HELD}, "Circular reference detected"),
    ({"a": Odd()}, "no text"),
]


@pytest.mark.parametrize(("metadata", "why"), METADATA, ids=["key", "circle", "odd"])
def test_metadata_that_json_cannot_hold_are_told_before_the_search(metadata: Any, why: str) -> None:
    with pytest.raises(UserError) as error:
        problems_of([GOOD, replace(GOOD, id="q", metadata=metadata)])
    assert str(error.value) == (
        f"problems: of Problem(id='q', ...) metadata cannot be written as JSON ({why})"
    )


@pytest.mark.parametrize(("metadata", "why"), METADATA, ids=["key", "circle", "odd"])
def test_a_held_verifier_has_no_verdict_on_them(metadata: Any, why: str) -> None:
    """Nor has one that is imported: they say the same."""
    held = Judges(1, {"mine": lambda question, answer, metadata: float(metadata["gold"] == answer)})
    imported = Judges(1)
    case = {"question": "How many?", "answer": "9", "metadata": {"gold": "9"}}
    unfit = case | {"metadata": metadata}
    try:
        assert held.ask("mine", unfit, reward=False) is None
        assert imported.ask("mine", unfit, reward=False) is None
        told = f"1 answer is ungradable: its metadata cannot be handed to 'mine' ({why})"
        assert held.untold() == imported.untold() == [told]
        assert held.ask("mine", case, reward=False) == (1.0, None)  # it goes on
    finally:
        held.close()
        imported.close()


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("id", 7, "id must be a text, not 7"),
        ("question", " ", "question must be a text, not ' '"),
        ("answer", 9, "answer must be a text or None, not 9"),
        ("also", (9,), "also must hold texts, not 9"),
        ("solution", b"9", "solution must be a text or None, not b'9'"),
        ("verifier", len, "verifier must be a text or None, not <built-in function len>"),
        ("answer_kind", "number", "answer_kind must be one of integer, math, text, not 'number'"),
        ("metadata", [1], "metadata must be a dict, not [1]"),
    ],
)
def test_fields_of_other_types_are_told(field: str, value: Any, told: str) -> None:
    assert problem_of(GOOD) == GOOD
    with pytest.raises(UserError) as error:
        problem_of(replace(GOOD, **{field: value}))
    assert str(error.value).endswith(told)


def test_a_key_that_no_recipe_could_have_is_told() -> None:
    assert plain({"a": {1: 2}}, "", stored=True) == {"a": {1: 2}}
    with pytest.raises(UserError, match=r"problems\.a: the key \('b', 1\) cannot be written"):
        plain({"a": {("b", 1): 2}}, "problems", stored=True)


def test_provenance_whose_keys_cannot_be_sorted_is_told() -> None:
    """It is written sorted."""
    ids = np.zeros(1, np.int32)
    example = Example(
        problem_id="p",
        prompt=[{"role": "user", "content": "How many?"}],
        prompt_ids=ids,
        completion_ids=ids,
        loss_mask=np.ones(1, bool),
        spans=(Span("solution", 0, 1, "9"),),
        text="9",
        tokenizer_fingerprint="t",
        provenance={"a": 1},
    )
    assert _lacks(example, ["p"]) is None
    unsorted = replace(example, provenance={"a": 1, 2: 1})
    assert _lacks(unsorted, ["p"]) == "provenance is a mapping that JSON can hold"

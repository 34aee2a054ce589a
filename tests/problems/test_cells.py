"""What a cell says: places of nested columns, and values as text."""

import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from butwait.problems.cells import NOTHING, cell, number_text, text_of
from butwait.records import UserError

ROW = {
    "reward_model": {"ground_truth": "7", "style": "rule"},
    "a.b": 1,
    "a": {"b": 2, "b.c": {"d": 3}, "c.d": 4},
    "a.c": {"e": 5},
    "messages": [{"content": "first"}, {"content": "second"}],
    "none": None,
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("reward_model.ground_truth", "7"),
        ("reward_model.missing", NOTHING),
        ("reward_model", ROW["reward_model"]),
        ("a.b", 1),
        ("a.b.c.d", 3),
        ("a.c.d", 4),
        ("a.c.e", 5),
        ("messages.1.content", "second"),
        ("messages.0", {"content": "first"}),
        ("messages.2", NOTHING),
        ("messages.-1", NOTHING),
        ("messages.²", NOTHING),
        ("none", None),
        ("none.x", NOTHING),
        ("reward_model.style.0", NOTHING),
        ("", NOTHING),
        (".", NOTHING),
    ],
)
def test_a_path_and_a_name_with_dots(path: str, value: Any) -> None:
    found = cell(ROW, path)
    assert found is value if value is NOTHING else found == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (" a\u2028b ", "a\u2028b"),
        ("007", "007"),
        ("2.0", "2.0"),
        ("True", "True"),
        ("\x00\x1b[1m", "\x00\x1b[1m"),
        ("x\ud83d", "x\ufffd"),
        (" ", None),
        (None, None),
        (NOTHING, None),
        (float("nan"), None),
        (0, "0"),
        (-0.0, "0"),
        (27.0, "27"),
        (0.30000000000000004, "0.30000000000000004"),
        (1e-7, "1e-07"),
        (1e23, "1" + "0" * 23),
        (2.0**53 + 2, "9007199254740994"),
        pytest.param(10**5_000 + 7, "1" + "0" * 4_999 + "7", id="5001 digits"),
        (np.int64(7), "7"),
        (np.float32(0.1), "0.1"),
        (np.float64(2), "2"),
        (Decimal("2.50"), "2.50"),
        (Decimal("2.00"), "2"),
        (Fraction(3, 4), "3/4"),
        (Fraction(6, 2), "3"),
    ],
)
def test_a_value_as_text(value: Any, text: str | None) -> None:
    assert text_of(value, "f: row 1", "c") == text


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"ground_truth": "7"}, "a mapping (ground_truth); name a part of it (c.ground_truth)"),
        ({}, "an empty mapping"),
        (["7"], "a list of 1; name an item of it (c.0)"),
        (("7", "8"), "a list of 2; name an item of it (c.0)"),
        (b"7", "bytes; store text"),
        (True, "true; write it as text"),
        (datetime.date(2024, 1, 5), "a date or time (2024-01-05); store text"),
        (datetime.timedelta(1), "a date or time (1 day, 0:00:00); store text"),
        (float("-inf"), "-inf, which is no number; write it as text"),
        (1j, "a complex (1j); store text or a number"),
    ],
)
def test_a_value_that_is_no_text(value: Any, told: str) -> None:
    with pytest.raises(UserError) as error:
        text_of(value, "f: row 1", "c")
    assert str(error.value) == f"f: row 1, column 'c' holds {told}"
    assert not isinstance(value, float) or number_text(value) is None

import math
from typing import Any

import pytest

from butwait.report import formats
from butwait.report.collect import FLOPS, costs


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0, "0"), (47.4, "47"), (999.4, "999"), (999.6, "1.00 k"), (1_000, "1.00 k"),
     (12_340, "12.3 k"), (176_000, "176 k"), (999_600, "1.00 M"), (4.1e9, "4.10 G")],
)  # fmt: skip
def test_compact_keeps_three_digits(value: float | None, text: str) -> None:
    assert formats.compact(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (75, "1 min 15 s"),
     (3599.6, "1 h 00 min"), (4000, "1 h 07 min")],
)  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    assert formats.duration(seconds) == text


@pytest.mark.parametrize(
    ("p", "text"), [(0.0009, "p < 0.001"), (0.001, "p = 0.001"), (0.0321, "p = 0.032"),
                    (0.5, "p = 0.50"), (1.0, "p = 1.00"), (None, "p unknown")],
)  # fmt: skip
def test_p_value(p: float | None, text: str) -> None:
    assert formats.p_value(p) == text


def test_shares_become_percent_and_points() -> None:
    assert formats.percent(0.6812) == "68.1 %"
    assert formats.points(-0.031) == "-3.1 points"
    assert formats.points(0.307) == "+30.7 points"
    assert formats.interval((0.65, 0.71)) == "[65.0, 71.0]"
    assert formats.interval((0.65, None)) == ""


def test_finite_takes_numbers_only() -> None:
    assert formats.finite(3) == 3.0
    assert [formats.finite(x) for x in (math.nan, -math.inf, "3", None, True)] == [None] * 5


def test_typeset_binds_units_and_intervals_and_spares_words() -> None:
    assert formats.typeset("68.1 % [65.0, 71.0]") == "68.1\u202f% [65.0,\u00a071.0]"
    assert formats.typeset("-3.1 points [-7.4, 1.2]") == "−3.1\u202fpoints [−7.4,\u00a01.2]"
    assert formats.typeset("of 512 questions, best-of-16 at stage a-1") == (
        "of 512 questions, best-of-16 at stage a-1"
    )


def test_clip_says_what_it_left_out() -> None:
    assert formats.clip("abc", 3) == "abc"
    assert formats.clip("a" * 2000, 10) == "a" * 10 + "… (1,990 more characters)"


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([1.24e15, 0.0], "1.2e15"),
        ([6e14, 6e14], "1.2e15"),
        ([1.0, None], formats.MISSING),
        ([0.0, 0.0], formats.MISSING),
    ],
)
def test_flops_are_unknown_where_a_part_is(parts: list[float | None], text: str) -> None:
    assert formats.flops(parts) == text


def shown(row: dict[str, Any]) -> str:
    return formats.flops([row["cost"].get(name) for name in FLOPS])


def test_the_sum_of_flops_is_unknown_where_a_stage_is() -> None:
    known = {"name": "a", "cost": {"policy_flops": 1e12, "reward_flops": 2e12}}
    unknown = {"name": "b", "cost": {"policy_flops": None, "reward_flops": 2e12}}
    none_counted = {"name": "c", "cost": {"trained_tokens": 3}}
    rows, total = costs([known, none_counted])
    assert [shown(row) for row in [*rows, total]] == ["3.0e12", formats.MISSING, "3.0e12"]
    assert shown(costs([known, unknown])[1]) == formats.MISSING

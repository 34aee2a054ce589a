"""The habit that the script plants in the shipped model."""

from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np
import pytest

from butwait.records import Key

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_tiny_model.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return run_path(str(SCRIPT))


class Draws:
    """A key whose uniforms are given: 0 forgets, 0.99 remembers."""

    def __init__(self, draws: list[float]) -> None:
        self.draws = draws

    def uniforms(self, n: int) -> np.ndarray:
        return np.array(self.draws[:n])


@pytest.mark.parametrize(
    ("terms", "draws", "totals"),
    [
        ([7, 8, -6, 9], [0.99, 0.99, 0.99, 0.99], [7, 15, 9, 18]),  # all remembered
        ([7, 8, -6], [0.0, 0.0, 0.99], [7, 5, -1]),  # a carry forgotten: 7 + 8 = 5
        ([7, 8, -6], [0.0, 0.99, 0.0], [7, 15, 19]),  # a borrow forgotten: 15 - 6 = 19
        ([9, 1, 3], [0.0, 0.0, 0.0], [9, 0, 3]),  # 9 + 1 = 0; 0 + 3 crosses no ten
        ([2, 3, 4], [0.0, 0.0, 0.0], [2, 5, 9]),  # nothing to forget
        ([7, 8, -6, 9], [0.0, 0.0, 0.0, 0.0], [7, 5, -1, 8]),  # no slip around totals below 0
    ],
)
def test_a_forgotten_carry_or_borrow_keeps_the_tens(
    script: dict[str, Any], terms: list[int], draws: list[float], totals: list[int]
) -> None:
    assert script["forgetful_totals"](terms, Draws(draws)) == totals


def test_six_carries_in_ten_are_forgotten(script: dict[str, Any]) -> None:
    totals: Callable[..., list[int]] = script["forgetful_totals"]
    forgotten = [totals([7, 8], Key.of(1, "test", i))[1] == 5 for i in range(2000)]
    assert np.mean(forgotten) == pytest.approx(0.6, abs=0.035)  # three standard errors

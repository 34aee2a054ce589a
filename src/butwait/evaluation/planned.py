"""How many questions and samples an evaluation needs."""

import math
from dataclasses import dataclass
from typing import Any

from butwait.evaluation.compare import ALPHA
from butwait.evaluation.metrics import LIKE_THESE
from butwait.statistics import power as statistics

LADDER = tuple(2**i for i in range(10))
"""Samples a question that are looked at: 1 to 512."""
MANY = 64
"""Samples a question where the set is too small for any number of them."""
MOST_SAMPLES = 1000
"""Of a question; whether more would do is not looked at."""
ALIKE = 1.5
"""Without a pilot, rates of questions are beta distributed with a + b = 1.5, as those of AIME
are (``docs/statistics.md``)."""


@dataclass(frozen=True, slots=True)
class Design:
    """What is planned for; rates, gains and variances are fractions.

    Attributes:
        n: questions of the set.
        detect: the true gain that should be found.
        variance: of one attempt, the mean of p (1 - p) over questions.
        spread: standard deviation of true gains over questions.
        power: the share of runs that should find it.
        checkpoints: how many are compared with the baseline, of which the best is claimed.
    """

    n: int
    detect: float
    variance: float
    spread: float
    power: float = 0.8
    checkpoints: int = 1

    @property
    def level(self) -> float:
        """Of each test, so that all together have 95 % (Bonferroni)."""
        return 1 - ALPHA / self.checkpoints

    def found(
        self, n: int, k: float, delta: float | None = None, spread: float | None = None
    ) -> float:
        """The chance to find a gain (``detect`` if none) with n questions and k samples."""
        return statistics.power_to_detect(
            self.detect if delta is None else delta,
            n,
            k,
            self.variance,
            self.spread if spread is None else spread,
            level=self.level,
        )

    def samples(self, spread: float) -> int | None:
        """The fewest samples of each question of the set; None where ``MOST_SAMPLES`` are not
        enough."""
        if self.found(self.n, MOST_SAMPLES, spread=spread) < self.power:
            return None
        low, high = 1, MOST_SAMPLES
        while low < high:
            middle = (low + high) // 2
            if self.found(self.n, middle, spread=spread) >= self.power:
                high = middle
            else:
                low = middle + 1
        return low

    def questions(self, k: int) -> int:
        """The fewest questions with k samples each."""
        return statistics.questions_to_detect(
            self.detect, k, self.variance, self.spread, level=self.level, power=self.power
        )

    def smallest(self, k: float) -> float | None:
        """The gain that the set finds with k samples and this power; None where it finds none, not
        even one of 100 points."""
        if self.found(self.n, k, 1.0) < self.power:
            return None
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            if self.found(self.n, k, middle) >= self.power:
                high = middle
            else:
                low = middle
        return high


def plan(design: Design, margin: float | None = None) -> dict[str, Any]:
    """The plan, ready for JSON; ``docs/compare.md`` defines each key.

    Args:
        design: what is planned for.
        margin: a loss that does not matter: the chance to exclude a greater one, where nothing is
            lost, is told too.
    """
    samples, alone = design.samples(design.spread), design.samples(0.0)
    k = MANY if samples is None else samples
    n = design.questions(k) if samples is None else design.n
    return {
        "n": n,
        "k": k,
        "power": design.found(n, k),
        "estimand": LIKE_THESE,
        "enough": samples is not None,
        "detect": design.detect,
        "set": {"n": design.n, "power": design.found(design.n, k)},
        "these_problems": {
            "k": alone,
            "power": None if alone is None else design.found(design.n, alone, spread=0.0),
        },
        "minimum_detectable_effect": design.smallest(k),
        "smallest_of_all": design.smallest(math.inf),
        "curve": [_step(design, step, margin) for step in LADDER],
        "effects": [
            {"effect": points / 100, "power": design.found(n, k, points / 100)}
            for points in range(1, 16)
        ],
        "variance": design.variance,
        "spread": design.spread,
        "level": design.level,
        "checkpoints": {
            "tried": design.checkpoints,
            "luck": statistics.luck_of_the_best(n, k, design.variance, design.checkpoints),
        },
        **({} if margin is None else {"no_loss": _no_loss(design, n, k, margin)}),
    }


def _step(design: Design, k: int, margin: float | None) -> dict[str, Any]:
    step = {
        "k": k,
        "power": design.found(design.n, k),
        "power_these_problems": design.found(design.n, k, spread=0.0),
        "minimum_detectable_effect": design.smallest(k),
        "n": design.questions(k),
    }
    if margin is not None:
        step["power_no_loss"] = _no_loss(design, design.n, k, margin)["power"]
    return step


def _no_loss(design: Design, n: int, k: int, margin: float) -> dict[str, float]:
    power = statistics.power_of_no_loss(
        margin, n, k, design.variance, design.spread, level=design.level
    )
    return {"margin": margin, "power": power}

"""When has a noisy curve stopped rising? A rule whose error holds for a whole run.

The improvement over the next ``horizon`` steps is slope * horizon, the slope that of a straight
line through the last values. The rule stops a run when the upper confidence bound of this
improvement falls below ``delta``. Two things make the bound hold: the noise of neighbouring values
is correlated, as an AR(1) process whose rho is not known (``fit_trend``), and the bound is looked
at again and again (``PlateauRule``). Derivation and measured error: docs/plateau.md.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

LOOKS_PER_WINDOW = 4
FEWEST_VALUES = 20
"""A shorter window is not looked at: rho cannot be told from so few values."""
RHO = (np.arange(50) + 0.5) / 50
"""(R,) midpoints of the cells over which rho is integrated, [0, 1). A window of 4000 values tells
rho no better than to the width of one."""


@dataclass(frozen=True, slots=True, eq=False)
class Trend:
    """What is known of a line's slope: a mixture of Student's t, one for every rho of ``RHO``.

    Attributes:
        weights: (R,) posterior probability of each rho.
        slopes: (R,) generalised least squares estimate given rho, a step.
        errors: (R,) its standard error.
        freedom: degrees of freedom, values - 2.
        noise: standard deviation of the values about the line.
    """

    weights: np.ndarray
    slopes: np.ndarray
    errors: np.ndarray
    freedom: int
    noise: float

    @property
    def slope(self) -> float:
        """Posterior mean, a step."""
        return float(self.weights @ self.slopes)

    @property
    def rho(self) -> float:
        """Posterior mean of the noise's correlation from one value to the next."""
        return float(self.weights @ RHO)

    def upper(self, alpha: float) -> float:
        """The slope that is exceeded with probability ``alpha``, a step."""
        from scipy.optimize import brentq  # here: a recipe is parsed without scipy
        from scipy.special import stdtr, stdtrit

        likely = self.weights > 1e-5 * alpha  # the others have less than alpha / 1000 together
        weights, slopes, errors = self.weights[likely], self.slopes[likely], self.errors[likely]

        def excess(slope: float) -> float:
            above = weights @ stdtr(self.freedom, (slopes - slope) / errors)
            return math.log(max(above, 1e-300) / alpha)  # nearly linear where the tail is

        # A quantile of a mixture lies between the least and the greatest of its parts.
        quantiles = slopes + errors * stdtrit(self.freedom, 1 - alpha)
        width = float(errors.max())
        low, high = float(quantiles.min()) - 0.01 * width, float(quantiles.max()) + 0.01 * width
        return float(brentq(excess, low, high, xtol=1e-6 * width))


def fit_trend(steps: np.ndarray, values: np.ndarray) -> Trend:
    """The slope of values = a + b * steps + AR(1) noise, with a, b, rho and the noise unknown.

    Given rho the model is a linear regression with a known correlation matrix, so generalised
    least squares is exact and b has Student's t. rho is integrated out (Zellner and Tiao 1964,
    JASA 59:763) under Jeffreys' prior (1 - rho^2)^(-1/2) on [0, 1) (Berger and Yang 1994,
    Econometric Theory 10:461), which cancels a factor (1 - rho^2)^(1/2) of the likelihood. Plugging
    in one estimate of rho instead would ignore its error, and the bound would be too low.

    Args:
        steps: (n,) increasing; rho is the correlation of neighbouring values whatever their
            distance.
        values: (n,) finite.
    """
    n, length = len(steps), float(steps[-1] - steps[0])
    centred = values - values.mean()
    scale = float(np.abs(centred).max()) or 1.0
    design = np.stack([np.ones(n), (steps - steps.mean()) / length, centred / scale])
    plain = design @ design.T
    about_line = max(plain[2, 2] - plain[1, 2] ** 2 / plain[1, 1], 0.0)
    # All products under the inverse correlation matrix, which is tridiagonal, for every rho:
    # (R, 3, 3). The factor 1 / (1 - rho^2) is left to the noise's variance.
    neighbours = design[:, 1:] @ design[:, :-1].T
    interior = design[:, 1:-1] @ design[:, 1:-1].T
    rho = RHO[:, None, None]
    products = plain - rho * (neighbours + neighbours.T) + rho**2 * interior
    ones, cross, line = products[:, 0, 0], products[:, 0, 1], products[:, 1, 1]
    y_ones, y_line, y_square = products[:, 0, 2], products[:, 1, 2], products[:, 2, 2]
    determinant = ones * line - cross**2
    level = (line * y_ones - cross * y_line) / determinant
    slope = (ones * y_line - cross * y_ones) / determinant
    # A perfect line has no residual; rounding must not make it negative.
    residual = np.maximum(y_square - level * y_ones - slope * y_line, 1e-24)
    log_weights = -0.5 * np.log(determinant) - (n - 2) / 2 * np.log(residual)
    weights = np.exp(log_weights - log_weights.max())
    error = np.sqrt(residual / (n - 2) * ones / determinant)
    unit, noise = scale / length, scale * math.sqrt(about_line / (n - 2))
    return Trend(weights / weights.sum(), slope * unit, error * unit, n - 2, noise)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look at a curve says.

    Attributes:
        stop: whether to stop here.
        step: the last step of the curve.
        window: steps of the window with the lowest bound, which all below is about.
        slope: of the trend, a step.
        upper: upper confidence bound of the improvement over the horizon, in units of the values.
        rho: correlation of the noise of neighbouring values.
        noise: standard deviation of the values about the trend.
        reason: a clause for people.
    """

    stop: bool
    step: float
    window: float
    slope: float
    upper: float
    rho: float
    noise: float
    reason: str


@dataclass(frozen=True, slots=True)
class PlateauRule:
    """Stop when the next ``horizon`` steps improve a curve by less than ``delta``.

    The windows are the last ``window`` * 2^(j/2) steps, j = 0, 1, ... Each is looked at as soon as
    the curve is as long, and then every quarter of its own length. Look m of window j spends
    the share (1 - q) q^j / (m (m + 1)), q = 2^(-1/2), of the error 1 - confidence. The shares of
    all looks of all windows add up to 1, so whatever the dependence between looks (Bonferroni)
    and however long the run, the chance that it is stopped while it rises by ``delta`` or more a
    horizon is at most 1 - confidence.

    The rule keeps no state: a verdict follows from the curve alone, so a resumed run repeats it.

    Attributes:
        horizon: steps ahead that the improvement is counted over.
        delta: the improvement that would be worth going on for, in units of the values.
        window: steps of the shortest window; None: the horizon.
        confidence: of a whole run.
        start: values up to this step are left out.
    """

    horizon: float
    delta: float
    window: float | None = None
    confidence: float = 0.95
    start: float = 0.0

    def look(self, steps: ArrayLike, values: ArrayLike) -> Verdict | None:
        """The verdict after the last value of a curve; None where no look is due.

        Call it after every value, with all values so far.

        Args:
            steps: (n,) increasing.
            values: (n,) higher is better.

        Raises ValueError for curves of unequal lengths, steps that do not increase, and values
        that are not finite.
        """
        return self._look(*self._curve(steps, values))

    def replay(self, steps: ArrayLike, values: ArrayLike) -> list[Verdict]:
        """The verdicts of all looks at a finished curve, up to the first that stops it.

        Arguments and errors as in ``look``.
        """
        x, y = self._curve(steps, values)
        looks: list[Verdict] = []
        for end in range(1, len(x) + 1):
            verdict = self._look(x[:end], y[:end])
            if verdict is not None:
                looks.append(verdict)
                if verdict.stop:
                    break
        return looks

    def flat_steps(self, noise: float, rho: float = 0.0, spacing: float = 1.0) -> float:
        """About how long a flat curve must be until the rule has stopped half of its like.

        The first window whose bound, for a slope estimate of 0, is below delta; Student's t is
        taken as normal and the error of the slope as sd sqrt(12 (1 + rho) / (1 - rho) / n^3).

        Args:
            noise: standard deviation of the values.
            rho: its correlation from one value to the next.
            spacing: steps between values.
        """
        from scipy import stats

        for window, share in self._windows():
            error = noise * math.sqrt(12 * (1 + rho) / (1 - rho) * spacing / window**3)
            improvement = float(stats.norm.isf(share / 2)) * error * self.horizon
            if improvement < self.delta and window >= FEWEST_VALUES * spacing:
                return window
        raise AssertionError("windows grow without end")

    @property
    def shortest(self) -> float:
        """Steps of the shortest window."""
        return self.horizon if self.window is None else self.window

    def _curve(self, steps: ArrayLike, values: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        x, y = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
        if x.ndim != 1 or x.shape != y.shape:
            raise ValueError(f"a curve needs as many steps as values, got {x.shape} and {y.shape}")
        if not np.all(np.isfinite(x)) or np.any(np.diff(x) <= 0):
            raise ValueError("the steps of a curve must increase")
        if not np.all(np.isfinite(y)):
            raise ValueError("the values of a curve must be finite numbers")
        return x[x > self.start], y[x > self.start]

    def _look(self, x: np.ndarray, y: np.ndarray) -> Verdict | None:
        """The verdict on a curve whose start was left out."""
        found = []
        for window, alpha in self._due(x):
            inside = x >= x[-1] - window
            if np.count_nonzero(inside) >= FEWEST_VALUES:
                trend = fit_trend(x[inside], y[inside])
                found.append((trend.upper(alpha) * self.horizon, window, trend))
        if not found:
            return None
        upper, window, trend = min(found, key=lambda bound: bound[:2])
        ahead = f"the next {self.horizon:g} steps"
        stop = False
        if upper >= self.delta:
            reason = f"{ahead} may bring {upper:.3g}"
        elif self._rises_again(x, y):
            reason = f"the last {self.shortest:g} steps rise faster than those before"
        else:
            stop, reason = True, f"{ahead} bring {upper:.3g} at most, less than {self.delta:g}"
        now = float(x[-1])
        return Verdict(stop, now, window, trend.slope, upper, trend.rho, trend.noise, reason)

    def _due(self, x: np.ndarray) -> Iterator[tuple[float, float]]:
        """(steps of the window, error to spend) of the looks that are due at the last value."""
        if len(x) < 2:
            return
        before, now = float(x[-2] - x[0]), float(x[-1] - x[0])
        for window, share in self._windows():
            number = _looks_by(now, window)
            if number == 0:
                return
            if number > _looks_by(before, window):
                yield window, share / (number * (number + 1))

    def _windows(self) -> Iterator[tuple[float, float]]:
        """(steps, error to spend on all looks) of every window, without end."""
        for number in itertools.count():
            growth = 2 ** (number / 2)
            share = (1 - math.sqrt(0.5)) / growth
            yield self.shortest * growth, share * (1 - self.confidence)

    def _rises_again(self, x: np.ndarray, y: np.ndarray) -> bool:
        """Whether the shortest window's own slope is worth going on for. It hinders a long window
        from stopping a run whose flat part lies behind it, and can only make stops rarer."""
        first = min(int(np.searchsorted(x, x[-1] - self.shortest)), len(x) - FEWEST_VALUES)
        return fit_trend(x[first:], y[first:]).slope * self.horizon >= self.delta


def _looks_by(length: float, window: float) -> int:
    """Looks that a window has had when the curve has this length: the first when it is full."""
    if length < window:
        return 0
    return math.floor((length - window) / window * LOOKS_PER_WINDOW) + 1

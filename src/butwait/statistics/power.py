"""What a comparison could have seen, and what chance alone shows.

Notation: n problems, k attempts each by both models; the sampling variance is sigma^2, the mean
over problems of p (1 - p) with p the true rate of a problem; the gain's spread omega is the
standard deviation over problems of the true gain (0 for a claim about these problems only).
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from butwait.statistics.intervals import normal_quantile


def sampling_variance(correct: ArrayLike, attempts: ArrayLike) -> float:
    """Unbiased estimate of sigma^2: the mean of c (k - c) / (k (k - 1)).

    With one attempt a problem, sigma^2 cannot be told from differences between problems; the
    result is then its upper bound, P (1 - P) with P the mean rate. Problems with one attempt are
    left out where others have more.

    Args:
        correct: int (n,).
        attempts: k, one number or (n,).
    """
    c = np.asarray(correct, dtype=np.float64)
    k = np.broadcast_to(np.asarray(attempts, dtype=np.float64), c.shape)
    several = k > 1
    if not several.any():
        rate = float(np.mean(c / k))
        return rate * (1 - rate)
    c, k = c[several], k[several]
    return float(np.mean(c * (k - c) / (k * (k - 1))))


def gain_spread(differences: ArrayLike, noise: float) -> float:
    """Moment estimate of omega: sqrt(max(0, var d - noise)).

    Args:
        differences: (n,) rate of B minus rate of A.
        noise: variance of one difference from the attempts alone, 2 sigma^2 / k.
    """
    d = np.asarray(differences, dtype=np.float64)
    return math.sqrt(max(0.0, float(d.var(ddof=1)) - noise)) if len(d) > 1 else 0.0


def minimum_detectable_effect(
    n: int,
    k: float,
    variance: float,
    spread: float = 0.0,
    *,
    level: float = 0.95,
    power: float = 0.8,
) -> float:
    """The true gain (a fraction) that a two-sided test finds with the given power.

    (z_level + z_power) sqrt((omega^2 + 2 sigma^2 / k) / n), which is 2.80 times the standard
    error at the defaults; k may be infinite. A normal approximation: below about 10 problems the
    exact test needs more.
    """
    return _z_sum(level, power) * math.sqrt((spread**2 + 2 * variance / k) / n)


def attempts_to_detect(
    delta: float,
    n: int,
    variance: float,
    spread: float = 0.0,
    *,
    level: float = 0.95,
    power: float = 0.8,
) -> int | None:
    """Attempts a problem needed to detect a true gain ``delta``; None where no number is enough,
    because the gain's spread over n problems hides it."""
    room = n * (delta / _z_sum(level, power)) ** 2 - spread**2
    return max(1, math.ceil(2 * variance / room)) if room > 0 else None


def chance_of_lead(n: int, k: int, variance: float, lead: int) -> float:
    """Chance that the second of two *identical* models has at least ``lead`` more correct
    attempts, of n * k each.

    Attempts are paired: each of the n * k pairs is a win with probability sigma^2 and a loss
    with the same. Exact for k = 1 and problems drawn at random; for k > 1 the variance is exact
    and the shape very close.
    """
    pairs = n * k
    discordant = np.arange(pairs + 1)
    weight = stats.binom.pmf(discordant, pairs, min(1.0, 2 * variance))
    fewest_wins = (discordant + lead + 1) // 2
    return float(np.sum(weight * stats.binom.sf(fewest_wins - 1, discordant, 0.5)))


def fewest_significant_wins(losses: int, alpha: float = 0.05) -> int:
    """The fewest wins that are significant against ``losses`` in the exact test at k = 1
    (two-sided): 6 for 0, 8 for 1, 10 for 2."""
    wins = losses
    while 2 * stats.binom.cdf(losses, wins + losses, 0.5) > alpha:
        wins += 1
    return wins


def power_to_detect(
    delta: float, n: int, k: float, variance: float, spread: float = 0.0, *, level: float = 0.95
) -> float:
    """The chance that the two-sided test finds a true gain ``delta`` (and calls it one: what it
    calls a loss is not counted).

    For k > 1 that of Student's paired test, whose power the sign-flip test has. For k = 1 that of
    the exact McNemar test, which is coarse: a problem is won with the chance sigma^2 + delta / 2
    and lost with sigma^2 - delta / 2, the gain's spread adding to both.

    Args:
        delta: a fraction; its sign does not matter.
        n, k, variance, spread: as in ``minimum_detectable_effect``.
        level: 1 less the chance of a false alarm.
    """
    delta = abs(delta)
    if k == 1:
        return _mcnemar_power(delta, n, variance + spread**2 / 2, 1 - level)
    error = math.sqrt((spread**2 + 2 * variance / k) / n)
    if error < 1e-12:
        return 1.0 if delta > 0 else 1 - level
    if n < 2:
        return 0.0
    return _t_power(delta / error, n - 1, (1 + level) / 2)


def questions_to_detect(
    delta: float,
    k: float,
    variance: float,
    spread: float = 0.0,
    *,
    level: float = 0.95,
    power: float = 0.8,
) -> int:
    """The fewest problems with which k attempts find a true gain ``delta`` with the given power.

    Raises ValueError for a gain of 0.
    """
    if not delta:
        raise ValueError("no number of problems finds a gain of 0")

    def enough(n: int) -> bool:
        return power_to_detect(delta, n, k, variance, spread, level=level) >= power

    low, high = 1, 32
    while not enough(high):
        low, high = high + 1, 2 * high
    while low < high:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle + 1
    return low


def power_of_no_loss(
    margin: float, n: int, k: float, variance: float, spread: float = 0.0, *, level: float = 0.95
) -> float:
    """The chance that a loss of ``margin`` or more is excluded (``equivalence.no_loss``, one-sided
    at 1 - level) where nothing was lost."""
    error = math.sqrt((spread**2 + 2 * variance / k) / n)
    if error < 1e-12:
        return 1.0
    if n < 2:
        return 0.0
    return _t_power(margin / error, n - 1, level)


def luck_of_the_best(n: int, k: int, variance: float, runs: int) -> float:
    """By how much the best of several *identical* runs is expected to lie above their true rate, a
    fraction: a checkpoint that was chosen by its score looks better than it is.

    Correct attempts are taken as binomial with this variance, which is exact for k = 1 and problems
    of one rate, and somewhat too much where rates differ: 7.1 points for 6.6, of ten runs at 10 %
    of 30 questions like AIME's.

    Args:
        n, k, variance: as in ``minimum_detectable_effect``.
        runs: how many.
    """
    rate = (1 - math.sqrt(max(0.0, 1 - 4 * variance))) / 2
    if runs == 1:
        return 0.0
    cells = n * k
    # Of millions of cells only those near the mean are looked at: below, the best has them all.
    reach = 50 + 12 * math.sqrt(cells * variance)
    low = max(0, math.floor(cells * rate - reach))
    high = min(cells, math.ceil(cells * rate + reach))
    solved = stats.binom.cdf(np.arange(low, high), cells, rate)
    return (low + float(np.sum(1 - solved**runs))) / cells - rate


def _t_power(shift: float, degrees: int, quantile: float) -> float:
    """P(T > the quantile of Student's t) for T of the noncentral t."""
    bar = float(stats.t.ppf(quantile, degrees))
    found = float(stats.nct.sf(bar, degrees, shift)) if shift < 30 else math.nan
    return found if math.isfinite(found) else float(stats.norm.sf(bar - shift))  # far out


def _mcnemar_power(delta: float, n: int, variance: float, alpha: float) -> float:
    # A gain needs as many wins at least, however little noise there is.
    win, loss = max(variance + delta / 2, delta), max(0.0, variance - delta / 2)
    discordant = min(1.0, win + loss)
    if discordant == 0:
        return 0.0
    # What lies further out has no chance to speak of.
    middle, reach = n * discordant, 8 * math.sqrt(n * discordant * (1 - discordant)) + 20
    pairs = np.arange(max(0, math.floor(middle - reach)), min(n, math.ceil(middle + reach)) + 1)
    chance = stats.binom.pmf(pairs, n, discordant)
    # The most losses, or wins, that are still significant among so many discordant problems.
    bar = stats.binom.ppf(alpha / 2, pairs, 0.5)
    bar = np.where(2 * stats.binom.cdf(bar, pairs, 0.5) > alpha, bar - 1, bar)
    share = win / (win + loss)
    return float(np.sum(chance * stats.binom.cdf(bar, pairs, 1 - share)))


def _z_sum(level: float, power: float) -> float:
    return normal_quantile(level) + float(stats.norm.ppf(power))

"""Claims that nothing was lost: two one-sided tests against a stated margin.

A p above 0.05 for a difference is no proof that there is none. That a loss is smaller than a margin
is shown by a test of its own, whose null hypothesis is a loss at least as large (Schuirmann 1987,
J. Pharmacokinet. Biopharm. 15:657).
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from butwait.statistics.paired import SMALLEST_P, adjusted_wald

FEWEST_UNEQUAL = 6
"""Problems that must differ before their spread is believed: 6 to 0 is the least that an exact test
finds."""


def no_loss(differences: ArrayLike, margin: float, attempts: int = 2) -> dict[str, float]:
    """Whether the mean difference is above ``-margin``, and whether it is within ``margin``.

    With several attempts a problem the tests are Student's on the paired differences; with one they
    are normal, with the centre and the error of ``paired.adjusted_wald``. Where fewer than
    ``FEWEST_UNEQUAL`` problems differ, the error is at least that of no wins and no losses.

    Args:
        differences: (n,) rate of B minus rate of A.
        margin: the greatest loss that does not matter, a fraction above 0.
        attempts: of each problem.

    Returns:
        ``margin``; ``p_no_loss``, one-sided, of a loss of ``margin`` or more; ``p_equivalent``, the
        greater of both one-sided p (TOST), of any difference of ``margin`` or more.

    Raises ValueError for a margin that is not above 0.
    """
    if not margin > 0:
        raise ValueError(f"a margin is above 0, got {margin}")
    d = np.asarray(differences, dtype=np.float64)
    n, centre = len(d), float(d.mean())
    error = float(d.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    tail = stats.norm.sf
    if attempts == 1:
        centre, error = adjusted_wald(int(np.sum(d > 0)), int(np.sum(d < 0)), n)
    elif error < 1e-12 or np.count_nonzero(d) < FEWEST_UNEQUAL:
        error = max(error, adjusted_wald(0, 0, n)[1])
    else:
        tail = stats.t(n - 1).sf
    below = max(float(tail((centre + margin) / error)), SMALLEST_P)
    above = max(float(tail((margin - centre) / error)), SMALLEST_P)
    return {"margin": margin, "p_no_loss": below, "p_equivalent": max(below, above)}

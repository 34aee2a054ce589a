"""What k attempts are worth: pass@k, maj@k and the weighted vote.

pass@k and maj@k are expectations over all subsets of k of the m attempts that were made, so they
use every attempt and have no luck of the draw.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

MOST_ATTEMPTS = 1000
"""The most attempts a problem that maj@k can count: the counts of more overflow a float."""


def pass_at_k(attempts: int, correct: int, k: int) -> float:
    """Chance that at least one of k attempts is correct: 1 - C(m - c, k) / C(m, k).

    The unbiased estimator of Chen et al. 2021 (arXiv 2107.03374, equation 1), in exact integers.
    Raises ValueError where k is more than the attempts made: nothing can be said of it.
    """
    if not 0 <= correct <= attempts:
        raise ValueError(f"{correct} correct of {attempts} attempts is impossible")
    _check_k(k, attempts)
    return 1.0 - math.comb(attempts - correct, k) / math.comb(attempts, k)


def majority_at_k(correct: int, others: Iterable[int], blank: int, k: int) -> float:
    """Chance that a majority vote over k attempts is correct, for one problem.

    Equal answers form a class; the largest class among the k wins; classes that tie for it share
    the credit equally. Attempts without an answer are drawn like any other and do not vote; k
    attempts without any answer earn nothing.

    With v votes for the correct class, the draws of k in which t other classes reach v and none
    more are counted by a polynomial in x (attempts drawn) and y (classes that tie): a class of
    size c gives sum_{j<v} C(c, j) x^j + y C(c, v) x^v.

    Args:
        correct: attempts in the correct class.
        others: sizes of the wrong classes.
        blank: attempts without an answer.
        k: attempts that vote.

    Raises ValueError where k is more than the attempts, or with more than ``MOST_ATTEMPTS``.
    """
    from scipy.special import comb  # here: a recipe is parsed without scipy

    sizes = [size for size in others if size > 0]
    attempts = correct + sum(sizes) + blank
    _check_k(k, attempts)
    if attempts > MOST_ATTEMPTS:
        raise ValueError(
            f"maj@k counts at most {MOST_ATTEMPTS:,} attempts a problem, got {attempts}"
        )
    total = 0.0
    for votes in range(1, min(correct, k) + 1):
        rivals = [size for size in sizes if size >= votes]
        # Classes that cannot reach `votes` and blanks are drawn freely: one binomial for all.
        free = attempts - correct - sum(rivals)
        ways = _draws_by_ties(votes, rivals, free, k - votes)
        total += float(comb(correct, votes)) * float(np.sum(ways / np.arange(1, len(ways) + 1)))
    return min(1.0, total / float(comb(attempts, k)))


def _draws_by_ties(votes: int, rivals: Sequence[int], free: int, drawn: int) -> np.ndarray:
    """Number of draws of ``drawn`` attempts with t rivals at ``votes`` and none above, for every
    t: float64 (most ties + 1,)."""
    from scipy.special import comb

    ties = min(len(rivals), drawn // votes)
    # ways[t, s]: s attempts drawn so far, t rivals tie.
    ways = np.zeros((ties + 1, drawn + 1))
    ways[0] = comb(free, np.arange(drawn + 1))
    for size in rivals:
        grown = np.zeros_like(ways)
        for taken in range(min(votes - 1, drawn) + 1):
            grown[:, taken:] += comb(size, taken) * ways[:, : drawn + 1 - taken]
        if votes <= drawn:
            grown[1:, votes:] += comb(size, votes) * ways[:-1, : drawn + 1 - votes]
        ways = grown
    return ways[:, drawn]


def _check_k(k: int, attempts: int) -> None:
    if not 1 <= k <= attempts:
        raise ValueError(f"k = {k} needs at least {k} attempts (and k >= 1), got {attempts}")

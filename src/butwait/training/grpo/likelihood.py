"""The likelihood term of GRPO-Direct: verified solutions of searches and their weights.

    L = L_GRPO + mu(t) * NLL,    NLL = 1/Q sum_q 1/n_q sum_s sum_t -log pi(s_t | s_<t) / L_max

over the Q questions of a generation that were searched, the n_q unique solutions that were verified
of each, and the tokens of each that the policy drew; a searched question without a solution adds
nothing. L_max is the longest length of a completion, as in Dr. GRPO's loss, so that both terms are
sums of tokens over the same constant and neither favours a length.

For one question its gradient is that of -log P(correct) under the policy where solutions are drawn
from the policy's posterior given a correct answer, which a telescoping filter with alpha = 1
approaches (``docs/grpo_direct.md``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class LikelihoodRow:
    """A solution to be learned.

    Attributes:
        problem_id: its question.
        prompt_ids: int32 (p,).
        token_ids: int32 (n,), the completion.
        mask: bool (n,), where the loss is.
    """

    problem_id: str
    prompt_ids: np.ndarray
    token_ids: np.ndarray
    mask: np.ndarray


def row_weights(rows: Sequence[LikelihoodRow], searched: int) -> np.ndarray:
    """float64 (rows,): 1 / (Q n_q), the weight of each row's summed -log pi in the NLL, without
    L_max.

    Args:
        rows: of whole questions: all rows of a question are here.
        searched: Q, the questions searched, those without a row included.
    """
    names = [row.problem_id for row in rows]
    return np.array([1 / (searched * names.count(name)) for name in names])


def mu_at(progress: float, start: float, until: float) -> float:
    """The weight of the term: ``start`` at ``progress`` 0, falling linearly to 0 at ``until``."""
    return start * max(1 - progress / until, 0.0)


def dealt(rows: int, hands: int) -> list[range]:
    """Which of ``rows`` rows go to each of ``hands`` forward passes: as equal as they come."""
    return [range(hand, rows, hands) for hand in range(hands)]

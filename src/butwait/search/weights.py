"""Importance weights in log space.

Shapes: N particles. All logarithms are natural. A weight of zero is a log-weight of -inf, and it
stays zero whatever comes later.
"""

import numpy as np


def log_sum_exp(log_weights: np.ndarray) -> float:
    """log of the sum of weights, (N,) -> scalar; -inf where all are zero."""
    top = float(log_weights.max())
    if top == -np.inf:
        return top
    return top + float(np.log(np.exp(log_weights - top).sum()))


def log_mean_exp(log_weights: np.ndarray) -> float:
    """log of the mean weight, (N,) -> scalar; -inf where all are zero."""
    return log_sum_exp(log_weights) - float(np.log(len(log_weights)))


def normalise(log_weights: np.ndarray) -> np.ndarray:
    """Log-weights (N,) shifted so that the weights sum to 1. All -inf stay all -inf."""
    total = log_sum_exp(log_weights)
    return log_weights - total if total > -np.inf else log_weights.copy()


def effective_sample_size(log_weights: np.ndarray) -> float:
    """(sum w)^2 / sum w^2, in [1, N] (Kong, Liu and Wong 1994); 0 where all weights are zero."""
    total = log_sum_exp(log_weights)
    if total == -np.inf:
        return 0.0
    return 1.0 / float(np.exp(2.0 * (log_weights - total)).sum())


def ess_share(log_weights: np.ndarray) -> float:
    """Effective sample size of a population as a share of its size."""
    return effective_sample_size(log_weights) / len(log_weights)


def tempered(alpha: float, logits: np.ndarray) -> np.ndarray:
    """log of odds^alpha, (N,). odds^0 is 1 also where the odds are zero (a logit of -inf)."""
    return alpha * logits if alpha else np.zeros(len(logits))


def reweight(log_weights: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Multiplies weights by the potential exp(after - before), all (N,) in nats.

    A weight of zero stays zero: its ``after - before`` may be -inf - (-inf), which is no number.
    """
    alive = log_weights > -np.inf
    product = np.full(len(log_weights), -np.inf)
    product[alive] = log_weights[alive] + (after[alive] - before[alive])
    return product

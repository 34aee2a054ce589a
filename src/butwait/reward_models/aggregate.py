"""From the log-odds of single steps to the log-odds of a path, exactly; and to probabilities."""

from typing import Any

import numpy as np

from butwait.reward_models.settings import Aggregation


def aggregate(step_logits: np.ndarray, how: Aggregation) -> float:
    """One logit from the steps' logits, float64 (s,); 0 without steps: there is nothing
    to judge.

    ``prod`` is the logit of the product of the steps' probabilities, ``min`` of the least one,
    ``last`` of the last one; under ``model`` the model has judged the path as one step, which
    makes it the last. All in log space: no probability is rounded to 0 or 1.
    """
    if not len(step_logits):
        return 0.0
    if how == "prod":
        from scipy.special import log_expit  # here: a recipe is parsed without scipy

        return logit_of_log(float(log_expit(step_logits).sum()))
    return float(step_logits.min() if how == "min" else step_logits[-1])


def logit_of_log(log_p: float) -> float:
    """log(p / (1 - p)) from log p <= 0; infinite at 0."""
    if log_p == 0.0:
        return float("inf")
    # log(1 - p) by whichever form keeps its digits (Maechler 2012, "log1mexp").
    if log_p > -np.log(2.0):
        return log_p - float(np.log(-np.expm1(log_p)))
    return log_p - float(np.log1p(-np.exp(log_p)))


def probability(logits: Any) -> Any:
    """1 / (1 + exp(-l)) of log-odds l, a number or an array, in its shape; NaN stays NaN. exp may
    overflow, which is the probability 0."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-logits))

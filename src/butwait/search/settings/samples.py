"""What the samplers take that draw whole solutions and judge them afterwards."""

from typing import Literal

from butwait.engines.settings import StepRule
from butwait.search.settings.common import (
    Aggregation,
    CommonSettings,
    Count,
    Exponent,
    SelectionMethod,
)

Unrewarded = Literal["vote", "sample"]
"""Selections that make sense where no reward was asked for and all weights are equal."""


class IndependentSettings(CommonSettings):
    """Plain samples from the policy, without a reward model."""

    kind: Literal["independent"] = "independent"
    samples: Count = 1
    """How many."""
    step: StepRule = StepRule(delimiters=())
    """Where a path ends; with delimiters the tree shows the steps too."""
    selection: Unrewarded = "vote"
    """How the samples become one answer, where one is asked for; all have the same weight."""


class SelfConsistencySettings(CommonSettings):
    """Plain samples and a vote (Wang et al. 2023, arXiv 2203.11171)."""

    kind: Literal["self_consistency"] = "self_consistency"
    samples: Count = 16
    """How many."""
    step: StepRule = StepRule(delimiters=())
    """Where a path ends; with delimiters the tree shows the steps too."""
    selection: Unrewarded = "vote"
    """How the samples become one answer; all have the same weight."""


class BestOfNSettings(CommonSettings):
    """Plain samples, each scored by the reward model when it is whole."""

    kind: Literal["best_of_n"] = "best_of_n"
    samples: Count = 16
    """How many."""
    alpha: Exponent = 1.0
    """Final log-weights are alpha times the aggregated logit."""
    aggregation: Aggregation = "last"
    """How the steps' scores make one: the last; the lowest; the product of their probabilities;
    or ``model``: the reward model scores the whole solution once, as one step."""
    selection: SelectionMethod = "argmax"
    """How the samples become one answer; ``weighted_vote`` is the vote weighted by reward."""

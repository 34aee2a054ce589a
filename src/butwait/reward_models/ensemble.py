"""Several reward models as one."""

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from scipy.special import log_expit

from butwait.records import Problem
from butwait.reward_models.aggregate import logit_of_log
from butwait.reward_models.reward_model import Path, RewardModel, Score, checked_logit


class EnsembleRewardModel:
    """Implements ``RewardModel``. Its handles are tuples of the members' handles, and its tokens
    the sum of theirs.

    Args:
        members: at least one.
        combine: ``product``: the logit of the product of the members' probabilities; ``mean``:
            the mean of the members' logits (the geometric mean of their odds).
    """

    def __init__(self, members: Sequence[RewardModel], combine: Literal["product", "mean"]) -> None:
        self._members = tuple(members)
        self._combine = combine
        self._own_clips = 0

    @property
    def clipped(self) -> int:
        """Clips of the members and of their combination."""
        return self._own_clips + sum(member.clipped for member in self._members)

    async def score(self, problem: Problem, paths: Sequence[Path]) -> list[Score]:
        """See ``RewardModel.score``."""
        by_member = await asyncio.gather(
            *(
                member.score(problem, [_for_member(path, i) for path in paths])
                for i, member in enumerate(self._members)
            )
        )
        return [self._combined(problem, scores) for scores in zip(*by_member, strict=True)]

    def release(self, handles: Sequence[Any]) -> None:
        """See ``RewardModel.release``."""
        for member, of_member in zip(self._members, zip(*handles, strict=True), strict=False):
            member.release([handle for handle in of_member if handle is not None])

    def _combined(self, problem: Problem, scores: Sequence[Score]) -> Score:
        logits = np.array([score.logit for score in scores])
        if self._combine == "product":
            value = logit_of_log(float(log_expit(logits).sum()))
        else:
            value = float(logits.mean())
        logit, clipped = checked_logit(value, f"a path of {problem.id}")
        self._own_clips += clipped
        handles = tuple(score.handle for score in scores)
        return Score(logit, handles, sum(score.tokens for score in scores))


def _for_member(path: Path, i: int) -> Path:
    return path if path.handle is None else Path(path.steps, path.handle[i])

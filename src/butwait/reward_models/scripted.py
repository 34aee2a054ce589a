"""A reward model that is a plain function: for tests, oracles and trying things out."""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np

from butwait.records import Problem
from butwait.reward_models.reward_model import (
    BaseRewardModel,
    Path,
    RewardModelError,
    Score,
    Step,
)


class ScriptedRewardModel(BaseRewardModel):
    """Scores a path by a function of its steps.

    One departure from the contract: a logit of -inf is not clipped, so that a script can call a
    path impossible.

    Args:
        function: (problem, steps) -> log-odds that the path leads to a correct answer.

    Like an incremental model it counts the tokens of the last step alone where the handle of the
    path before it is still held, and those of the whole path otherwise.
    """

    def __init__(self, function: Callable[[Problem, Sequence[Step]], float]) -> None:
        super().__init__()
        self._function = function
        self._handles = count()
        self._held: set[int] = set()

    @property
    def held(self) -> int:
        """Handles given out and not released yet."""
        return len(self._held)

    async def score(self, problem: Problem, paths: Sequence[Path]) -> list[Score]:
        """See ``RewardModel``. Raises RewardModelError where the function gives NaN."""
        return [self._score(problem, path) for path in paths]

    def release(self, handles: Sequence[Any]) -> None:
        """See ``RewardModel``."""
        self._held.difference_update(handles)

    def _score(self, problem: Problem, path: Path) -> Score:
        given = self._function(problem, path.steps)
        try:
            logit = float(given)
        except (TypeError, ValueError) as error:
            raise RewardModelError(
                f"the reward function returned {given!r:.200} for problem {problem.id}; it must "
                "return a number, the log-odds of a right answer"
            ) from error
        if logit != -np.inf:
            logit = self.checked(logit, problem)
        new = path.steps[-1:] if path.handle in self._held else path.steps
        handle = next(self._handles)
        self._held.add(handle)
        return Score(logit, handle, sum(len(step.token_ids) for step in new))

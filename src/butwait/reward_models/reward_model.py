"""The reward-model contract: how promising is a partial solution?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from butwait.records import Problem, UserError

MAX_LOGIT = 12.0
"""Logits are clipped to +-12 (odds of 160,000 to 1), so that one confident mistake cannot rule a
whole population. Clips are counted."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One step of a path.

    Attributes:
        token_ids: int32 (n,), policy tokens.
        text: their text.
        logprobs: float32 (n,), nats per token under the sampled policy, where they are known.
    """

    token_ids: np.ndarray
    text: str
    logprobs: np.ndarray | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Path:
    """A partial solution to be scored.

    Attributes:
        steps: all its steps, from the first.
        handle: what the model returned for this path without its last step, or None; it saves
            work and changes nothing else.
    """

    steps: tuple[Step, ...]
    handle: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """Attributes:
    logit: log-odds that the path leads to a correct answer, in [-12, 12], never NaN.
    handle: for scoring a path that goes on from this one.
    tokens: reward-model tokens run for this score.
    too_long: whether the path is longer than the model takes; then there is no logit of it.
    """

    logit: float
    handle: Any
    tokens: int
    too_long: bool = False


TOO_LONG = Score(0.0, None, 0, too_long=True)
"""Of a path that is longer than the model takes: whoever searches ends it, truncated."""


class PathTooLongError(UserError):
    """A path has more tokens than the reward model takes. A model that cannot tell which of the
    paths it is raises it from ``score``; then they are asked for again, apart (``scores``)."""


class RewardModelError(UserError):
    """A reward model returned something that is no score (NaN, a wrong number of steps)."""


@runtime_checkable
class RewardModel(Protocol):
    """Scores partial solutions. Like an engine, it batches whatever waits, across problems."""

    @property
    def clipped(self) -> int:
        """How many logits were clipped so far."""
        ...

    async def score(self, problem: Problem, paths: Sequence[Path]) -> list[Score]:
        """One score for every path, in order, for its last step given the steps before it; of one
        that is longer than the model takes, ``TOO_LONG``."""
        ...

    def release(self, handles: Sequence[Any]) -> None:
        """Frees handles. Releasing twice is harmless."""
        ...

    async def close(self) -> None:
        """Frees all memory and all handles. The model is not used afterwards; closing it twice is
        harmless. Whoever loads a model closes it."""
        ...


async def scores(model: RewardModel, problem: Problem, paths: Sequence[Path]) -> list[Score]:
    """``model.score``, where also a PathTooLongError is but ``TOO_LONG`` of the paths that it is
    raised for when they are asked for alone."""
    try:
        return await model.score(problem, paths)
    except PathTooLongError:
        if len(paths) == 1:
            return [TOO_LONG]
    half = len(paths) // 2
    first = await scores(model, problem, paths[:half])
    try:
        return [*first, *await scores(model, problem, paths[half:])]
    except BaseException:
        model.release([score.handle for score in first if score.handle is not None])
        raise


class BaseRewardModel:
    """What a reward model begins with: it checks its logits and counts clips, and holds nothing."""

    def __init__(self) -> None:
        self._clips = 0

    @property
    def clipped(self) -> int:
        """See ``RewardModel.clipped``."""
        return self._clips

    def release(self, handles: Sequence[Any]) -> None:
        """There is nothing to free."""

    async def close(self) -> None:
        """There is nothing to free."""

    def checked(self, value: float, problem: Problem) -> float:
        """``value`` as a float32, clipped to +-MAX_LOGIT, which is counted. Raises
        RewardModelError for NaN."""
        logit = float(np.float32(value))
        if math.isnan(logit):
            raise RewardModelError(f"the reward model returned NaN for problem {problem.id}")
        clipped = min(max(logit, -MAX_LOGIT), MAX_LOGIT)
        self._clips += clipped != logit
        return clipped

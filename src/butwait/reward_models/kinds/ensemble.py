"""Several reward models as one."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from butwait.engines.servers.figures import Figures, server_figures
from butwait.records import Problem
from butwait.records.settings import Result, Settings
from butwait.reward_models.aggregate import aggregate
from butwait.reward_models.load import (
    Policy,
    RewardModelKind,
    aggregates,
    is_own,
    load_reward_model,
)
from butwait.reward_models.reward_model import (
    TOO_LONG,
    BaseRewardModel,
    Path,
    RewardModel,
    Score,
    scores,
)
from butwait.reward_models.settings import RewardModelSettings


class EnsembleSettings(Settings):
    """Several reward models as one."""

    kind: Literal["ensemble"]
    members: Result[Annotated[tuple[RewardModelSettings, ...], Field(min_length=2)]]
    combine: Result[Literal["product", "mean"]] = "mean"
    """``product``: the logit of the product of the members' probabilities (all must agree);
    ``mean``: the mean of their logits (the geometric mean of their odds)."""


class EnsembleRewardModel(BaseRewardModel):
    """Implements ``RewardModel``. Its handles are tuples of the members' handles, and its tokens
    the sum of theirs.

    Args:
        members: at least one.
        combine: ``product``: the logit of the product of the members' probabilities; ``mean``:
            the mean of the members' logits (the geometric mean of their odds).
    """

    def __init__(self, members: Sequence[RewardModel], combine: Literal["product", "mean"]) -> None:
        super().__init__()
        self._members = tuple(members)
        self._combine = combine

    @property
    def clipped(self) -> int:
        """Clips of the members and of their combination."""
        return super().clipped + sum(member.clipped for member in self._members)

    async def score(self, problem: Problem, paths: Sequence[Path]) -> list[Score]:
        """See ``RewardModel.score``. A path that is too long for one member is too long."""
        calls = [
            asyncio.ensure_future(scores(member, problem, [_for_member(p, i) for p in paths]))
            for i, member in enumerate(self._members)
        ]
        try:
            by_member = await asyncio.gather(*calls)
        except BaseException:  # what the others were given goes back
            for call in calls:
                call.cancel()
            ended = await asyncio.gather(*calls, return_exceptions=True)
            for member, given in zip(self._members, ended, strict=True):
                if not isinstance(given, BaseException):
                    _release(member, [score.handle for score in given])
            raise
        return [self._combined(problem, of_path) for of_path in zip(*by_member, strict=True)]

    def release(self, handles: Sequence[Any]) -> None:
        """See ``RewardModel.release``."""
        for member, of_member in zip(self._members, zip(*handles, strict=True), strict=False):
            _release(member, of_member)

    async def close(self) -> None:
        """Closes the members."""
        for member in self._members:
            await member.close()

    def server_figures(self) -> Figures:
        """Of the members' servers."""
        return server_figures(*self._members)

    def _combined(self, problem: Problem, of_path: Sequence[Score]) -> Score:
        handles = tuple(score.handle for score in of_path)
        tokens = sum(score.tokens for score in of_path)
        if any(score.too_long for score in of_path):
            self.release([handles])
            return replace(TOO_LONG, tokens=tokens)
        logits = np.array([score.logit for score in of_path])
        product = self._combine == "product"
        value = aggregate(logits, "prod") if product else float(logits.mean())
        return Score(self.checked(value, problem), handles, tokens)


def _release(member: RewardModel, handles: Iterable[Any]) -> None:
    member.release([handle for handle in handles if handle is not None])


def _for_member(path: Path, i: int) -> Path:
    return path if path.handle is None else Path(path.steps, path.handle[i])


def _load(settings: EnsembleSettings, tokenizer: Any, policy: Policy | None) -> EnsembleRewardModel:
    members = [load_reward_model(member, tokenizer, policy) for member in settings.members]
    return EnsembleRewardModel(members, settings.combine)


ENSEMBLE = RewardModelKind(
    EnsembleSettings,
    _load,
    own=lambda settings: all(map(is_own, settings.members)),
    members=lambda settings: settings.members,
    aggregates=lambda settings: any(map(aggregates, settings.members)),
)

"""The policy's own confidence instead of a reward model.

``PathLogprob`` needs nothing but what the search has drawn. ``SelfCertainty`` (Kang et al. 2025,
arXiv:2502.18581, equation 8) needs whole distributions, which no engine keeps: it runs the policy
once more, in this process, and only over new tokens.

A confidence is no probability of being right. It is calibrated by ``scale`` and ``centre`` and
judged by ``butwait audit-prm``.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from butwait.engines.settings import ModelSettings
from butwait.problems.settings import PromptSettings
from butwait.records import Problem, UserError
from butwait.records.settings import Result
from butwait.reward_models.aggregate import logit_of_log
from butwait.reward_models.load import THE_POLICY, Policy, RewardModelKind
from butwait.reward_models.local import Layout, LocalRewardModel, in_slots
from butwait.reward_models.reward_model import (
    BaseRewardModel,
    Path,
    RewardModel,
    RewardModelError,
    Score,
    Step,
)
from butwait.reward_models.settings import LocalModelSettings


class ConfidenceSettings(LocalModelSettings):
    """The policy's own confidence in its path, without a reward model.

    The logit is ``scale`` x (measure - ``centre``).
    """

    kind: Literal["confidence"]
    measure: Result[Literal["logprob", "self_certainty"]] = "logprob"
    """``logprob``: log(p / (1 - p)) of the geometric mean p of the sampled tokens' probabilities;
    costs nothing. ``self_certainty``: mean over tokens of KL(uniform || policy), in nats (Kang et
    al. 2025, arXiv:2502.18581); runs the policy's weights in this process once more (in
    ``grpo_direct`` those that the training began with, throughout)."""
    scale: Result[Annotated[float, Field(gt=0)]] = 1.0
    """Logits per unit of the measure."""
    centre: Result[float | None] = None
    """The measure's value that gives a logit of 0; None: 0. Self-certainty has no natural one, so
    it must be given there (see docs/reward_models.md)."""

    def look(self, world: Any) -> None:
        if self.measure == "self_certainty":
            super().look(world)

    @model_validator(mode="after")
    def _centred(self) -> "ConfidenceSettings":
        if self.measure == "self_certainty" and self.centre is None:
            raise ValueError(
                "self_certainty is no probability: set `centre` to its typical value (in nats), "
                "which is to count as even odds"
            )
        return self


class PathLogprob(BaseRewardModel):
    """Implements ``RewardModel``: log(p / (1 - p)), p = exp(mean log-probability of the path's
    sampled tokens), the geometric mean of their probabilities.

    Log-probabilities are those of the policy as it was sampled (its temperature and top-p
    included). Inserted tokens are left out; a path without a sampled token is scored 0.

    Args:
        scale: logits per unit.
        centre: what is scored 0.
    """

    def __init__(self, scale: float = 1.0, centre: float = 0.0) -> None:
        super().__init__()
        self._scale = scale
        self._centre = centre

    async def score(self, problem: Problem, paths: Sequence[Path]) -> list[Score]:
        """See ``RewardModel.score``. Raises RewardModelError where log-probabilities are not
        known."""
        return [self._score(problem, path) for path in paths]

    def _score(self, problem: Problem, path: Path) -> Score:
        if any(step.logprobs is None for step in path.steps):
            raise RewardModelError(
                f"a path of {problem.id} comes without log-probabilities: `measure: logprob` "
                "scores only what the policy itself has drawn"
            )
        logprobs = [np.asarray(s.logprobs, np.float64) for s in path.steps]
        sampled = np.concatenate([*logprobs, np.zeros(0)])
        sampled = sampled[~np.isnan(sampled)]
        if not len(sampled):
            return Score(0.0, None, 0)
        # Rounding can lift the log-probability of a sure token above 0.
        value = logit_of_log(min(0.0, float(sampled.mean())))
        return Score(self.checked(self._scale * (value - self._centre), problem), None, 0)


class SelfCertainty(LocalRewardModel):
    """Implements ``RewardModel``: the mean self-certainty of the distributions that the path's
    tokens were drawn from (untempered). A path without tokens is scored 0.

    Args:
        model: ``CertaintyModel`` in its slots.
        tokenizer: the policy's.
        prompt: how the policy is shown questions.
        scale: logits per nat.
        centre: nats that are scored 0.
    """

    def __init__(
        self, model: Any, tokenizer: Any, prompt: PromptSettings, scale: float, centre: float
    ) -> None:
        super().__init__(model, tokenizer, prompt, outputs="sum")
        self._scale = scale
        self._centre = centre

    def _start(self, prompt: np.ndarray) -> Layout:
        return Layout((prompt[:-1],), carry=prompt[-1:])

    def _extended(self, layout: Layout, step: Step) -> Layout:
        """Each segment is its step moved back by a token: the distribution that a token was drawn
        from is the output at the token before it. The path's last token waits for the next step.
        """
        ids = np.concatenate([layout.carry, step.token_ids]).astype(np.int32)
        return Layout((*layout.segments, ids[:-1]), carry=ids[-1:])

    def _logit(self, layout: Layout, outputs: Sequence[np.ndarray], output: np.ndarray) -> float:
        n = sum(map(len, layout.segments[1:]))
        total = sum(float(each[0]) for each in outputs)
        return self._scale * (total / n - self._centre) if n else 0.0


def _load(settings: ConfidenceSettings, tokenizer: Any, policy: Policy | None) -> RewardModel:
    from butwait.engines.models import load_causal_lm
    from butwait.reward_models.score_head import CertaintyModel

    centre = settings.centre or 0.0
    if settings.measure == "logprob":
        return PathLogprob(settings.scale, centre)
    if policy is None or tokenizer is None:
        raise UserError(
            "`measure: self_certainty` runs the policy's own weights on its own tokens, and there "
            "is no policy here; take another reward model"
        )
    weights = settings.checkpoint(policy.model.name, policy.model.revision)
    slots = in_slots(CertaintyModel(load_causal_lm(weights)), settings, policy)
    return SelfCertainty(slots, tokenizer, policy.prompt, settings.scale, centre)


def _decoder(settings: ConfidenceSettings) -> tuple[ModelSettings, bool] | None:
    certainty = settings.measure == "self_certainty"
    return (settings.checkpoint(THE_POLICY), True) if certainty else None


CONFIDENCE = RewardModelKind(
    ConfidenceSettings,
    _load,
    own=lambda settings: True,
    decoder=_decoder,
    aggregates=lambda settings: True,
)

"""Several reward models as one."""

import asyncio

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from butwait.records import Problem
from butwait.reward_models.kinds.ensemble import EnsembleRewardModel
from butwait.reward_models.load import load_reward_model
from butwait.reward_models.reward_model import Path, RewardModel, Step
from butwait.reward_models.scripted import ScriptedRewardModel
from butwait.reward_models.settings import RewardModelSettings

PROBLEM = Problem("q", "?", "1")
STEP = Step(np.zeros(3, np.int32), "x", np.log(np.full(3, 0.75)))


def constant(logit: float) -> ScriptedRewardModel:
    return ScriptedRewardModel(lambda problem, steps: logit)


def one_score(combine, *logits):
    model = EnsembleRewardModel([constant(logit) for logit in logits], combine)
    return asyncio.run(model.score(PROBLEM, [Path((STEP,))]))[0], model


def test_the_product_of_probabilities():
    # 3/4 * 2/3 = 1/2.
    assert one_score("product", np.log(3), np.log(2))[0].logit == pytest.approx(0.0, abs=1e-6)


def test_the_mean_of_logits():
    # Odds 8 and 2: their geometric mean is 4.
    assert one_score("mean", np.log(8), np.log(2))[0].logit == pytest.approx(np.log(4), abs=1e-6)


def test_clips_of_members_and_of_the_product_are_counted():
    # Each member is clipped to -12; the product, about -24, once more.
    score, model = one_score("product", -50.0, -50.0)
    assert (score.logit, model.clipped) == (-12.0, 3)


def test_handles_and_tokens_are_the_members_own():
    members = [constant(0.0), constant(1.0)]
    model = EnsembleRewardModel(members, "mean")

    async def run():
        (first,) = await model.score(PROBLEM, [Path((STEP,))])
        (second,) = await model.score(PROBLEM, [Path((STEP, STEP), first.handle)])
        return first, second

    first, second = asyncio.run(run())
    assert isinstance(model, RewardModel)
    assert (first.handle, second.handle) == ((0, 0), (1, 1))
    # A held handle saves the first step: 3 tokens each, not 6.
    assert (first.tokens, second.tokens) == (6, 6)
    model.release([first.handle, second.handle])
    model.release([first.handle])
    assert [member.held for member in members] == [0, 0]


def test_from_settings():
    confidence = {"kind": "confidence", "measure": "logprob"}
    scaled = {**confidence, "scale": 3.0}
    settings = TypeAdapter(RewardModelSettings).validate_python(
        {"kind": "ensemble", "members": [confidence, scaled], "combine": "mean"}
    )
    model = load_reward_model(settings, None)
    (score,) = asyncio.run(model.score(PROBLEM, [Path((STEP,))]))
    # log 3 and 3 log 3; members without handles are released all the same.
    assert score.logit == pytest.approx(2 * np.log(3), abs=1e-5)
    model.release([score.handle])
    with pytest.raises(ValidationError, match="at least 2"):
        TypeAdapter(RewardModelSettings).validate_python(
            {"kind": "ensemble", "members": [confidence]}
        )

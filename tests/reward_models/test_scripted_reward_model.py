"""The scripted reward model."""

import asyncio

import numpy as np
import pytest

from butwait.records import Problem
from butwait.reward_models.reward_model import Path, RewardModel, RewardModelError, Score, Step
from butwait.reward_models.scripted import ScriptedRewardModel

PROBLEM = Problem("p", "?", None)


def step(text: str) -> Step:
    return Step(np.zeros(len(text), np.int32), text)


def score(model: ScriptedRewardModel, *paths: Path) -> list[Score]:
    return asyncio.run(model.score(PROBLEM, paths))


def test_it_is_a_reward_model_of_all_steps() -> None:
    model = ScriptedRewardModel(lambda problem, steps: len(steps) + len(steps[-1].text) / 10)
    assert isinstance(model, RewardModel)
    scores = score(model, Path((step("ab"),)), Path((step("ab"), step("cde"))))
    assert [s.logit for s in scores] == pytest.approx([1.2, 2.3])


def test_tokens_are_those_of_the_last_step_while_the_handle_is_held() -> None:
    model = ScriptedRewardModel(lambda problem, steps: 0.0)
    (first,) = score(model, Path((step("ab"),)))
    longer = Path((step("ab"), step("cde")), first.handle)
    (second,) = score(model, longer)
    assert (first.tokens, second.tokens, model.held) == (2, 3, 2)
    model.release([first.handle])
    model.release([first.handle])
    assert score(model, longer)[0].tokens == 5


@pytest.mark.parametrize(
    ("given", "logit", "clipped"),
    [(20.0, 12.0, 1), (-20.0, -12.0, 1), (np.inf, 12.0, 1), (3.0, 3.0, 0), (-np.inf, -np.inf, 0)],
)
def test_logits_are_clipped_and_counted_but_impossible_stays(given, logit, clipped) -> None:
    model = ScriptedRewardModel(lambda problem, steps: given)
    assert score(model, Path((step("a"),)))[0].logit == logit
    assert model.clipped == clipped


def test_nan_is_an_error() -> None:
    with pytest.raises(RewardModelError, match="NaN for problem p"):
        score(ScriptedRewardModel(lambda problem, steps: np.nan), Path((step("a"),)))

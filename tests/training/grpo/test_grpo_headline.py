"""What a run says of a training, whatever its answers were."""

from typing import Any

from butwait.stages.kinds import STAGES

METRICS = {
    "steps": 2,
    "policy_tokens": 100,
    "stopped": None,
    "searched": 0,
    "poor": 0,
    "best_step": None,
}


def said(first: float | None, last: float | None, **others: Any) -> str:
    metrics = METRICS | {"reward_first": first, "reward_last": last} | others
    return " ".join(STAGES["grpo"].headline(metrics))


def test_the_rewards_of_a_training_are_told() -> None:
    assert said(0.25, 0.5) == "2 steps, 100 tokens sampled, reward 0.250 to 0.500"


def test_a_generation_that_cannot_be_graded_is_told_and_ends_nothing() -> None:
    unknown = "unknown (no answer could be graded)"
    assert said(0.25, None) == f"2 steps, 100 tokens sampled, reward 0.250 to {unknown}"
    assert said(None, 0.5) == f"2 steps, 100 tokens sampled, reward {unknown} to 0.500"
    assert said(None, None, steps=0) == "0 steps, 100 tokens sampled"

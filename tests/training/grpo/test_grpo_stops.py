"""When a training stops before its last step."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from butwait.training.grpo.callbacks import StopAtPlateau, TokenBudget
from butwait.training.grpo.generation import Tally
from butwait.training.grpo.settings import GrpoSettings, StopSettings


def stopped_at(callback: StopAtPlateau, arguments: Any, rewards: list[float | None]) -> int | None:
    """The step at which a training with these rewards stops, each of them logged in turn."""
    state, control = TrainerState(), TrainerControl()
    for step, reward in enumerate(rewards, start=1):
        state.global_step = step
        state.log_history.append({"step": step, "loss": 0.0, "reward": reward})
        control.should_save = True
        callback.on_log(arguments, state, control)
        if control.should_training_stop:
            assert not control.should_save
            return step
    return None


@pytest.fixture
def arguments(tmp_path: Any) -> TrainingArguments:
    return TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)


def test_a_flat_reward_stops_and_a_rising_one_does_not(arguments: Any) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 200)
    settings = StopSettings(horizon=40, delta=0.05)
    facts: dict[str, Any] = {}
    flat = (0.5 + noise).tolist()
    stop = stopped_at(StopAtPlateau(settings, facts), arguments, flat)
    assert stop is not None
    assert 40 <= stop <= 80
    assert facts["stopped"]["step"] == stop
    assert "the next 40 steps bring" in facts["stopped"]["reason"]
    # The verdict is that of the rule on the curve alone.
    verdict = settings.rule().replay(np.arange(1, 201), flat)[-1]
    assert (verdict.stop, verdict.step) == (True, stop)
    rising = (0.2 + 0.004 * np.arange(200) + noise).tolist()
    assert stopped_at(StopAtPlateau(settings, {}), arguments, rising) is None


def test_steps_without_a_reward_are_passed_over(arguments: Any) -> None:
    noise = np.random.default_rng(1).normal(0, 0.01, 200)
    rewards: list[float | None] = (0.5 + noise).tolist()
    rewards[3], rewards[7] = None, float("nan")
    assert stopped_at(StopAtPlateau(StopSettings(horizon=40), {}), arguments, rewards) is not None


def test_the_accuracy_of_looks_is_followed(arguments: Any) -> None:
    """Looks every 5 steps, lines of the log every 3; in between nothing is new, and the reward does
    not count. The verdict is that of the rule on all looks."""
    facts: dict[str, Any] = {"looks": []}
    callback = StopAtPlateau(StopSettings(signal="accuracy", horizon=150, delta=0.1), facts)
    state, control = TrainerState(), TrainerControl()
    for step in range(1, 400):
        state.global_step = step
        if step % 5 == 0:
            facts["looks"].append({"step": step, "accuracy": 0.4 + 0.001 * (step % 2)})
        control.should_save = True
        callback.on_step_end(arguments, state, control)
        if control.should_training_stop:
            break
        if step % 3 == 0:
            state.log_history.append({"step": step, "loss": 0.0, "reward": step / 400})
            callback.on_log(arguments, state, control)
            assert not control.should_training_stop
    assert control.should_training_stop
    assert not control.should_save
    steps, values = zip(*((look["step"], look["accuracy"]) for look in facts["looks"]), strict=True)
    rule = callback.settings.rule()
    assert state.global_step == rule.replay(steps, values)[-1].step == steps[-1]
    assert facts["stopped"]["step"] == steps[-1]
    before = rule.look(steps[:-1], values[:-1])
    assert before is None or not before.stop


def test_a_budget_ends_a_training_behind_a_whole_generation(arguments: Any) -> None:
    settings = GrpoSettings(
        questions=4, group=4, batch_size=8, minibatches=2, steps=9, token_budget=1000
    )
    sampler: Any = SimpleNamespace(settings=settings, tally=Tally())
    facts: dict[str, Any] = {}
    callback, control = TokenBudget(sampler, facts), TrainerControl()
    for step, tokens in ((1, 600), (2, 600), (3, 1200)):
        sampler.tally.policy_tokens = tokens
        callback.on_step_end(arguments, TrainerState(global_step=step), control)
        assert not control.should_training_stop
    callback.on_step_end(arguments, TrainerState(global_step=4), control)
    assert control.should_training_stop
    assert facts["stopped"] == {"step": 4, "reason": "1200 tokens were sampled"}

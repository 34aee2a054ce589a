"""When a ``grpo`` training stops, and what its checkpoints keep."""

import math
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from butwait.training.grpo.generation import GroupSampler
from butwait.training.grpo.settings import StopSettings


class TokenBudget(TrainerCallback):
    """Stops behind the generation with which the budget is spent, and says so in ``facts``."""

    def __init__(self, sampler: GroupSampler, facts: dict[str, Any]) -> None:
        self._sampler = sampler
        self._facts = facts

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        settings = self._sampler.settings
        budget = settings.token_budget
        whole = state.global_step % settings.steps_per_generation == 0
        if budget is not None and whole and self._sampler.tally.policy_tokens >= budget:
            self._facts["stopped"] = {
                "step": state.global_step,
                "reason": f"{self._sampler.tally.policy_tokens} tokens were sampled",
            }
            control.should_training_stop = True


class StopAtPlateau(TrainerCallback):
    """Stops when the curve of ``settings.signal`` no longer rises.

    The verdict follows from the curve alone, so a resumed training stops where the other one did.

    Args:
        settings: the rule's.
        facts: of the training; ``stopped`` is set to the verdict.
    """

    def __init__(self, settings: StopSettings, facts: dict[str, Any]) -> None:
        self._rule = settings.rule()
        self._signal = settings.signal
        self._facts = facts

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        curve = self._curve(state)
        verdict = self._rule.look(*zip(*curve, strict=True)) if curve else None
        if verdict is not None and verdict.stop:
            self._facts["stopped"] = {"step": state.global_step, "reason": verdict.reason}
            control.should_training_stop = True
            control.should_save = False  # a resume would go on behind the stop

    def _curve(self, state: TrainerState) -> list[tuple[float, float]]:
        """(step, value), where the last value is new; else nothing to look at."""
        if self._signal == "accuracy":
            looks = self._facts.get("looks", [])
            curve = [(float(look["step"]), float(look["accuracy"])) for look in looks]
        else:
            logged = [entry for entry in state.log_history if _is_number(entry.get("reward"))]
            curve = [(float(entry["step"]), float(entry["reward"])) for entry in logged]
        return curve if curve and curve[-1][0] == state.global_step else []


class Facts(TrainerCallback):
    """Brings what goes into a checkpoint up to date, ahead of ``checkpoints.Marker``."""

    def __init__(self, facts: dict[str, Any], current: Callable[[], dict[str, Any]]) -> None:
        self._facts = facts
        self._current = current

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._facts.update(self._current())


def _is_number(value: Any) -> bool:
    """A step whose answers were all ungradable has no reward."""
    return value is not None and math.isfinite(value)

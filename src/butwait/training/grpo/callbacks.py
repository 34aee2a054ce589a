"""When a ``grpo`` training stops, and where its completions and figures go besides the log."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState

from butwait.running.json_lines import dump_rows, read_log
from butwait.training.grpo.generation import Generation, GroupSampler
from butwait.training.grpo.settings import StopSettings

QUESTIONS = 2
"""Questions of a generation whose first completion is kept."""


@dataclass(eq=False)
class TokenBudget(TrainerCallback):
    """Stops after the generation with which the budget is spent, and says so in ``facts``."""

    sampler: GroupSampler
    facts: dict[str, Any]

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        settings = self.sampler.settings
        budget = settings.token_budget
        whole = state.global_step % settings.steps_per_generation == 0
        if budget is not None and whole and self.sampler.tally.policy_tokens >= budget:
            self.facts["stopped"] = {
                "step": state.global_step,
                "reason": f"{self.sampler.tally.policy_tokens} tokens were sampled",
            }
            control.should_training_stop = True


@dataclass(eq=False)
class StopAtPlateau(TrainerCallback):
    """Stops when the curve of ``settings.signal`` no longer rises; to be added after the looks.

    The verdict follows from the curve alone, so a resumed training stops where the other one did.

    Attributes:
        settings: the rule's.
        facts: of the training; ``stopped`` is set to the verdict.
    """

    settings: StopSettings
    facts: dict[str, Any]

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if self.settings.signal == "accuracy":  # of a look, which may fall between two lines
            self._judge(state, control)

    def on_log(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if self.settings.signal == "reward":
            self._judge(state, control)

    def _judge(self, state: TrainerState, control: Any) -> None:
        curve = self._curve(state)
        verdict = self.settings.rule().look(*zip(*curve, strict=True)) if curve else None
        if verdict is not None and verdict.stop:
            self.facts["stopped"] = {"step": state.global_step, "reason": verdict.reason}
            control.should_training_stop = True
            control.should_save = False  # a resume would go on after the stop

    def _curve(self, state: TrainerState) -> list[tuple[float, float]]:
        """(step, value), where the last value is new; else nothing to look at."""
        if self.settings.signal == "accuracy":
            looks = self.facts.get("looks", [])
            curve = [(float(look["step"]), float(look["accuracy"])) for look in looks]
        else:
            logged = [entry for entry in state.log_history if _is_number(entry.get("reward"))]
            curve = [(float(entry["step"]), float(entry["reward"])) for entry in logged]
        return curve if curve and curve[-1][0] == state.global_step else []


def _is_number(value: Any) -> bool:
    """A step whose answers were all ungradable has no reward."""
    return value is not None and math.isfinite(value)


@dataclass(eq=False)
class Samples(TrainerCallback):
    """Writes a few completions every so many steps: step, problem_id, question, text, status and
    reward of each. After a resume the file holds what came before the checkpoint.

    Attributes:
        path: of ``samples.jsonl``.
        every: optimiser steps.
        group: completions of a question.
        latest: the generation that the step was made with.
    """

    path: Path
    every: int
    group: int
    latest: Callable[[], Generation | None]

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        before = [row for row in read_log(self.path) if row["step"] <= state.global_step]
        self.path.write_text(dump_rows(before), encoding="utf-8")

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        generation = self.latest()
        due = state.global_step == 1 or state.global_step % self.every == 0
        if generation is None or not due or not state.is_world_process_zero:
            return
        with self.path.open("a", encoding="utf-8") as file:
            for i in range(0, len(generation.completions), self.group)[:QUESTIONS]:
                row = generation.completions[i]
                line = {
                    "step": state.global_step,
                    "problem_id": row.problem.id,
                    "question": row.problem.question,
                    "text": row.text,
                    "status": row.grade.status,
                    "reward": generation.rewards[i],
                }
                file.write(dump_rows([line]))

"""Completions over time, as they were drawn: ``samples.jsonl``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from butwait.running.json_lines import dump_rows, read_log
from butwait.training.grpo.generation import Generation

QUESTIONS = 2
"""Questions of a generation whose first completion is kept."""


class Samples(TrainerCallback):
    """Writes a few completions every so many steps: step, problem_id, question, text, status and
    reward of each. After a resume the file holds what came before the checkpoint.

    Args:
        path: of ``samples.jsonl``.
        every: optimizer steps.
        group: completions of a question.
        latest: the generation that the step was made with.
    """

    def __init__(
        self, path: Path, every: int, group: int, latest: Callable[[], Generation | None]
    ) -> None:
        self._path = path
        self._every = every
        self._group = group
        self._latest = latest

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        before = [row for row in read_log(self._path) if row["step"] <= state.global_step]
        self._path.write_text(dump_rows(before), encoding="utf-8")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        generation = self._latest()
        due = state.global_step == 1 or state.global_step % self._every == 0
        if generation is None or not due or not state.is_world_process_zero:
            return
        with self._path.open("a", encoding="utf-8") as file:
            for i in range(0, len(generation.completions), self._group)[:QUESTIONS]:
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

"""Looks at held-out questions while the policy is trained: the accuracy curve, and which checkpoint
is kept."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState

from butwait.engines.engine import Engine
from butwait.running.files import atomic_path
from butwait.running.json_lines import dump_rows
from butwait.training.checkpoints import prune_best


@dataclass(frozen=True, slots=True)
class LookResult:
    """What a look saw.

    Attributes:
        accuracy: pass@1, a fraction.
        interval: its 95 % interval, as the evaluation stage gives it.
        n: questions.
        k: samples of each.
        length: mean tokens of a sample.
        policy_tokens: sampled for it.
        texts: of the first questions, each with ``problem_id``, ``question``, ``text`` and
            ``status``.
    """

    accuracy: float
    interval: tuple[float, float]
    n: int
    k: int
    length: float
    policy_tokens: int
    texts: list[dict[str, str]]


Evaluate = Callable[[Engine, str], Awaitable[LookResult]]
"""Plain samples of the policy on held-out questions, kept under a name for these weights. The
pipeline passes it in: training knows no evaluation."""


@dataclass(eq=False)
class Looks(TrainerCallback):
    """Looks before the first step, every so often, and after the last; keeps the best model.

    Ties go to the earlier look. ``output/looks.jsonl`` has a line a look, ``output/best/<step>``
    the weights (with LoRA, the adapter) of the best one so far.

    Attributes:
        output: the stage's folder.
        every: optimiser steps between looks.
        look: takes a look, on all devices at once.
        save: writes the weights into a folder.
        facts: what goes into checkpoints; ``looks`` is a list of past looks.
    """

    output: Path
    every: int
    look: Callable[[int], LookResult]
    save: Callable[[Path], None]
    facts: dict[str, Any]

    @property
    def past(self) -> list[dict[str, Any]]:
        """The looks so far, in order, each with its ``step``."""
        looks: list[dict[str, Any]] = self.facts.setdefault("looks", [])
        return looks

    @property
    def best(self) -> dict[str, Any]:
        """The first of the looks so far with the highest accuracy."""
        return _best(self.past)

    def weights(self, step: int) -> Path:
        """Where the weights of a step are kept, while it is the best."""
        return self.output / "best" / str(step)

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if not self.past:
            self._take(args, state)
        self._write(state)

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if state.global_step % self.every == 0:
            self._take(args, state)

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if self.past[-1]["step"] != state.global_step:
            self._take(args, state)

    def _take(self, args: Any, state: TrainerState) -> None:
        result = self.look(state.global_step)
        self.past.append({"step": state.global_step} | asdict(result))
        if self.best["step"] == state.global_step:
            self.save(self.weights(state.global_step))
        if state.is_world_process_zero:
            prune_best(self.output / "best", Path(str(args.output_dir)), self.past, _best)
        self._write(state)

    def _write(self, state: TrainerState) -> None:
        if not state.is_world_process_zero:
            return
        with atomic_path(self.output / "looks.jsonl") as temporary:
            temporary.write_text(dump_rows(self.past), encoding="utf-8")


def _best(looks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first look with the highest accuracy."""
    return max(looks, key=lambda look: look["accuracy"])

"""A path as Qwen2.5-Math-PRM sees it: a chat, and ``<extra_0>`` after every step.

Steps are tokenised one at a time, so that a path can be scored as it grows. Where a step ends in
a line break this gives the tokens of the whole text, as Qwen's tokenizer never joins what stands
on both sides of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from butwait.problems.prompts import encode, messages
from butwait.problems.settings import PromptSettings
from butwait.records import Problem, UserError
from butwait.reward_models.aggregate import aggregate
from butwait.reward_models.reward_model import Path, RewardModelError, Step, checked_logit
from butwait.reward_models.settings import Aggregation

MARK = "<extra_0>"
PROMPT = PromptSettings(
    system="Please reason step by step, and put your final answer within \\boxed{}.",
    template="{question}",
)
_NOTHING = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """A path's tokens.

    Attributes:
        segments: the prompt and the steps. A step without text has no segment.
        peek: tokens to show after them and to take back (``model`` only).
        carry: tokens of the last step that the peek stands in for; they open the next segment.
    """

    segments: tuple[np.ndarray, ...]
    peek: np.ndarray
    carry: np.ndarray

    @property
    def steps(self) -> int:
        """Steps that have text."""
        return len(self.segments) - 1


class QwenLayouts:
    """Lays out paths.

    Args:
        tokenizer: of the reward model.
        aggregation: how the steps' scores become one. Under ``model`` the whole path is one step:
            ``<extra_0>`` is shown once, after it, and taken back before the path goes on.

    Raises UserError for a tokenizer without ``<extra_0>``.
    """

    def __init__(self, tokenizer: Any, aggregation: Aggregation) -> None:
        self.aggregation = aggregation
        self._tokenizer = tokenizer
        mark = self._encode(MARK)
        if len(mark) != 1:
            raise UserError(f"the tokenizer of the reward model does not know {MARK}")
        self._mark = mark

    @property
    def mark_id(self) -> int:
        """The token at which a step is judged."""
        return int(self._mark[0])

    def prompt(self, problem: Problem) -> np.ndarray:
        """int32 (p,): system message and question."""
        return encode(self._tokenizer, messages(problem, PROMPT), PROMPT)

    def of(self, prompt: np.ndarray, path: Path, known: Layout | None) -> Layout:
        """The layout of a path; ``known`` is that of the path without its last step."""
        layout, steps = known, path.steps[-1:]
        if layout is None:
            layout, steps = Layout((prompt,), _NOTHING, _NOTHING), path.steps
        for step in steps:
            layout = self._extended(layout, step)
        return layout

    def judged(self, layout: Layout) -> int:
        """How many scores a path has."""
        return min(layout.steps, 1) if self.aggregation == "model" else layout.steps

    def logit(
        self, problem: Problem, layout: Layout, outputs: np.ndarray | Sequence[np.ndarray]
    ) -> tuple[float, bool]:
        """The path's logit and whether it was clipped. A path without any text has logit 0: there
        is nothing to judge.

        Args:
            outputs: float (2,) for every score: logits of a bad and of a good step.

        Raises RewardModelError where there are not as many as steps, and for NaN.
        """
        if len(outputs) != self.judged(layout):
            raise RewardModelError(
                f"the reward model gave {len(outputs)} scores for {self.judged(layout)} steps "
                f"of {problem.id}"
            )
        # log(p / (1 - p)) of a softmax over two logits is their difference.
        step_logits = np.array([float(good) - float(bad) for bad, good in outputs])
        value = aggregate(step_logits, self.aggregation) if len(outputs) else 0.0
        return checked_logit(value, f"a path of {problem.id}")

    def _extended(self, layout: Layout, step: Step) -> Layout:
        text = step.text.rstrip()
        if not text.strip():
            return layout
        if self.aggregation != "model":
            segment = np.concatenate([self._encode(text.lstrip()), self._mark])
            return Layout((*layout.segments, segment), _NOTHING, _NOTHING)
        # With its line breaks the step may end in another token than without ("." and ".\n\n"):
        # what both have in common is kept, the rest is shown now and replaced when it goes on.
        whole, bare = self._encode(step.text), self._encode(text)
        n = _common(whole, bare)
        segment = np.concatenate([layout.carry, whole[:n]])
        peek = np.concatenate([bare[n:], self._mark])
        return Layout((*layout.segments, segment), peek, whole[n:])

    def _encode(self, text: str) -> np.ndarray:
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return np.asarray(ids, dtype=np.int32)


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """Length of the common beginning."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n

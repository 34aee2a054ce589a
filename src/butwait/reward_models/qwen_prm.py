"""Qwen2.5-Math-PRM: a public process reward model (Zhang et al. 2025, arXiv:2501.07301).

Its layout is a chat: a fixed system message, the question, and an answer whose steps are each
followed by ``<extra_0>``. The reward of a step is the probability of the second class at its
``<extra_0>``; the score of a path aggregates them (``aggregate.py``). Under the aggregation
``model`` the whole path is one step: ``<extra_0>`` is shown once, after it, and taken back before
the path goes on.

Steps are tokenised one at a time, so that a path can be scored as it grows. Where a step ends in
a line break this gives the tokens of the whole text, as Qwen's tokenizer never joins what stands
on both sides of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from butwait.engines.slots import SlotModel
from butwait.problems.prompts import encode, messages
from butwait.problems.settings import PromptSettings
from butwait.records import Problem, UserError
from butwait.reward_models.aggregate import aggregate
from butwait.reward_models.incremental import Handle, IncrementalScorer, Request, Result
from butwait.reward_models.reward_model import (
    Path,
    RewardModelError,
    Score,
    Step,
    checked_logit,
)
from butwait.reward_models.settings import Aggregation

MARK = "<extra_0>"
PROMPT = PromptSettings(
    system="Please reason step by step, and put your final answer within \\boxed{}.",
    template="{question}",
)
_NOTHING = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class _Layout:
    """A path as this model sees it.

    Attributes:
        segments: the prompt and the steps. A step without text has no segment.
        peek: tokens to show after them and to take back (``model`` only).
        carry: tokens of the last step that the peek stands in for; they open the next segment.
    """

    segments: tuple[np.ndarray, ...]
    peek: np.ndarray
    carry: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    """The handle of a scored path."""

    layout: _Layout
    held: Handle


class QwenMathPrm:
    """Implements ``RewardModel``.

    Args:
        model: ``Qwen2ForProcessRewardModel`` in its slots.
        tokenizer: its tokenizer.
        aggregation: how the steps' scores become one.

    Raises UserError for a tokenizer without ``<extra_0>``.
    """

    def __init__(self, model: SlotModel, tokenizer: Any, aggregation: Aggregation) -> None:
        self.clipped = 0
        self._scorer = IncrementalScorer(model)
        self._tokenizer = tokenizer
        self._aggregation = aggregation
        mark = self._encode(MARK)
        if len(mark) != 1:
            raise UserError(f"the tokenizer of the reward model does not know {MARK}")
        self._mark = mark

    async def score(self, problem: Problem, paths: Sequence[Path]) -> list[Score]:
        """See ``RewardModel.score``. A path without any text is scored 0: there is nothing to
        judge."""
        prompt = encode(self._tokenizer, messages(problem, PROMPT), PROMPT)
        layouts = [self._layout(prompt, path) for path in paths]
        results = await self._scorer.run(
            [
                Request(layout.segments, path.handle and path.handle.held, layout.peek)
                for layout, path in zip(layouts, paths, strict=True)
            ]
        )
        return [
            self._score(problem, layout, result)
            for layout, result in zip(layouts, results, strict=True)
        ]

    @property
    def run_tokens(self) -> int:
        """Tokens run so far, those of lost handles again; scores count them once."""
        return self._scorer.run_tokens

    def release(self, handles: Sequence[Any]) -> None:
        """See ``RewardModel.release``."""
        self._scorer.release([known.held for known in handles])

    def _score(self, problem: Problem, layout: _Layout, result: Result) -> Score:
        steps = len(layout.segments) - 1
        outputs = list(result.handle.outputs[1:])
        if self._aggregation == "model":
            outputs = [result.output] if steps else []
        elif len(outputs) != steps:
            raise RewardModelError(f"{len(outputs)} scores for {steps} steps of {problem.id}")
        # log(p / (1 - p)) of a softmax over two logits is their difference.
        step_logits = np.array([float(good) - float(bad) for bad, good in outputs])
        value = aggregate(step_logits, self._aggregation) if outputs else 0.0
        logit, clipped = checked_logit(value, f"a path of {problem.id}")
        self.clipped += clipped
        return Score(logit, _Known(layout, result.handle), result.tokens)

    def _layout(self, prompt: np.ndarray, path: Path) -> _Layout:
        known: _Known | None = path.handle
        if known is None:
            layout, steps = _Layout((prompt,), _NOTHING, _NOTHING), path.steps
        else:
            layout, steps = known.layout, path.steps[-1:]
        for step in steps:
            layout = self._extended(layout, step)
        return layout

    def _extended(self, layout: _Layout, step: Step) -> _Layout:
        text = step.text.rstrip()
        if not text.strip():
            return layout
        if self._aggregation != "model":
            segment = np.concatenate([self._encode(text.lstrip()), self._mark])
            return _Layout((*layout.segments, segment), _NOTHING, _NOTHING)
        # With its line breaks the step may end in another token than without ("." and ".\n\n"):
        # what both have in common is kept, the rest is shown now and replaced when it goes on.
        whole, bare = self._encode(step.text), self._encode(text)
        n = _common(whole, bare)
        segment = np.concatenate([layout.carry, whole[:n]])
        peek = np.concatenate([bare[n:], self._mark])
        return _Layout((*layout.segments, segment), peek, whole[n:])

    def _encode(self, text: str) -> np.ndarray:
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return np.asarray(ids, dtype=np.int32)


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """Length of the common beginning."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n

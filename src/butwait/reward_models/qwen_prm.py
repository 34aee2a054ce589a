"""Qwen2.5-Math-PRM: a public process reward model (Zhang et al. 2025, arXiv:2501.07301).

Its layout is a chat: a fixed system message, the question, and an answer whose steps are each
followed by ``<extra_0>`` (``qwen_layout.py``). The reward of a step is the probability of the
second class at its ``<extra_0>``; the score of a path aggregates them (``aggregate.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from butwait.engines.slots import SlotModel
from butwait.records import Problem
from butwait.reward_models.incremental import Handle, IncrementalScorer, Request, Result
from butwait.reward_models.qwen_layout import Layout, QwenLayouts
from butwait.reward_models.reward_model import Path, Score
from butwait.reward_models.settings import Aggregation


@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    """The handle of a scored path."""

    layout: Layout
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
        self._layouts = QwenLayouts(tokenizer, aggregation)

    async def score(self, problem: Problem, paths: Sequence[Path]) -> list[Score]:
        """See ``RewardModel.score``. A path without any text is scored 0: there is nothing to
        judge."""
        prompt = self._layouts.prompt(problem)
        layouts = [
            self._layouts.of(prompt, path, path.handle and path.handle.layout) for path in paths
        ]
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

    def _score(self, problem: Problem, layout: Layout, result: Result) -> Score:
        outputs = result.handle.outputs[1:]
        if self._layouts.aggregation == "model":
            outputs = (result.output,) if layout.steps else ()
        logit, clipped = self._layouts.logit(problem, layout, outputs)
        self.clipped += clipped
        return Score(logit, _Known(layout, result.handle), result.tokens)

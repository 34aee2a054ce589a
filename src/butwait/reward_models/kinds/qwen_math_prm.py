"""Qwen2.5-Math-PRM: a public process reward model (Zhang et al. 2025, arXiv:2501.07301).

Its layout is a chat: a fixed system message, the question, and an answer whose steps are each
followed by ``<extra_0>`` (``QwenLayouts``). The reward of a step is the probability of the
second class at its ``<extra_0>``; the score of a path aggregates them (``aggregate.py``).

Steps are tokenised one at a time, so that a path can be scored as it grows. Where a step ends in a
line break this gives the tokens of the whole text, as Qwen's tokenizer never joins what stands on
both sides of one.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any, Literal

import numpy as np

from butwait.engines.checkpoints.folders import look_into
from butwait.problems.prompts import encode, messages
from butwait.problems.settings import PromptSettings
from butwait.records import Problem, UserError
from butwait.records.settings import Content, Result
from butwait.reward_models.aggregate import aggregate
from butwait.reward_models.load import Policy, RewardModelKind
from butwait.reward_models.local import Layout, LocalRewardModel, in_slots, layout_ids, step_ids
from butwait.reward_models.reward_model import Step
from butwait.reward_models.settings import Aggregation, LocalModelSettings

MARK = "<extra_0>"
PROMPT = PromptSettings(
    system="Please reason step by step, and put your final answer within \\boxed{}.",
    template="{question}",
)


class QwenMathPrmSettings(LocalModelSettings):
    """Qwen2.5-Math-PRM (Zhang et al. 2025, arXiv:2501.07301) and others of its architecture."""

    kind: Literal["qwen_math_prm"] = "qwen_math_prm"
    name: Content[str] = "Qwen/Qwen2.5-Math-PRM-7B"
    """A Hugging Face id (``Qwen/Qwen2.5-Math-PRM-72B``) or a folder."""
    revision: Result[str | None] = None
    """Commit of a Hugging Face id; pin it for a run to be repeatable."""
    dtype: Result[Literal["float32", "bfloat16"]] = "bfloat16"
    """Of its weights and arithmetic; the published weights are bfloat16."""
    aggregation: Result[Aggregation] = "model"
    """One score from many steps: their product, their minimum, the last one; or ``model``: the
    whole path is shown as a single step (best in arXiv:2502.01618)."""

    def look(self, world: Any) -> None:
        super().look(world)
        look_into(world, self.name, self.revision, "name", weights=True)


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
        self._mark = layout_ids(tokenizer, MARK)
        if len(self._mark) != 1:
            raise UserError(f"the tokenizer of the reward model does not know {MARK}")

    @property
    def mark_id(self) -> int:
        """The token at which a step is judged."""
        return int(self._mark[0])

    def prompt(self, problem: Problem) -> np.ndarray:
        """int32 (p,): system message and question."""
        return encode(self._tokenizer, messages(problem, PROMPT), PROMPT, MARK)

    def judged(self, layout: Layout) -> int:
        """How many scores a path has."""
        return min(layout.steps, 1) if self.aggregation == "model" else layout.steps

    def logit(self, outputs: np.ndarray | Sequence[np.ndarray]) -> float:
        """The path's logit, not clipped. A path without any text has logit 0: there is nothing to
        judge.

        Args:
            outputs: float (2,) for every step that is judged: logits of a bad and of a good one.
        """
        # log(p / (1 - p)) of a softmax over two logits is their difference.
        step_logits = np.array([float(good) - float(bad) for bad, good in outputs])
        return aggregate(step_logits, self.aggregation)

    def extended(self, layout: Layout, step: Step) -> Layout:
        """A path with one more step; one without text adds nothing."""
        text = step.text.rstrip()
        if not text.strip():
            return layout
        if self.aggregation != "model":
            return layout.extended(np.concatenate([self._ids(text.lstrip()), self._mark]))
        # With its line breaks the step may end in another token than without ("." and ".\n\n"):
        # what both have in common is kept, the rest is shown now and replaced when it goes on.
        whole, bare = self._ids(step.text), self._ids(text)
        n = _common(whole, bare)
        return layout.extended(whole[:n], np.concatenate([bare[n:], self._mark]), whole[n:])

    def _ids(self, text: str) -> np.ndarray:
        return step_ids(self._tokenizer, text, MARK)


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """Length of the common beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


class QwenMathPrm(LocalRewardModel):
    """Implements ``RewardModel``. A path without any text is scored 0: there is nothing to judge.

    Args:
        model: ``Qwen2ForProcessRewardModel`` in its slots.
        tokenizer: its tokenizer.
        aggregation: how the steps' scores become one.

    Raises UserError for a tokenizer without ``<extra_0>``.
    """

    def __init__(self, model: Any, tokenizer: Any, aggregation: Aggregation) -> None:
        super().__init__(model, tokenizer, PROMPT, written=MARK)
        self._layouts = QwenLayouts(tokenizer, aggregation)

    def _extended(self, layout: Layout, step: Step) -> Layout:
        return self._layouts.extended(layout, step)

    def _logit(self, layout: Layout, outputs: Sequence[np.ndarray], output: np.ndarray) -> float:
        if self._layouts.aggregation == "model":
            outputs = [output][: layout.steps]
        return self._layouts.logit(outputs)


def _load(settings: QwenMathPrmSettings, tokenizer: Any, policy: Policy | None) -> QwenMathPrm:
    from butwait.engines.models import load_tokenizer
    from butwait.reward_models.score_head import load_qwen_prm

    checkpoint = settings.checkpoint(settings.name, settings.revision)
    slots = in_slots(load_qwen_prm(checkpoint), settings, policy)
    return QwenMathPrm(slots, load_tokenizer(checkpoint), settings.aggregation)


QWEN_MATH_PRM = RewardModelKind(
    QwenMathPrmSettings,
    _load,
    decoder=lambda settings: (settings.checkpoint(settings.name, settings.revision), False),
    aggregates=lambda settings: settings.aggregation != "last",
)

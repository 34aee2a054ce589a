"""Any public process reward model that classifies tokens: its layout is told by settings.

The prompt is followed by the steps, each with the separator behind it; the score of a step is the
log-odds of the good class at the separator's last token. Text that stands between the score and
the next step (the ``+`` of a judge that answers in a chat) opens the next step.

Steps, separators and what follows them are tokenised one at a time, as trl's ``PRMTrainer`` does
in training, so that a path can be scored as it grows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp

from butwait.engines.slots import SlotModel
from butwait.problems.prompts import encode, messages
from butwait.records import Problem
from butwait.reward_models.aggregate import aggregate
from butwait.reward_models.incremental import Handle, IncrementalScorer, Request, Result
from butwait.reward_models.reward_model import Path, Score, Step, checked_logit
from butwait.reward_models.settings import ClassifierSettings

_NO_PEEK = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True)
class Classes:
    """Which outputs count.

    Attributes:
        good: index of the good class.
        bad: index of the class it is weighed against; None: all others together.
    """

    good: int
    bad: int | None

    def log_odds(self, outputs: np.ndarray) -> float:
        """Of the good class, from logits (V,). A single output is the log-odds itself."""
        z = outputs.astype(np.float64)
        if len(z) == 1:
            return float(z[0])
        against = logsumexp(np.delete(z, self.good)) if self.bad is None else z[self.bad]
        return float(z[self.good] - against)


class ClassifierRewardModel:
    """Implements ``RewardModel``.

    Args:
        model: the classifier in its slots; one row of logits per token.
        tokenizer: the classifier's.
        classes: which logits count.
        settings: the layout and the aggregation.
    """

    def __init__(
        self, model: SlotModel, tokenizer: Any, classes: Classes, settings: ClassifierSettings
    ) -> None:
        self.clipped = 0
        self._scorer = IncrementalScorer(model)
        self._tokenizer = tokenizer
        self._classes = classes
        self._prompt = settings.prompt
        self._aggregation = settings.aggregation
        self._separator = self._encode(settings.separator)
        self._after = self._encode(settings.after)

    async def score(self, problem: Problem, paths: Sequence[Path]) -> list[Score]:
        """See ``RewardModel.score``. A path without any text is scored 0: there is nothing to
        judge."""
        prompt = encode(self._tokenizer, messages(problem, self._prompt), self._prompt)
        results = await self._scorer.run([self._request(prompt, path) for path in paths])
        return [self._score(problem, result) for result in results]

    @property
    def run_tokens(self) -> int:
        """Tokens run so far, those of lost handles again; scores count them once."""
        return self._scorer.run_tokens

    def release(self, handles: Sequence[Any]) -> None:
        """See ``RewardModel.release``."""
        self._scorer.release(handles)

    def _score(self, problem: Problem, result: Result) -> Score:
        outputs = result.handle.outputs[1:]
        steps = np.array([self._classes.log_odds(output) for output in outputs])
        value = aggregate(steps, self._aggregation) if outputs else 0.0
        logit, clipped = checked_logit(value, f"a path of {problem.id}")
        self.clipped += clipped
        return Score(logit, result.handle, result.tokens)

    def _request(self, prompt: np.ndarray, path: Path) -> Request:
        known: Handle | None = path.handle
        segments = (prompt,) if known is None else known.segments
        for step in path.steps if known is None else path.steps[-1:]:
            segments = self._extended(segments, step)
        return Request(segments, known, _NO_PEEK)

    def _extended(self, segments: tuple[np.ndarray, ...], step: Step) -> tuple[np.ndarray, ...]:
        """A step without text has no segment: there is nothing to judge."""
        text = step.text.strip()
        if not text:
            return segments
        before = self._after if len(segments) > 1 else _NO_PEEK
        return (*segments, np.concatenate([before, self._encode(text), self._separator]))

    def _encode(self, text: str) -> np.ndarray:
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return np.asarray(ids, dtype=np.int32)

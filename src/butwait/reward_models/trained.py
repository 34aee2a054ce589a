"""A reward model made by a stage of kind ``prm``: the policy's architecture and a score head.

The score of a path is the logit at the last token of its last step, as in training; where a step
ends the answer with EOS, that is the EOS token.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from butwait.engines.slots import SlotModel
from butwait.problems.prompts import encode, messages
from butwait.problems.settings import PromptSettings
from butwait.records import Problem
from butwait.reward_models.incremental import Handle, IncrementalScorer, Request
from butwait.reward_models.reward_model import Path, Score, Step, checked_logit

_NO_PEEK = np.zeros(0, np.int32)


class TrainedRewardModel:
    """Implements ``RewardModel``.

    Args:
        model: the scorer in its slots; one output per token.
        tokenizer: the scorer's.
        prompt: how questions were shown to it in training.
        same_tokens: whether the policy has the same tokenizer. If so the policy's token ids are
            taken as they are; otherwise each step's text is tokenised, once, on its own, and an
            EOS token, which no text shows, is not seen.
    """

    def __init__(
        self, model: SlotModel, tokenizer: Any, prompt: PromptSettings, same_tokens: bool
    ) -> None:
        self.clipped = 0
        self._scorer = IncrementalScorer(model)
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._same_tokens = same_tokens

    async def score(self, problem: Problem, paths: Sequence[Path]) -> list[Score]:
        """See ``RewardModel.score``. A path without steps is scored at the end of the prompt."""
        prompt = encode(self._tokenizer, messages(problem, self._prompt), self._prompt)
        requests = [self._request(prompt, path) for path in paths]
        results = await self._scorer.run(requests)
        scores = []
        for result in results:
            logit, clipped = checked_logit(float(result.output[0]), f"a path of {problem.id}")
            self.clipped += clipped
            scores.append(Score(logit, result.handle, result.tokens))
        return scores

    @property
    def run_tokens(self) -> int:
        """Tokens run so far, those of lost handles again; scores count them once."""
        return self._scorer.run_tokens

    def release(self, handles: Sequence[Any]) -> None:
        """See ``RewardModel.release``."""
        self._scorer.release(handles)

    def _request(self, prompt: np.ndarray, path: Path) -> Request:
        known: Handle | None = path.handle
        if known is None:
            return Request((prompt, *map(self._tokens, path.steps)), None, _NO_PEEK)
        return Request((*known.segments, self._tokens(path.steps[-1])), known, _NO_PEEK)

    def _tokens(self, step: Step) -> np.ndarray:
        if self._same_tokens:
            return step.token_ids
        ids = self._tokenizer(step.text, add_special_tokens=False)["input_ids"]
        return np.asarray(ids, dtype=np.int32)

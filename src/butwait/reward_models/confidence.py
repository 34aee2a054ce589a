"""The policy's own confidence instead of a reward model.

``PathLogprob`` needs nothing but what the search has drawn. ``SelfCertainty`` (Kang et al. 2025,
arXiv:2502.18581, equation 8) needs whole distributions, which no engine keeps: it runs the policy
once more, in this process, and only over new tokens.

A confidence is no probability of being right. It is calibrated by ``scale`` and ``centre`` and
judged by ``butwait audit-prm``.
"""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from butwait.engines.slots import SlotModel
from butwait.problems.prompts import encode, messages
from butwait.problems.settings import PromptSettings
from butwait.records import Problem
from butwait.reward_models.aggregate import logit_of_log
from butwait.reward_models.incremental import Handle, IncrementalScorer, Request
from butwait.reward_models.reward_model import Path, RewardModelError, Score, checked_logit

_NO_PEEK = np.zeros(0, np.int32)


class PathLogprob:
    """Implements ``RewardModel``: log(p / (1 - p)), p = exp(mean log-probability of the path's
    sampled tokens), the geometric mean of their probabilities.

    Log-probabilities are those of the policy as it was sampled (its temperature and top-p
    included). Inserted tokens are left out; a path without a sampled token is scored 0.

    Args:
        scale: logits per unit.
        centre: what is scored 0.
    """

    def __init__(self, scale: float = 1.0, centre: float = 0.0) -> None:
        self.clipped = 0
        self._scale = scale
        self._centre = centre

    async def score(self, problem: Problem, paths: Sequence[Path]) -> list[Score]:
        """See ``RewardModel.score``. Raises RewardModelError where log-probabilities are not
        known."""
        return [self._score(problem, path) for path in paths]

    def release(self, handles: Sequence[Any]) -> None:
        """There is nothing to free."""

    def _score(self, problem: Problem, path: Path) -> Score:
        if any(step.logprobs is None for step in path.steps):
            raise RewardModelError(
                f"a path of {problem.id} comes without log-probabilities: `measure: logprob` "
                "scores only what the policy itself has drawn"
            )
        logprobs = [np.asarray(s.logprobs, np.float64) for s in path.steps]
        sampled = np.concatenate([*logprobs, np.zeros(0)])
        sampled = sampled[~np.isnan(sampled)]
        if not len(sampled):
            return Score(0.0, None, 0)
        # Rounding can lift the log-probability of a sure token above 0.
        value = logit_of_log(min(0.0, float(sampled.mean())))
        logit, clipped = checked_logit(
            self._scale * (value - self._centre), f"a path of {problem.id}"
        )
        self.clipped += clipped
        return Score(logit, None, 0)


class CertaintyModel(torch.nn.Module):
    """A language model whose one output per token is the self-certainty of its next token:
    KL(U || p) = -log V - mean_v log p(v), in nats, at least 0.

    Args:
        policy: a causal language model of transformers.
    """

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy
        self.config = policy.config
        self._is_stateful = getattr(policy, "_is_stateful", False)

    @property
    def dtype(self) -> torch.dtype:
        return self.policy.dtype

    @property
    def device(self) -> torch.device:
        return self.policy.device

    def forward(self, **inputs: Any) -> SimpleNamespace:
        """Takes what the policy takes; logits are float32 (b, t, 1)."""
        logits = self.policy(**inputs).logits.float()
        certainty = torch.logsumexp(logits, -1) - logits.mean(-1) - math.log(logits.shape[-1])
        return SimpleNamespace(logits=certainty[..., None])


class SelfCertainty:
    """Implements ``RewardModel``: the mean self-certainty of the distributions that the path's
    tokens were drawn from (untempered).

    Args:
        model: ``CertaintyModel`` in its slots.
        tokenizer: the policy's.
        prompt: how the policy is shown questions.
        scale: logits per nat.
        centre: nats that are scored 0.
    """

    def __init__(
        self, model: SlotModel, tokenizer: Any, prompt: PromptSettings, scale: float, centre: float
    ) -> None:
        self.clipped = 0
        self._scorer = IncrementalScorer(model, outputs="sum")
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._scale = scale
        self._centre = centre

    async def score(self, problem: Problem, paths: Sequence[Path]) -> list[Score]:
        """See ``RewardModel.score``. A path without tokens is scored 0."""
        prompt = encode(self._tokenizer, messages(problem, self._prompt), self._prompt)
        requests = [self._request(prompt, path) for path in paths]
        results = await self._scorer.run(requests)
        scores = []
        for path, result in zip(paths, results, strict=True):
            n = sum(len(step.token_ids) for step in path.steps)
            total = sum(float(output[0]) for output in result.handle.outputs[1:])
            value = self._scale * (total / n - self._centre) if n else 0.0
            logit, clipped = checked_logit(value, f"a path of {problem.id}")
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
        """Each segment is its step moved back by a token: the distribution that a token was drawn
        from is the output at the token before it. The path's last token waits for the next step.
        """
        known: Handle | None = path.handle
        segments: tuple[np.ndarray, ...] = (prompt[:-1],) if known is None else known.segments
        ids = np.concatenate([prompt, *(step.token_ids for step in path.steps)]).astype(np.int32)
        start = sum(map(len, segments))
        for step in path.steps if known is None else path.steps[-1:]:
            end = start + len(step.token_ids)
            segments = (*segments, ids[start:end])
            start = end
        return Request(segments, known, _NO_PEEK)

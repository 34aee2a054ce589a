"""Completions that TRL draws: by ``generate()``, or by vLLM."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np

from butwait.engines.engine import Engine
from butwait.records import Problem
from butwait.training.grpo.completions import Completion
from butwait.training.grpo.generation import Generation, GroupSampler, Tally

Draws = Callable[[list[list[int]]], tuple[list[list[int]], list[list[float]] | None]]
"""Token ids of a completion for every prompt, and their log-probabilities in nats or None."""


class ElsewhereSampler(GroupSampler):
    """Draws groups outside of butwait's engine. Only EOS, or the longest length, ends a completion:
    a closed box does not.

    Once there is a trainer, ``draws`` and the ids that end a completion are set.
    """

    draws: Draws
    eos_token_ids: Collection[int]

    async def draw(
        self, problems: Sequence[Problem], step: int, engine: Engine | None
    ) -> Generation:
        prompts = [self.prompting.prompt_ids(p) for p in problems for _ in range(self.group)]
        ids, logprobs = self.draws([prompt.tolist() for prompt in prompts])
        asked = [problem for problem in problems for _ in range(self.group)]
        rows = await asyncio.gather(*map(self._completion, asked, prompts, ids))
        groups = [rows[i : i + self.group] for i in range(0, len(rows), self.group)]
        tally = Tally(
            policy_tokens=sum(map(len, ids)),
            prefilled_tokens=sum(map(len, prompts)),
        )
        return replace(self.judged(groups, tally), logprobs=logprobs)

    @property
    def group(self) -> int:
        return self.settings.group

    async def _completion(
        self, problem: Problem, prompt_ids: np.ndarray, ids: list[int]
    ) -> Completion:
        finish = "eos" if ids[-1] in self.eos_token_ids else "length"
        text = self.prompting.decode(ids)
        return Completion(
            problem=problem,
            prompt_ids=prompt_ids,
            token_ids=np.array(ids, np.int32),
            sampled=np.ones(len(ids), bool),
            text=text,
            finish=finish,
            grade=await self._grader.agrade(text, problem, finish),
        )

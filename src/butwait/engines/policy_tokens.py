"""What every engine does with its policy's tokenizer: prompts, inserted text, ends of steps."""

from collections.abc import Collection
from typing import Any

import numpy as np

from butwait.engines.detokenizer import Detokenizer
from butwait.engines.engine import Prefix
from butwait.engines.insertion import text_tokens
from butwait.engines.settings import StepRule
from butwait.engines.steps import StepDetector
from butwait.problems.prompts import encode, messages
from butwait.problems.settings import PromptSettings
from butwait.records import Problem, UserError


class PolicyTokens:
    """A policy's tokenizer with the prompt's layout.

    Args:
        tokenizer: of the policy.
        prompt: how a problem is put to it.
        eos_ids: every id that ends a completion.
    """

    def __init__(self, tokenizer: Any, prompt: PromptSettings, eos_ids: Collection[int]) -> None:
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.eos_ids = frozenset(eos_ids)
        self.detokenizer = Detokenizer(tokenizer)
        self._detectors: dict[StepRule, StepDetector] = {}

    def start(self, problem: Problem, capacity: int | None) -> Prefix:
        """The prompt of a problem.

        Args:
            problem: what is asked.
            capacity: tokens that a path holds, prompt included; None: no bound is known.

        Raises UserError where the prompt leaves no room for an answer.
        """
        ids = encode(self.tokenizer, messages(problem, self.prompt), self.prompt)
        if capacity is not None and len(ids) >= capacity:
            raise UserError(
                f"the prompt of problem {problem.id} has {len(ids)} tokens, and a path holds "
                f"{capacity}, prompt included: leave the problem out or set "
                "engine.capacity higher (up to the model's context)"
            )
        return Prefix(token_ids=ids, prompt_length=len(ids))

    def encode(self, text: str) -> np.ndarray:
        """int32 (n,): the tokens of a text on its own (``insertion.text_tokens``)."""
        return text_tokens(self.tokenizer, text)

    def detector(self, rule: StepRule) -> StepDetector:
        """Where steps end by this rule; made once for each rule."""
        if rule not in self._detectors:
            self._detectors[rule] = StepDetector(self.detokenizer, rule, self.eos_ids)
        return self._detectors[rule]


def check_fits(tokens: int, capacity: int | None) -> None:
    """Raises UserError for a path of ``tokens`` tokens to be scored that is longer than
    ``capacity``."""
    if capacity is not None and tokens > capacity:
        raise UserError(
            f"a path of {tokens} tokens is to be scored, and the engine holds {capacity}: set "
            "engine.capacity higher"
        )

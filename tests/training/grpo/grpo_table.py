"""A policy that is a table of logits: every path, value and gradient of it can be listed.

Each question is a binary tree of eight steps, one token a step, with 256 completions. Which of them
are correct is drawn, as many as make P(correct) 0.06. Shapes: K = 255 prefixes, the root first,
L = 256 completions; a gradient is float64 (K, 2), over the logits of both next tokens behind every
prefix.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np

from butwait.engines.scripted import ScriptedEngine
from butwait.engines.settings import StepRule
from butwait.records import Problem
from butwait.reward_models.reward_model import Step
from butwait.reward_models.scripted import ScriptedRewardModel

DEPTH = 8
CORRECT = 0.06
RULE = StepRule(delimiters=("\n",), max_tokens=DEPTH)
OPEN = ("a\n", "b\n")
"""Text of the next token where the path goes on; behind a box it ends."""

PREFIXES = ["".join(bits) for depth in range(DEPTH) for bits in product("ab", repeat=depth)]
INDEX = {prefix: i for i, prefix in enumerate(PREFIXES)}
LEAVES = ["".join(bits) for bits in product("ab", repeat=DEPTH)]


class TableQuestion:
    """One question, its policy and its exact figures.

    Args:
        seed: of its logits and of which completions are correct.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.problem = Problem(f"table-{seed}", "?", "1", "integer")
        logits = rng.normal(0.0, 0.7, (len(PREFIXES), 2))
        self.probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        self.laws = np.array([self._law(leaf) for leaf in LEAVES])
        """float64 (L,): probability of each completion."""
        self.correct = self._draw_correct(rng)
        """bool (L,)."""
        self.values = {leaf: float(ok) for leaf, ok in zip(LEAVES, self.correct, strict=True)}
        """P(correct | prefix), of prefixes and completions."""
        for i in reversed(range(len(PREFIXES))):
            own, at = self.probabilities[i], PREFIXES[i]
            self.values[at] = own[0] * self.values[at + "a"] + own[1] * self.values[at + "b"]
        self.engine = ScriptedEngine(self._next, self._pieces())

    @property
    def exact(self) -> np.ndarray:
        """The gradient of log P(correct); times P(correct), it is the policy gradient."""
        total = np.zeros((len(PREFIXES), 2))
        for leaf, law, ok in zip(LEAVES, self.laws, self.correct, strict=True):
            if ok:
                total += law * self.score(leaf)
        return total / self.values[""]

    def score(self, leaf: str) -> np.ndarray:
        """The gradient of log pi(leaf)."""
        total = np.zeros((len(PREFIXES), 2))
        for depth, choice in enumerate(leaf):
            at = INDEX[leaf[:depth]]
            total[at] -= self.probabilities[at]
            total[at, "ab".index(choice)] += 1
        return total

    def reward_model(self, noise: float, shrink: float, seed: int) -> ScriptedRewardModel:
        """``shrink`` times the logit of the true value (no further than 0.02 from 0 and 1), with
        Gaussian noise of its own for every prefix and completion."""
        rng = np.random.default_rng((seed, *self.problem.id.encode()))
        values = np.clip([self.values[at] for at in [*PREFIXES, *LEAVES]], 0.02, 0.98)
        logits = shrink * np.log(values / (1 - values)) + rng.normal(0, noise, len(values))
        table = dict(zip([*PREFIXES, *LEAVES], logits.tolist(), strict=True))

        def logit(problem: Problem, steps: Sequence[Step]) -> float:
            return table["".join(step.text[0] for step in steps)]

        return ScriptedRewardModel(logit)

    def update(self, token_ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The gradient of the summed log pi of a completion where its mask says, which must be all
        that the policy drew: the eight tokens, not an EOS behind them."""
        assert mask.tolist() == [True] * DEPTH + [False] * (len(mask) - DEPTH)
        return self.score(choices(self.engine.tokenizer.decode(token_ids[:DEPTH].tolist())))

    def _law(self, leaf: str) -> float:
        at = [INDEX[leaf[:depth]] for depth in range(DEPTH)]
        return float(np.prod(self.probabilities[at, ["ab".index(choice) for choice in leaf]]))

    def _draw_correct(self, rng: np.random.Generator) -> np.ndarray:
        """Completions in a random order until another one would lead away from ``CORRECT``."""
        correct, total = np.zeros(len(LEAVES), bool), 0.0
        for i in rng.permutation(len(LEAVES)):
            if abs(total + self.laws[i] - CORRECT) < abs(total - CORRECT):
                correct[i] = True
                total += self.laws[i]
        return correct

    def _next(self, question: str, text: str) -> dict[str, float]:
        at = choices(text)
        pieces = OPEN if len(at) < DEPTH - 1 else [self._last(at + choice) for choice in "ab"]
        return dict(zip(pieces, self.probabilities[INDEX[at]].tolist(), strict=True))

    def _last(self, leaf: str) -> str:
        return f"{leaf[-1]}\\boxed{{{1 if self.values[leaf] else 2}}}"

    @staticmethod
    def _pieces() -> list[str]:
        return [*OPEN, *(f"{c}\\boxed{{{n}}}" for c in "ab" for n in (1, 2))]


def choices(text: str) -> str:
    """The choices of a completion's text: ``a\\nb\\n`` is ``ab``."""
    return "".join(line[0] for line in text.split("\n") if line)

"""Builds a search tree while a sampler runs. Nothing that was generated is ever taken out."""

from dataclasses import replace

import numpy as np

from butwait.engines.engine import Continuation
from butwait.records import Counts, Node, Population, SearchTree
from butwait.reward_models.reward_model import Step
from butwait.search.weights import normalise

ROOT = 0
"""Index of the root node."""


class TreeBuilder:
    """The growing tree of one problem.

    Args:
        problem_id: the problem.
        sampler: the sampler's name.
        prompt_ids: int32 (p,), the prompt's tokens.
    """

    def __init__(self, problem_id: str, sampler: str, prompt_ids: np.ndarray) -> None:
        self._problem_id = problem_id
        self._sampler = sampler
        self._prompt_ids = prompt_ids
        root = Node(-1, np.zeros(0, np.int32), "", np.zeros(0, np.float32), "step")
        self.nodes = [root]
        """Without rewards, which come after the steps; see ``rewards``."""
        self._rewards = [0.0]
        self._populations: list[Population] = []
        self._policy_tokens = self._prefilled_tokens = self._reward_tokens = 0

    def add(self, parent: int, step: Continuation) -> int:
        """Adds one step below ``parent``, counts its tokens and returns its node."""
        self.nodes.append(Node(parent, step.token_ids, step.text, step.logprobs, step.finish))
        self._rewards.append(float("nan"))
        self._policy_tokens += len(step.token_ids)
        self._prefilled_tokens += step.prefilled_tokens
        return len(self.nodes) - 1

    def set_reward(self, node: int, logit: float) -> None:
        """Records the reward model's logit for the path up to ``node``."""
        self._rewards[node] = logit

    def count_reward_tokens(self, tokens: int) -> None:
        """Counts tokens that the reward model ran."""
        self._reward_tokens += tokens

    def add_population(self, population: Population) -> None:
        """Records the population after one extension."""
        self._populations.append(population)

    def rewards(self, nodes: np.ndarray) -> np.ndarray:
        """float64 (N,): the reward logits of these nodes, NaN where there is none."""
        return np.array([self._rewards[node] for node in nodes.tolist()])

    def path(self, node: int) -> list[int]:
        """Nodes from the root's child down to ``node``."""
        up = []
        while node != ROOT:
            up.append(node)
            node = self.nodes[node].parent
        return up[::-1]

    def step(self, node: int) -> Step:
        """The step of a node, as a reward model reads it."""
        return Step(self.nodes[node].token_ids, self.nodes[node].text)

    def build(self, log_weights: np.ndarray, log_evidence: float | None) -> SearchTree:
        """The finished tree; its leaves are the last population.

        Args:
            log_weights: float64 (N,), final, in nats; they are normalised here. All -inf is the
                outcome ``extinct``.
            log_evidence: in nats, or None.
        """
        scored = zip(self.nodes, self._rewards, strict=True)
        return SearchTree(
            problem_id=self._problem_id,
            sampler=self._sampler,
            prompt_ids=self._prompt_ids,
            nodes=[replace(node, reward_logit=reward) for node, reward in scored],
            populations=self._populations,
            leaves=self._populations[-1].nodes,
            log_weights=normalise(log_weights),
            log_evidence=log_evidence,
            outcome="extinct" if np.all(log_weights == -np.inf) else "complete",
            counts=Counts(self._policy_tokens, self._prefilled_tokens, self._reward_tokens),
        )

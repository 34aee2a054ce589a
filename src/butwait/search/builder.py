"""Builds a search tree while a sampler runs. Nothing that was generated is ever taken out."""

import math
import time
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from butwait.engines.engine import Continuation, Prefix
from butwait.records import Counts, Node, Population, SearchTree, Timings
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
        self._reward_tokens = [0]
        self.populations: list[Population] = []
        """In the order in which they were recorded."""
        self._started = time.monotonic()
        self._generation: dict[int, float] = {}
        self._scoring: dict[int, float] = {}

    def add(self, parent: int, step: Continuation) -> int:
        """Adds one step below ``parent`` with what it cost, and returns its node."""
        return self._append(
            Node(
                parent,
                step.token_ids,
                step.text,
                step.logprobs,
                step.finish,
                prefilled_tokens=step.prefilled_tokens,
                overshoot_tokens=step.overshoot_tokens,
            )
        )

    def insert(self, parent: int, token_ids: np.ndarray, text: str) -> int:
        """Adds text that was not sampled below ``parent`` and returns its node."""
        logprobs = np.full(len(token_ids), np.nan, np.float32)
        return self._append(Node(parent, token_ids, text, logprobs, "inserted"))

    def graft(self, parent: int, node: int, logprobs: np.ndarray) -> int:
        """Adds the step of ``node`` below another parent and returns its new node. Its tokens were
        sampled in the old place; they have other log-probabilities, float32 (n,), here."""
        whole = self.nodes[node]
        return self._append(
            replace(
                whole,
                parent=parent,
                logprobs=logprobs,
                prefilled_tokens=0,
                overshoot_tokens=-len(whole.token_ids),
            )
        )

    def split(self, node: int, tokens: int, text: str) -> int:
        """Cuts the end off a step, so that another path can branch off before it.

        Args:
            node: a step without children.
            tokens: how many of its tokens its end has.
            text: the text of its end.

        Returns:
            The end's own node, below ``node``, with the finish, the reward and the overshoot of
            the whole; what was prefilled stays with the beginning.
        """
        whole, at = self.nodes[node], len(self.nodes[node].token_ids) - tokens
        self.nodes[node] = replace(
            whole,
            token_ids=whole.token_ids[:at],
            text=whole.text[: len(whole.text) - len(text)],
            logprobs=whole.logprobs[:at],
            finish="step",
            overshoot_tokens=0,
        )
        end = self._append(
            Node(
                node,
                whole.token_ids[at:],
                text,
                whole.logprobs[at:],
                whole.finish,
                overshoot_tokens=whole.overshoot_tokens,
            )
        )
        self._rewards[end], self._rewards[node] = self._rewards[node], float("nan")
        self._reward_tokens[end], self._reward_tokens[node] = self._reward_tokens[node], 0
        return end

    def _append(self, node: Node) -> int:
        self.nodes.append(node)
        self._rewards.append(float("nan"))
        self._reward_tokens.append(0)
        return len(self.nodes) - 1

    def set_reward(self, node: int, logit: float) -> None:
        """Records the reward model's logit for the path up to ``node``."""
        self._rewards[node] = logit

    def truncate(self, node: int, logit: float) -> None:
        """Ends the path of a node that is longer than the reward model takes, whatever the policy
        ended it with: it counts as truncated. ``logit`` is the last that is known of the path; NaN
        counts as 0, as at the root."""
        self.nodes[node] = replace(self.nodes[node], finish="length", too_long=True)
        self._rewards[node] = 0.0 if math.isnan(logit) else logit

    def count_prefilled_tokens(self, node: int, tokens: int) -> None:
        """Counts tokens that the policy ran for a node without sampling them."""
        at = self.nodes[node]
        self.nodes[node] = replace(at, prefilled_tokens=at.prefilled_tokens + tokens)

    def count_reward_tokens(self, node: int, tokens: int) -> None:
        """Counts tokens that the reward model ran for a node."""
        self._reward_tokens[node] += tokens

    def time_generation(self, nodes: Iterable[int], seconds: float) -> None:
        """Records how long the policy took for these nodes, which were asked for at once."""
        self._generation |= dict.fromkeys(nodes, seconds)

    def time_scoring(self, nodes: Iterable[int], seconds: float) -> None:
        """Records how long the reward model took for these nodes, which were asked for at once."""
        self._scoring |= dict.fromkeys(nodes, seconds)

    def add_population(self, population: Population) -> None:
        """Records the population after one extension."""
        self.populations.append(population)

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

    def prefix(self, node: int) -> Prefix:
        """The path to a node, without a handle."""
        path = [self.nodes[i] for i in self.path(node)]
        token_ids = np.concatenate([self._prompt_ids, *(at.token_ids for at in path)])
        return Prefix(token_ids, len(self._prompt_ids), "".join(at.text for at in path))

    def step(self, node: int) -> Step:
        """The step of a node, as a reward model reads it."""
        at = self.nodes[node]
        return Step(at.token_ids, at.text, at.logprobs)

    def build(
        self,
        log_weights: np.ndarray,
        log_evidence: float | None,
        leaves: np.ndarray | None = None,
    ) -> SearchTree:
        """The finished tree.

        Args:
            log_weights: float64 (M,), final, in nats; they are normalised here. All -inf is the
                outcome ``extinct``.
            log_evidence: in nats, or None.
            leaves: int32 (M,); None: the last population.
        """
        rewarded = zip(self.nodes, self._rewards, self._reward_tokens, strict=True)
        nodes = [_with_reward(node, reward, tokens) for node, reward, tokens in rewarded]
        return SearchTree(
            problem_id=self._problem_id,
            sampler=self._sampler,
            prompt_ids=self._prompt_ids,
            nodes=nodes,
            populations=self.populations,
            leaves=self.populations[-1].nodes if leaves is None else leaves,
            log_weights=normalise(log_weights),
            log_evidence=log_evidence,
            outcome="extinct" if np.all(log_weights == -np.inf) else "complete",
            counts=total_counts(nodes),
            timings=self._timings(),
        )

    def _timings(self) -> Timings:
        per_node = [np.full(len(self.nodes), np.nan, np.float32) for _ in range(2)]
        for seconds, known in zip(per_node, (self._generation, self._scoring), strict=True):
            seconds[list(known)] = list(known.values())
        return Timings(time.monotonic() - self._started, *per_node)


def _with_reward(node: Node, reward: float, tokens: int) -> Node:
    # dataclasses.replace takes three times as long, and there are thousands of nodes a tree.
    return Node(
        node.parent,
        node.token_ids,
        node.text,
        node.logprobs,
        node.finish,
        reward,
        node.prefilled_tokens,
        node.overshoot_tokens,
        tokens,
        node.too_long,
    )


def total_counts(nodes: Iterable[Node]) -> Counts:
    """What all nodes cost together."""
    policy = prefilled = reward = 0
    for node in nodes:
        if node.finish != "inserted":
            policy += len(node.token_ids) + node.overshoot_tokens
        prefilled += node.prefilled_tokens
        reward += node.reward_tokens
    return Counts(policy, prefilled, reward)

"""The search tree: everything a sampler generated, dead particles included.

Shapes: N particles in a population, n tokens in a node, M leaves. Log-weights and
log-probabilities are in nats; counts are in tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from butwait.records.grade import Grade

Finish = Literal["step", "step_limit", "eos", "box", "length"]
"""Why a continuation ended. ``step`` and ``step_limit``: the path goes on; ``eos`` and ``box``:
the answer is complete; ``length``: the path's own limit, it ends truncated."""

OPEN: frozenset[str] = frozenset({"step", "step_limit"})
COMPLETE: frozenset[str] = frozenset({"eos", "box"})


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One step of reasoning.

    Attributes:
        parent: index of the parent node; -1 for the root.
        token_ids: int32 (n,), the tokens of this step only; the root holds none.
        text: the tokens' text (a view, never tokenised again); without special tokens.
        logprobs: float32 (n,), nats per token under the sampled policy.
        finish: why the step ended; "step" for the root.
        reward_logit: log-odds of the reward model for the path up to here; 0 at the root, NaN
            where the sampler asked for none.
    """

    parent: int
    token_ids: np.ndarray
    text: str
    logprobs: np.ndarray
    finish: Finish
    reward_logit: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Population:
    """The N particles after one extension and re-weighting.

    Attributes:
        nodes: int32 (N,), the node each particle stands on.
        ancestors: int32 (N,), the slot of the previous population that each particle came from
            (the identity where it was not resampled).
        log_weights: float64 (N,), accumulated and unnormalised, after this step's potential and
            before any later resampling. They start from 0 after a resampling.
        resampled: whether the ancestors were drawn by resampling.
    """

    nodes: np.ndarray
    ancestors: np.ndarray
    log_weights: np.ndarray
    resampled: bool


@dataclass(frozen=True, slots=True)
class Counts:
    """What a tree cost, in tokens.

    Attributes:
        policy_tokens: tokens sampled from the policy.
        prefilled_tokens: tokens the policy ran without sampling them (prompts, lost caches).
        reward_tokens: tokens the reward model ran.
    """

    policy_tokens: int = 0
    prefilled_tokens: int = 0
    reward_tokens: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.policy_tokens + other.policy_tokens,
            self.prefilled_tokens + other.prefilled_tokens,
            self.reward_tokens + other.reward_tokens,
        )


@dataclass(slots=True, eq=False, repr=False)
class SearchTree:
    """What one sampler did on one problem.

    Attributes:
        problem_id: the problem's id.
        sampler: the sampler's name.
        prompt_ids: int32 (p,), the prompt's tokens.
        nodes: nodes[0] is the root; a parent stands before its children.
        populations: one per step, in order; any of them can be rebuilt exactly.
        leaves: int32 (M,), the node of each final particle. Particles that share a node stand
            here once each.
        log_weights: float64 (M,), normalised: logsumexp is 0. Truncated leaves keep their weight
            (they count in the evidence); a vote leaves them out.
        log_evidence: log of the unbiased estimate of the normalising constant; None where the
            sampler has none.
        outcome: ``complete``, or ``extinct`` where every weight became zero.
        counts: what it cost.
        grades: node index -> verdict, for finished leaves, filled in after the search (a
            sampler never sees a gold answer).
    """

    problem_id: str
    sampler: str
    prompt_ids: np.ndarray
    nodes: list[Node]
    populations: list[Population]
    leaves: np.ndarray
    log_weights: np.ndarray
    log_evidence: float | None
    outcome: Literal["complete", "extinct"]
    counts: Counts
    grades: dict[int, Grade] = field(default_factory=dict)

    def __repr__(self) -> str:
        # Short: asyncio.run makes the repr of what its coroutine returns, and a tree's own would
        # print every array.
        return (
            f"SearchTree({self.problem_id!r}, {self.sampler!r}, {len(self.nodes)} nodes, "
            f"{len(self.leaves)} leaves, {self.outcome!r})"
        )

    def path(self, node: int) -> Iterator[int]:
        """Node indices from the root's child down to ``node``, the root left out."""
        up = []
        while node > 0:
            up.append(node)
            node = self.nodes[node].parent
        return reversed(up)

    def path_tokens(self, node: int) -> np.ndarray:
        """int32: the completion's tokens from the root to ``node``."""
        parts = [self.nodes[i].token_ids for i in self.path(node)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def path_text(self, node: int) -> str:
        """The completion's text from the root to ``node``."""
        return "".join(self.nodes[i].text for i in self.path(node))

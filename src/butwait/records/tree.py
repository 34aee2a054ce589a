"""The search tree: everything a sampler generated, dead particles included.

Shapes: N particles in a population, n tokens in a node, M leaves. Log-weights and
log-probabilities are in nats; counts are in tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from butwait.records.grade import Grade

Finish = Literal["step", "step_limit", "eos", "box", "length", "inserted"]
"""Why a continuation ended. ``step`` and ``step_limit``: the path goes on; ``eos`` and ``box``:
the answer is complete; ``length``: the path's own limit, or the reward model's (``too_long``), it
ends truncated; ``inserted``: text that was put in and not sampled, the path goes on."""

OPEN: frozenset[str] = frozenset({"step", "step_limit", "inserted"})
COMPLETE: frozenset[str] = frozenset({"eos", "box"})


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One step of reasoning.

    Attributes:
        parent: index of the parent node; -1 for the root.
        token_ids: int32 (n,), the tokens of this step only; the root holds none.
        text: the tokens' text (a view, never tokenised again); without special tokens.
        logprobs: float32 (n,), nats per token under the sampled policy; NaN for inserted tokens.
        finish: why the step ended; "step" for the root.
        reward_logit: log-odds of the reward model for the path up to here; 0 at the root, NaN
            where the sampler asked for none.
        prefilled_tokens: tokens the policy ran for this step without sampling them.
        overshoot_tokens: tokens sampled beyond the step's end and thrown away. A step that was
            taken over from another path was not sampled here at all: minus its tokens.
        reward_tokens: tokens the reward model ran for this step.
        too_long: whether the path ends here since it is longer than the reward model takes; its
            finish is ``length`` then, whatever the policy ended it with, and its reward that of
            the path before it.
    """

    parent: int
    token_ids: np.ndarray
    text: str
    logprobs: np.ndarray
    finish: Finish
    reward_logit: float = 0.0
    prefilled_tokens: int = 0
    overshoot_tokens: int = 0
    reward_tokens: int = 0
    too_long: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Population:
    """The N particles after one extension and re-weighting.

    Attributes:
        nodes: int32 (N,), the node each particle stands on.
        ancestors: int32 (N,), the slot of the previous population that each particle came from
            (the identity where it was not resampled); -1 where a new sweep starts at the root.
        log_weights: float64 (N,), accumulated and unnormalised, after this step's potential and
            before any later resampling. They start from 0 after a resampling. In a search by
            rank, the tempered logits of this step.
        resampled: whether the ancestors were chosen anew, by a draw or by rank.
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
        prefilled_tokens: tokens the policy ran without sampling them (prompts, inserted text,
            lost caches).
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


@dataclass(frozen=True, slots=True, eq=False)
class Timings:
    """When a tree's search waited, in seconds of wall time. Differs from run to run.

    Attributes:
        total: from the search's begin to its end, other problems' turns on the engine included.
        generation: float32 (K,), from asking for a step to having it; NaN where nothing was asked.
        scoring: float32 (K,), from asking for a step's reward to having it; NaN likewise.
    """

    total: float
    generation: np.ndarray
    scoring: np.ndarray


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
        timings: no part of the tree's identity, and stored apart from it; None where unknown.
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
    timings: Timings | None = None

    def __repr__(self) -> str:
        # Short: asyncio.run makes the repr of what its coroutine returns, and a tree's own would
        # print every array.
        return (
            f"SearchTree({self.problem_id!r}, {self.sampler!r}, {len(self.nodes)} nodes, "
            f"{len(self.leaves)} leaves, {self.outcome!r})"
        )

    @property
    def solved(self) -> bool:
        """Whether some path of it was verified."""
        return any(grade.correct for grade in self.grades.values())

    @property
    def too_long(self) -> int:
        """Paths that were cut since they were longer than the reward model takes."""
        return sum(node.too_long for node in self.nodes)

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

    def path_sampled(self, node: int) -> np.ndarray:
        """bool: which of ``path_tokens(node)`` the policy drew; the others were inserted, and
        belong in no loss and no ratio of probabilities."""
        steps = [self.nodes[i] for i in self.path(node)]
        drawn = np.array([step.finish != "inserted" for step in steps], bool)
        return np.repeat(drawn, [len(step.token_ids) for step in steps])

    def path_text(self, node: int) -> str:
        """The completion's text from the root to ``node``."""
        return "".join(self.nodes[i].text for i in self.path(node))

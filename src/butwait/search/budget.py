"""What each node of a search tree cost: tokens and floating-point operations.

``docs/budget.md`` says what is counted. Seconds are apart from the tree, in its ``timings``.
"""

from dataclasses import dataclass

import numpy as np

from butwait.engines.flops import DecoderFlops
from butwait.search.outline import Outline


@dataclass(frozen=True, slots=True, eq=False)
class NodeCosts:
    """Costs of the K nodes of one tree. Their sums are the tree's ``counts``.

    Attributes:
        policy_tokens: int64 (K,), tokens sampled for each node, thrown away ones included.
        prefilled_tokens: int64 (K,).
        reward_tokens: int64 (K,).
        policy_flops: float64 (K,), of sampled and prefilled tokens; None where the policy's shape
            is unknown.
        reward_flops: float64 (K,); None where the reward model's shape is unknown.
    """

    policy_tokens: np.ndarray
    prefilled_tokens: np.ndarray
    reward_tokens: np.ndarray
    policy_flops: np.ndarray | None
    reward_flops: np.ndarray | None


def node_costs(
    tree: Outline, policy: DecoderFlops | None = None, reward_model: DecoderFlops | None = None
) -> NodeCosts:
    """The cost of every node.

    A step's sampled tokens come after the prompt and the path before it; prefilled tokens are
    the last ones before the step, reward-model tokens the last ones of the path with the step. A
    reward model may have a longer template than the policy; the part of its attention over that is
    left out, except where it ran more tokens than the path has.
    """
    end = tree.prompt_tokens + tree.along_paths(tree.token_counts)
    start = end - tree.token_counts
    sampled = np.where(tree.inserted, 0, tree.token_counts + tree.overshoot).astype(np.int64)
    prefilled, rewarded = tree.prefilled.astype(np.int64), tree.rewarded.astype(np.int64)
    return NodeCosts(
        policy_tokens=sampled,
        prefilled_tokens=prefilled,
        reward_tokens=rewarded,
        policy_flops=None
        if policy is None
        else policy.forward(start, sampled)
        + policy.forward(np.maximum(start - prefilled, 0), prefilled),
        reward_flops=None
        if reward_model is None
        else reward_model.forward(np.maximum(end - rewarded, 0), rewarded),
    )

"""Scoring what is there already: the steps of a text, the nodes of a tree."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from butwait.records import Problem, SearchTree
from butwait.reward_models.local import NOTHING, step_ids
from butwait.reward_models.reward_model import Path, PathTooLongError, RewardModel, Step, scores


def as_steps(texts: Sequence[str], end: str, tokenizer: Any) -> tuple[Step, ...]:
    """Steps from texts, each but the last with ``end`` after it.

    ``tokenizer`` is that of the policy whose token ids the reward model takes; None: it takes
    texts, and the steps carry no ids.
    """
    whole = [*(text + end for text in texts[:-1]), texts[-1]]
    ids = [NOTHING if tokenizer is None else step_ids(tokenizer, text) for text in whole]
    return tuple(map(Step, ids, whole))


async def step_logits(model: RewardModel, problem: Problem, steps: Sequence[Step]) -> np.ndarray:
    """float64 (steps,): the logit of every prefix of a path. Raises PathTooLongError for a path
    that is longer than the model takes."""
    logits: list[float] = []
    handle = None
    try:
        for n in range(1, len(steps) + 1):
            (score,) = await scores(model, problem, [Path(tuple(steps[:n]), handle)])
            _release(model, [handle])
            handle = score.handle
            if score.too_long:
                raise PathTooLongError(f"step {n} ends beyond what the reward model takes")
            logits.append(score.logit)
    finally:
        _release(model, [handle])
    return np.array(logits)


async def node_logits(model: RewardModel, problem: Problem, tree: SearchTree) -> np.ndarray:
    """float64 (K,): the logit of every node of a tree; NaN at the root, and where a path is longer
    than the model takes.

    All nodes of one depth are scored at a time, each from its parent's handle.
    """
    logits = np.full(len(tree.nodes), np.nan)
    steps: dict[int, tuple[Step, ...]] = {0: ()}
    handles: dict[int, Any] = {}
    try:
        while children := [i for i, node in enumerate(tree.nodes) if node.parent in steps]:
            paths = {i: (*steps[tree.nodes[i].parent], _step(tree, i)) for i in children}
            asked = [Path(paths[i], handles.get(tree.nodes[i].parent)) for i in children]
            found = dict(zip(children, await scores(model, problem, asked), strict=True))
            _release(model, list(handles.values()))
            found = {i: score for i, score in found.items() if not score.too_long}
            steps = {i: paths[i] for i in found}
            handles = {i: score.handle for i, score in found.items()}
            logits[list(found)] = [score.logit for score in found.values()]
    finally:
        _release(model, list(handles.values()))
    return logits


def _step(tree: SearchTree, i: int) -> Step:
    node = tree.nodes[i]
    return Step(node.token_ids, node.text, node.logprobs)


def _release(model: RewardModel, handles: Sequence[Any]) -> None:
    model.release([handle for handle in handles if handle is not None])

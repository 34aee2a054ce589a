"""From the leaves of a search to one answer.

Only complete leaves with an answer and a weight above zero take part: a truncated path never
votes. ``weighted_vote`` and ``sample`` use the final weights and nothing else, so that no reward
is counted twice.
"""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np

from butwait.records import COMPLETE, Key, SearchTree
from butwait.search.resampling import inverse_cdf
from butwait.search.settings import SelectionMethod

Equal = Callable[[str, str], bool | Awaitable[bool]]
"""Whether two answers are the same; a plain or an async function."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The leaf that speaks for a search.

    Attributes:
        leaf: position in ``tree.leaves``.
        node: its node.
        answer: its answer; None where no leaf could take part. Then the leaf is the one of the
            highest weight, so that there is a text to look at.
    """

    leaf: int
    node: int
    answer: str | None


@dataclass(frozen=True, slots=True)
class AnswerClass:
    """Leaves with the same answer, in the order of ``tree.leaves``."""

    answer: str
    leaves: list[int]


async def select(
    tree: SearchTree,
    method: SelectionMethod,
    extract: Callable[[str], str | None],
    equal: Equal,
    key: Key,
) -> Selection:
    """Chooses one leaf.

    Args:
        tree: a finished search.
        method: ``weighted_vote``: the answer with the most weight, by its heaviest leaf;
            ``vote``: the answer with the most leaves, by the same; ``argmax``: the leaf with the
            highest final reward; ``sample``: a leaf drawn by the final weights. Ties go to the
            first leaf.
        extract: the answer in a completion's text, or None.
        equal: groups answers. An answer joins the first class whose first answer equals it.
        key: the search's key; draws come from ``key.derive("select")``.
    """
    answers = leaf_answers(tree, extract)
    voters = [leaf for leaf, answer in enumerate(answers) if answer is not None]
    if not voters:
        leaf = int(np.argmax(tree.log_weights))
        return Selection(leaf, int(tree.leaves[leaf]), None)
    if method == "argmax":
        rewards = [tree.nodes[tree.leaves[leaf]].reward_logit for leaf in voters]
        leaf = voters[int(np.argmax(rewards))]
    elif method == "sample":
        draw = key.derive("select").uniforms(1)
        leaf = voters[int(inverse_cdf(np.exp(tree.log_weights[voters]), draw)[0])]
    else:
        classes = await answer_classes(answers, equal)
        leaf = _winner(classes, tree.log_weights, weighted=method == "weighted_vote")
    return Selection(leaf, int(tree.leaves[leaf]), answers[leaf])


def leaf_answers(tree: SearchTree, extract: Callable[[str], str | None]) -> list[str | None]:
    """The answer of every leaf; None for a leaf that has no vote."""
    answers: dict[int, str | None] = {}
    for node in set(tree.leaves.tolist()):
        complete = tree.nodes[node].finish in COMPLETE
        answers[node] = extract(tree.path_text(node)) if complete else None
    return [
        answers[node] if log_weight > -np.inf else None
        for node, log_weight in zip(tree.leaves.tolist(), tree.log_weights, strict=True)
    ]


async def answer_classes(answers: list[str | None], equal: Equal) -> list[AnswerClass]:
    """Groups leaves by answer, in order of first appearance.

    Equality of answers need not be transitive; comparing with the first answer of each class, in
    order, makes the result the same every time.
    """
    classes: list[AnswerClass] = []
    known: dict[str, AnswerClass] = {}
    for leaf, answer in enumerate(answers):
        if answer is None:
            continue
        if answer not in known:
            known[answer] = await _class_of(answer, classes, equal)
        known[answer].leaves.append(leaf)
    return classes


async def _class_of(answer: str, classes: list[AnswerClass], equal: Equal) -> AnswerClass:
    """The class that ``answer`` belongs to, made if there is none."""
    for candidate in classes:
        same = equal(candidate.answer, answer)
        if await same if inspect.isawaitable(same) else same:
            return candidate
    classes.append(AnswerClass(answer, []))
    return classes[-1]


def _winner(classes: list[AnswerClass], log_weights: np.ndarray, *, weighted: bool) -> int:
    """The heaviest leaf of the winning class; the first of equals."""
    totals = [
        float(np.sum(np.exp(log_weights[c.leaves]))) if weighted else len(c.leaves) for c in classes
    ]
    leaves = classes[int(np.argmax(totals))].leaves
    return leaves[int(np.argmax(log_weights[leaves]))]

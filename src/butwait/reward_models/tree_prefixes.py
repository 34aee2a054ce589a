"""What recorded search trees say of a reward model: scored nodes and the outcomes below them."""

from collections.abc import Iterable

import numpy as np

from butwait.records import COMPLETE, Node, SearchTree
from butwait.reward_models.audit import ScoredPrefixes


def tree_prefixes(trees: Iterable[tuple[SearchTree, np.ndarray]]) -> ScoredPrefixes:
    """Every scored node through which a gradable path goes.

    Args:
        trees: one per question, each with its nodes' logits, float64 (K,); NaN: not scored.

    A finished path counts once, however many particles stand on it, and also where it died in a
    later resampling. A truncated one counts as not verified; an ungradable one is no label.
    """
    rows: list[tuple[int, int, float, int, int]] = []
    for question, (tree, logits) in enumerate(trees):
        verified, completions = outcomes(tree)
        for node, depth in enumerate(_depths(tree.nodes).tolist()):
            if node and completions[node] and not np.isnan(logits[node]):
                counts = int(verified[node]), int(completions[node])
                rows.append((question, depth, float(logits[node]), *counts))
    columns = np.array(rows, np.float64).reshape(-1, 5).T
    questions, depths, _, good, total = columns.astype(np.int64)
    return ScoredPrefixes(questions, depths, columns[2], good, total)


def outcomes(tree: SearchTree) -> tuple[np.ndarray, np.ndarray]:
    """Verified and gradable paths that go through each node or end at it, int64 (K,) each."""
    verified = np.zeros(len(tree.nodes), np.int64)
    completions = np.zeros(len(tree.nodes), np.int64)
    for i, node in enumerate(tree.nodes):
        grade = tree.grades.get(i)
        verified[i] = grade is not None and grade.correct
        graded = node.finish in COMPLETE and grade is not None and grade.status != "ungradable"
        completions[i] = graded or node.finish == "length"
    for i in range(len(tree.nodes) - 1, 0, -1):
        verified[tree.nodes[i].parent] += verified[i]
        completions[tree.nodes[i].parent] += completions[i]
    return verified, completions


def _depths(nodes: list[Node]) -> np.ndarray:
    depths = np.zeros(len(nodes), np.int64)
    for i, node in enumerate(nodes[1:], start=1):
        depths[i] = depths[node.parent] + 1
    return depths

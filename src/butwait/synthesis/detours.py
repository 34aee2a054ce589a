"""Detours of a correct path: where it could leave into a dead branch of its tree, and how deep.

Dead is not wrong. A branch is dead where no correct path of its tree goes through it, nor through
a branch of the very same tokens. That its particles were not resampled, or ended wrongly, does not
make its first steps wrong; ``evidence`` says what is known.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from butwait.records import SearchTree
from butwait.synthesis.built import StoredTree
from butwait.synthesis.cut import BOX
from butwait.synthesis.draws import draw
from butwait.synthesis.settings import BacktrackSettings

USABLE = frozenset({"step", "step_limit"})
"""Steps that a detour may hold: sampled, and not the last of a path."""


@dataclass(frozen=True, slots=True)
class Detour:
    """A way into a dead branch.

    Attributes:
        fork: how many steps of the path are walked before it leaves.
        nodes: the branch's nodes, from the child of the fork on.
        answered_wrong: whether a path through all of them, or the same steps, was finished and
            graded wrong.
    """

    fork: int
    nodes: tuple[int, ...]
    answered_wrong: bool

    @property
    def end(self) -> int:
        return self.nodes[-1]


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What completing a branch gave: of so many gradable completions, so many verified; and what
    it cost in tokens."""

    completions: int
    verified: int
    policy_tokens: int = 0
    prefilled_tokens: int = 0


Branch = tuple[str, str, int]
"""Stage, problem id and last node of a branch."""

Confirmations = Mapping[Branch, Confirmation]


class DeadBranches:
    """The dead branches of one tree."""

    def __init__(self, stored: StoredTree) -> None:
        tree = stored.tree
        self._tree = tree
        same = _same_tokens(tree)
        correct = (leaf for leaf, grade in tree.grades.items() if grade.correct)
        alive = {same[node] for node in _ancestry(tree, correct)}
        wrong = (leaf for leaf, grade in tree.grades.items() if grade.status == "wrong")
        led_wrong = {same[node] for node in _ancestry(tree, wrong)}
        self._answered_wrong = {node for node, first in enumerate(same) if first in led_wrong}
        self._children: dict[int, list[int]] = {}
        for node, step in enumerate(tree.nodes):
            dead = same[node] not in alive
            if dead and step.finish in USABLE and len(step.token_ids) and not BOX.search(step.text):
                self._children.setdefault(step.parent, []).append(node)

    def forks(self, leaf: int) -> list[int]:
        """After how many steps of the path to ``leaf`` a dead branch leaves it."""
        path = list(self._tree.path(leaf))
        return [i for i, node in enumerate([0, *path[:-1]]) if self._children.get(node)]

    def detours(
        self, leaf: int, settings: BacktrackSettings, generator: np.random.Generator
    ) -> list[Detour]:
        """Drawn detours of the path to ``leaf``, by fork; the path has at least one."""
        path, forks = list(self._tree.path(leaf)), self.forks(leaf)
        count = min(draw(settings.detours, generator), len(forks))
        weights = _weights(len(forks), settings.fork)
        chosen = generator.choice(len(forks), count, replace=False, p=weights)
        return [self._detour(forks[i], path, settings, generator) for i in sorted(chosen)]

    def _detour(
        self,
        fork: int,
        path: Sequence[int],
        settings: BacktrackSettings,
        generator: np.random.Generator,
    ) -> Detour:
        nodes = [path[fork - 1] if fork else 0]
        for _ in range(draw(settings.depth, generator)):
            onward = self._children.get(nodes[-1])
            if not onward:
                break
            nodes.append(onward[int(generator.integers(len(onward)))])
        return Detour(fork, tuple(nodes[1:]), nodes[-1] in self._answered_wrong)


def evidence(detour: Detour, branch: Branch, confirmations: Confirmations) -> dict[str, Any]:
    """What is known of a branch, for provenance: ``wrong_answer``, ``completions`` with their
    number, or ``unconfirmed``."""
    if detour.answered_wrong:
        return {"evidence": "wrong_answer"}
    found = confirmations.get(branch)
    if found is None or not found.completions:
        return {"evidence": "unconfirmed"}
    return {
        "evidence": "completions",
        "completions": found.completions,
        "verified": found.verified,
    }


def _weights(forks: int, rule: str) -> np.ndarray:
    ranks = {
        "uniform": np.ones(forks),
        "early": np.arange(forks, 0, -1.0),
        "late": np.arange(1.0, forks + 1),
    }[rule]
    return ranks / ranks.sum()


def _ancestry(tree: SearchTree, leaves: Iterable[int]) -> set[int]:
    """The leaves and every node above them."""
    found: set[int] = set()
    for node in leaves:
        while node >= 0 and node not in found:
            found.add(node)
            node = tree.nodes[node].parent
    return found


def _same_tokens(tree: SearchTree) -> list[int]:
    """For each node, the first node that is reached by the same steps: particles may draw the
    same step, and the copy of a correct one is not wrong because its particle died."""
    first: dict[tuple[int, bytes], int] = {}
    same: list[int] = []
    for node, step in enumerate(tree.nodes):
        above = same[step.parent] if step.parent >= 0 else -1
        same.append(first.setdefault((above, step.token_ids.tobytes()), node))
    return same

"""Dead branches of a tree: detours of a correct path into them, and what completing them gives.

Dead is not wrong. A branch is dead where no path of its tree that is correct, or has no verdict,
goes through it, nor through a branch of the very same tokens. That its particles were not
resampled, or ended wrongly, does not make its first steps wrong; ``Detour.evidence`` says what is
known.

A branch can be completed K times by the policy that searched. If none of K completions verifies,
the share that would is at most 1 - 0.05^(1/K) with 95 % confidence (the exact bound of Clopper and
Pearson 1934 for no success; about 3/K).
"""

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from butwait.engines.engine import Prefix
from butwait.engines.settings import Sampling, StepRule
from butwait.records import COMPLETE, Key, Problem, SearchTree, UserError
from butwait.records.settings import Result, Settings
from butwait.synthesis.builder import Searcher, StoredTree
from butwait.synthesis.pieces import BOX
from butwait.synthesis.settings import (
    FixedNumber,
    GeometricNumber,
    InsertionSettings,
    Number,
    Positive,
    Share,
)
from butwait.workers.job import Opened

if TYPE_CHECKING:
    from butwait.problems.grading import Grader

USABLE = frozenset({"step", "step_limit"})
"""Steps that a detour may hold: sampled, and not the last of a path."""


class DetourSettings(InsertionSettings):
    """Which detours are drawn."""

    detours: Result[Number] = FixedNumber()
    """How many an example has (fewer where its path has fewer dead branches)."""
    depth: Result[Number] = GeometricNumber(kind="geometric", mean=2.0)
    """Steps into a dead branch (fewer where it ends earlier)."""
    fork: Result[Literal["uniform", "early", "late"]] = "uniform"
    """Where on the path branches leave: ``early`` and ``late`` weigh the forks linearly."""


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What completing a branch gave: of so many gradable completions, so many verified; and what
    it cost in tokens."""

    completions: int
    verified: int
    policy_tokens: int = 0
    prefilled_tokens: int = 0


class ConfirmSettings(Settings):
    """Completions that decide whether a dead branch is wrong."""

    completions: Result[Positive] = 8
    """How many times a branch is completed by the policy that searched."""
    at_most: Result[Share] = 0.0
    """The share of completions that may verify; above it the branch is not used."""

    def refutes(self, found: Confirmation | None) -> bool:
        """Whether more of a branch's completions verified than may."""
        if found is None or not found.completions:
            return False
        return found.verified / found.completions > self.at_most


Branch = tuple[str, str, int]
"""Stage, problem id and last node of a branch."""

Confirmations = Mapping[Branch, Confirmation]


@dataclass(frozen=True, slots=True)
class Detour:
    """A way into a dead branch.

    Attributes:
        fork: how many steps of the path are walked before it leaves.
        nodes: the branch's nodes, from the child of the fork on.
        branch: where the branch stands.
        answered_wrong: whether a path through all of them, or the same steps, was finished and
            graded wrong.
    """

    fork: int
    nodes: tuple[int, ...]
    branch: Branch
    answered_wrong: bool

    def evidence(self, confirmations: Confirmations) -> dict[str, Any]:
        """What is known of the branch, for provenance: ``wrong_answer``, ``completions`` with their
        number, or ``unconfirmed``."""
        found = confirmations.get(self.branch)
        if self.answered_wrong:
            return {"evidence": "wrong_answer"}
        if found is None or not found.completions:
            return {"evidence": "unconfirmed"}
        numbers = {"completions": found.completions, "verified": found.verified}
        return {"evidence": "completions", **numbers}


class DeadBranches:
    """The dead branches of one tree."""

    def __init__(self, stored: StoredTree) -> None:
        tree = stored.tree
        self._tree, self._stage = tree, stored.stage
        same = _same_tokens(tree)
        spared = (
            leaf for leaf, grade in tree.grades.items() if grade.status in ("correct", "ungradable")
        )
        alive = {same[node] for node in _ancestry(tree, spared)}
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
        self, leaf: int, settings: DetourSettings, generator: np.random.Generator
    ) -> list[Detour]:
        """Drawn detours of the path to ``leaf``, by fork; the path has at least one."""
        path, forks = list(self._tree.path(leaf)), self.forks(leaf)
        count = min(settings.detours.draw(generator), len(forks))
        weights = _weights(len(forks), settings.fork)
        chosen = generator.choice(len(forks), count, replace=False, p=weights)
        return [self._detour(forks[i], path, settings, generator) for i in sorted(chosen)]

    def _detour(
        self,
        fork: int,
        path: Sequence[int],
        settings: DetourSettings,
        generator: np.random.Generator,
    ) -> Detour:
        nodes = [path[fork - 1] if fork else 0]
        for _ in range(settings.depth.draw(generator)):
            onward = self._children.get(nodes[-1])
            if not onward:
                break
            nodes.append(onward[int(generator.integers(len(onward)))])
        branch = (self._stage, self._tree.problem_id, nodes[-1])
        return Detour(fork, tuple(nodes[1:]), branch, nodes[-1] in self._answered_wrong)


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


def possible_share(completions: int) -> float:
    """The largest share of verified completions that none of so many leaves possible (95 %)."""
    return 1 - 0.05 ** (1 / completions)


class Unfinished(NamedTuple):
    """Branches of one problem that are to be completed, each without its tree.

    Attributes:
        problem: whose answer decides.
        beginnings: of each branch, prompt and completion so far.
        key: the tokens of completion i of a branch are drawn at its own key, particle i.
    """

    problem: Problem
    beginnings: dict[Branch, Prefix]
    key: Key

    def __str__(self) -> str:
        return self.problem.id


@dataclass(frozen=True)
class Completing:
    """The work of confirming: completes each branch to its end and judges the completions.

    A completion that a token limit cuts counts as not verified: the search could not have used it
    either. An ungradable one is left out of both numbers.

    Attributes:
        rule, sampling: of the search.
        completions: how many of each branch.
    """

    rule: StepRule
    sampling: Sampling
    completions: int

    async def __call__(self, opened: Opened, asked: Unfinished) -> dict[Branch, Confirmation]:
        found = await asyncio.gather(
            *(
                self._completed(opened, asked.problem, branch, prefix, asked.key)
                for branch, prefix in asked.beginnings.items()
            )
        )
        return dict(zip(asked.beginnings, found, strict=True))

    async def _completed(
        self, opened: Opened, problem: Problem, branch: Branch, prefix: Prefix, key: Key
    ) -> Confirmation:
        engine, (stage, _, node) = opened.engine, branch
        own = key.derive("confirm", stage, node)
        keys = [own.at(particle=i) for i in range(self.completions)]
        to_the_end = self.rule.model_copy(update={"delimiters": (), "max_step_tokens": None})
        prefixes = [prefix] * self.completions
        ends = await engine.extend(prefixes, to_the_end, self.sampling, keys)
        engine.release([end.prefix for end in ends])
        judge = opened.grader.agrade
        grades = [await judge(prefix.text + end.text, problem, end.finish) for end in ends]
        gradable = [
            (grade.correct and end.finish in COMPLETE)
            for grade, end in zip(grades, ends, strict=True)
            if grade.status != "ungradable"
        ]
        return Confirmation(
            len(gradable),
            sum(gradable),
            sum(len(end.token_ids) + end.overshoot_tokens for end in ends),
            sum(end.prefilled_tokens for end in ends),
        )


async def confirm(
    problem: Problem,
    branches: Mapping[Branch, StoredTree],
    searcher: Searcher,
    grader: "Grader",
    completions: int,
    key: Key,
) -> dict[Branch, Confirmation]:
    """Completes every branch so many times (``Completing``), by the searcher's workers where it has
    some.

    Args:
        problem: whose answer decides.
        branches: the tree of each.
        searcher: the policy that searched; completions run to their end.
        grader: judges the completions.
        completions: how many of each branch.
        key: as of ``Unfinished``.
    """
    beginnings = {
        branch: _beginning(stored.tree, branch[-1]) for branch, stored in branches.items()
    }
    asked = Unfinished(problem, beginnings, key)
    if searcher.do is not None:
        found: dict[Branch, Confirmation] = await searcher.do(asked)
        return found
    assert searcher.engine is not None, "somebody must complete them"
    work = Completing(searcher.rule, searcher.sampling, completions)
    return await work(Opened(searcher.engine, None, grader), asked)


def _beginning(tree: SearchTree, node: int) -> Prefix:
    ids = np.concatenate([tree.prompt_ids, tree.path_tokens(node)])
    return Prefix(ids, len(tree.prompt_ids), tree.path_text(node))


def write_confirmations(path: Path, found: Sequence[Mapping[Branch, Confirmation]]) -> None:
    """One line a question: its branches and what their completion gave."""
    rows = ([[*branch, *astuple(got)] for branch, got in question.items()] for question in found)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_confirmations(path: Path) -> list[dict[Branch, Confirmation]]:
    """What ``write_confirmations`` wrote. UserError where the file is damaged."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [
            {(stage, i, node): Confirmation(*got) for stage, i, node, *got in json.loads(line)}
            for line in lines
        ]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged; remove it and run the stage again") from error

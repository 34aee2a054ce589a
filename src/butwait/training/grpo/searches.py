"""GRPO-Direct's searches: which questions are searched, what is on disk of it, and what is learned
from the trees.

``searches/00000120/<question>.parquet`` is the tree of a question that was searched after optimizer
step 120. A killed training that comes to the step again finds it there. On the way there it does
not use it, as an uninterrupted one could not have: what a step may use depends on its number alone.
"""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from butwait.engines.engine import Engine
from butwait.engines.scheduling.rows import places
from butwait.problems.grading import Grader
from butwait.records import Counts, Key, Problem, SearchTree
from butwait.reward_models.reward_model import RewardModel
from butwait.running.files import atomic_path, write_json
from butwait.search.run import run_sampler
from butwait.search.storage import read_shard, write_shard
from butwait.search.weights import effective_sample_size
from butwait.synthesis.builder import BuildCounts, Material, Prompting, StoredTree
from butwait.synthesis.builders.backtrack import build_backtrack
from butwait.synthesis.solutions import Solution, correct_solutions, grade_paths
from butwait.training.grpo.generation import LikelihoodRow
from butwait.training.grpo.settings import GrpoDirectSettings


@dataclass
class Found:
    """What the searches of one generation gave, on this device.

    Attributes:
        trees: of every question searched, graded; by problem id.
        again: trees of earlier steps that were used once more; by problem id.
        counts: what the searches of this step cost, those that were found on disk included.
        poor: searches below the floors.
        too_long: paths that were longer than the reward model takes.
        mixed_policies: 1 where trees of this step are of two policies after a resume.
        ess: effective sample size of each search, as a share of its particles.
        ancestors: distinct first steps of each, as a share of its particles.
    """

    trees: dict[str, SearchTree] = field(default_factory=dict)
    again: dict[str, SearchTree] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    poor: int = 0
    too_long: int = 0
    mixed_policies: int = 0
    ess: list[float] = field(default_factory=list)
    ancestors: list[float] = field(default_factory=list)

    @property
    def used(self) -> dict[str, SearchTree]:
        """All trees that solutions may be taken from."""
        return self.again | self.trees


@dataclass(frozen=True, eq=False)
class LoopSearch:
    """Searches questions with the policy as it is.

    Attributes:
        settings: of the stage.
        prompting: of the policy.
        grader: judges finished paths.
        folder: where trees are kept.
        key: of the searches; a tree is a function of it, the step, the question and the weights.
    """

    settings: GrpoDirectSettings
    prompting: Prompting
    grader: Grader
    folder: "SearchFolder"
    key: Key

    async def run(
        self,
        problems: Sequence[Problem],
        step: int,
        engine: Engine,
        reward_model: RewardModel | None,
        policy: str,
    ) -> Found:
        """Searches these questions at an optimiser step, but for those that the disk has.

        Args:
            problems: what to search.
            step: optimiser steps done so far.
            engine: the policy.
            reward_model: what guides the search, where the sampler asks for it.
            policy: fingerprint of the weights.
        """
        gate = places(self.settings.concurrency, engine)

        async def one(problem: Problem) -> SearchTree:
            async with gate:
                tree = self.folder.find(problem.id, step)
                if tree is None:
                    key = self.key.derive(step, problem.id)
                    sampler = self.settings.sampler
                    tree = await run_sampler(problem, engine, reward_model, sampler, key)
                    tree.grades.update(await grade_paths(tree, problem, self.grader))
                    self.folder.keep(tree, step)
                return tree

        lately = {
            p.id: self.folder.solved_lately(p.id, step, self.settings.max_age) for p in problems
        }
        again = {name: tree for name, tree in lately.items() if tree is not None}
        asked = [problem for problem in problems if problem.id not in again]
        trees = await asyncio.gather(*map(one, asked))
        found = Found({p.id: tree for p, tree in zip(asked, trees, strict=True)}, again)
        self._judge(found)
        if found.trees:
            found.mixed_policies = int(self.folder.note_policy(step, policy))
        return found

    def solutions(self, tree: SearchTree, key: Key) -> list[Solution]:
        """The unique verified solutions of a tree, at most ``settings.solutions`` of them."""
        pool = correct_solutions([_stored(tree)], self.prompting, BuildCounts())
        most = self.settings.solutions or self.settings.group
        order = key.derive("solutions").generator().permutation(len(pool))
        return [pool[i] for i in sorted(order[:most].tolist())]

    def rows(self, tree: SearchTree, problem: Problem, key: Key) -> list[LikelihoodRow]:
        """What is learned from a tree: detours on the way to its solutions, where they are asked
        for and it has any, else the solutions."""
        wanted, most = self.settings.backtrack, self.settings.solutions or self.settings.group
        if wanted is not None:
            fewer = wanted.model_copy(update={"per_question": min(wanted.per_question, most)})
            material = Material([_stored(tree)], [problem], self.prompting, fewer, key)
            built = build_backtrack(material)
            if built.examples:
                return [
                    LikelihoodRow(problem.id, e.prompt_ids, e.completion_ids, e.loss_mask)
                    for e in built.examples
                ]
        return [likelihood_row(solution) for solution in self.solutions(tree, key)]

    def _judge(self, found: Found) -> None:
        floors = self.settings.floors
        for tree in found.trees.values():
            particles = len(tree.leaves)
            extinct = tree.outcome == "extinct"
            ess = 0.0 if extinct else effective_sample_size(tree.log_weights) / particles
            ancestors = distinct_ancestors(tree) / particles
            found.counts += tree.counts
            found.too_long += tree.too_long
            found.ess.append(ess)
            found.ancestors.append(ancestors)
            found.poor += ess < floors.ess or ancestors < floors.ancestors


def likelihood_row(solution: Solution) -> LikelihoodRow:
    """A verified path with its loss on the tokens that the policy drew: not on inserted text, nor
    on an EOS that was put after a box."""
    tree = solution.source.tree
    sampled = tree.path_sampled(solution.leaf)
    appended = np.zeros(len(solution.token_ids) - len(sampled), bool)
    mask = np.concatenate([sampled, appended])
    return LikelihoodRow(tree.problem_id, tree.prompt_ids, solution.token_ids, mask)


def distinct_ancestors(tree: SearchTree) -> int:
    """Different first steps among the final particles."""
    return len({next(tree.path(leaf), 0) for leaf in tree.leaves.tolist()})


def _stored(tree: SearchTree) -> StoredTree:
    return StoredTree(tree, stage="", shard="", row=0)


class SearchFolder:
    """Trees by optimiser step and question."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def find(self, problem_id: str, step: int) -> SearchTree | None:
        """The tree of this very step."""
        path = self._file(problem_id, step)
        return read_shard(path)[0] if path.exists() else None

    def solved_lately(self, problem_id: str, step: int, max_age: int) -> SearchTree | None:
        """The latest solved tree of a question from the ``max_age`` steps before ``step``."""
        for earlier in range(step - 1, step - 1 - max_age, -1):
            tree = self.find(problem_id, earlier)
            if tree is not None and is_solved(tree):
                return tree
        return None

    def keep(self, tree: SearchTree, step: int) -> None:
        """Stores a graded tree."""
        with atomic_path(self._file(tree.problem_id, step)) as temporary:
            write_shard(temporary, [tree])

    def note_policy(self, step: int, policy: str) -> bool:
        """Notes which policy searched at a step.

        Returns whether another one did so before: then a resumed training does not repeat the
        killed one bit for bit (it need not, on a GPU), and trees of both stand side by side.
        """
        note = self._folder(step) / "policy.json"
        if note.exists():
            return bool(json.loads(note.read_text(encoding="utf-8"))["weights"] != policy)
        write_json(note, {"step": step, "weights": policy})
        return False

    def latest(self, step: int, most: int, oldest: int) -> list[SearchTree]:
        """The ``most`` latest trees up to ``step`` and from ``oldest`` on, the older ones first."""
        trees: list[SearchTree] = []
        folders = [f for f in self._path.glob("*") if f.name.isdigit()]
        for folder in sorted(folders, reverse=True):
            if oldest <= int(folder.name) <= step:
                files = sorted(folder.glob("*.parquet"), reverse=True)[: most - len(trees)]
                trees += [tree for file in files for tree in read_shard(file)]
        return trees[::-1]

    def _folder(self, step: int) -> Path:
        return self._path / f"{step:08d}"

    def _file(self, problem_id: str, step: int) -> Path:
        name = hashlib.sha256(problem_id.encode()).hexdigest()[:20]
        return self._folder(step) / f"{name}.parquet"


def is_solved(tree: SearchTree) -> bool:
    """Whether some path of the tree was verified."""
    return any(grade.correct for grade in tree.grades.values())

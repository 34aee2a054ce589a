"""GRPO-Direct's searches: which questions are searched, and what is learned from the trees."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from butwait.engines.engine import Engine
from butwait.problems.grading import Grader
from butwait.records import Counts, Key, Problem, SearchTree
from butwait.reward_models.reward_model import RewardModel
from butwait.search.run import run_sampler
from butwait.search.weights import effective_sample_size
from butwait.synthesis.builder import BuildCounts, Material, Prompting, StoredTree
from butwait.synthesis.builders.backtrack import build_backtrack
from butwait.synthesis.solutions import Solution, correct_solutions, grade_paths
from butwait.training.grpo.likelihood import LikelihoodRow
from butwait.training.grpo.settings import GrpoDirectSettings
from butwait.training.grpo.solved import SearchFolder


@dataclass
class Found:
    """What the searches of one generation gave, on this device.

    Attributes:
        trees: of every question searched, graded; by problem id.
        again: trees of earlier steps that were used once more; by problem id.
        counts: what the searches of this step cost, those that were found on disk included.
        poor: searches below the floors.
        mixed_policies: 1 where trees of this step are of two policies after a resume.
        ess: effective sample size of each search, as a share of its particles.
        ancestors: distinct first steps of each, as a share of its particles.
    """

    trees: dict[str, SearchTree] = field(default_factory=dict)
    again: dict[str, SearchTree] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    poor: int = 0
    mixed_policies: int = 0
    ess: list[float] = field(default_factory=list)
    ancestors: list[float] = field(default_factory=list)

    @property
    def used(self) -> dict[str, SearchTree]:
        """All trees that solutions may be taken from."""
        return self.again | self.trees


class LoopSearch:
    """Searches questions with the policy as it is.

    Args:
        settings: of the stage.
        prompting: of the policy.
        grader: judges finished paths.
        folder: where trees are kept.
        key: of the searches; a tree is a function of it, the step, the question and the weights.
    """

    def __init__(
        self,
        settings: GrpoDirectSettings,
        prompting: Prompting,
        grader: Grader,
        folder: SearchFolder,
        key: Key,
    ) -> None:
        self._settings = settings
        self._prompting = prompting
        self._grader = grader
        self._folder = folder
        self._key = key

    async def run(
        self,
        problems: Sequence[Problem],
        step: int,
        engine: Engine,
        reward_model: RewardModel | None,
        policy: str,
    ) -> Found:
        """Searches these questions at an optimizer step, but for those that the disk has.

        Args:
            problems: what to search.
            step: optimizer steps done so far.
            engine: the policy.
            reward_model: what guides the search, where the sampler asks for it.
            policy: fingerprint of the weights.
        """
        found, gate = Found(), asyncio.Semaphore(self._settings.concurrency)

        async def one(problem: Problem) -> None:
            old = self._folder.solved_lately(problem.id, step, self._settings.max_age)
            if old is not None:
                found.again[problem.id] = old
                return
            async with gate:
                tree = self._folder.find(problem.id, step)
                if tree is None:
                    key = self._key.derive(step, problem.id)
                    sampler = self._settings.sampler
                    tree = await run_sampler(problem, engine, reward_model, sampler, key)
                    tree.grades.update(await grade_paths(tree, problem, self._grader))
                    self._folder.keep(tree, step)
            found.trees[problem.id] = tree

        await asyncio.gather(*map(one, problems))
        # In the order of the problems, whichever search ended first.
        order = [problem.id for problem in problems]
        found.trees = {i: found.trees[i] for i in order if i in found.trees}
        found.again = {i: found.again[i] for i in order if i in found.again}
        self._judge(found)
        if found.trees:
            found.mixed_policies = int(self._folder.note_policy(step, policy))
        return found

    def solutions(self, tree: SearchTree, key: Key) -> list[Solution]:
        """The unique verified solutions of a tree, at most ``settings.solutions`` of them."""
        pool = correct_solutions([_stored(tree)], self._prompting, BuildCounts())
        most = self._settings.solutions or self._settings.group
        order = key.derive("solutions").generator().permutation(len(pool))
        return [pool[i] for i in sorted(order[:most].tolist())]

    def rows(self, tree: SearchTree, problem: Problem, key: Key) -> list[LikelihoodRow]:
        """What is learned from a tree: detours on the way to its solutions, where they are asked
        for and it has any, else the solutions."""
        if self._settings.backtrack is not None and (found := self._detours(tree, problem, key)):
            return found
        return [likelihood_row(solution) for solution in self.solutions(tree, key)]

    def _detours(self, tree: SearchTree, problem: Problem, key: Key) -> list[LikelihoodRow]:
        wanted = self._settings.backtrack
        assert wanted is not None
        most = min(wanted.per_question, self._settings.solutions or self._settings.group)
        settings = wanted.model_copy(update={"per_question": most})
        material = Material([_stored(tree)], [problem], self._prompting, settings, key)
        built = build_backtrack(material)
        return [
            LikelihoodRow(problem.id, e.prompt_ids, e.completion_ids, e.loss_mask)
            for e in built.examples
        ]

    def _judge(self, found: Found) -> None:
        floors = self._settings.floors
        for tree in found.trees.values():
            particles = len(tree.leaves)
            extinct = tree.outcome == "extinct"
            ess = 0.0 if extinct else effective_sample_size(tree.log_weights) / particles
            ancestors = distinct_ancestors(tree) / particles
            found.counts += tree.counts
            found.ess.append(ess)
            found.ancestors.append(ancestors)
            found.poor += ess < floors.ess or ancestors < floors.ancestors


def likelihood_row(solution: Solution) -> LikelihoodRow:
    """A verified path with its loss on the tokens that the policy drew: not on inserted text, nor
    on an EOS that was put behind a box."""
    tree = solution.source.tree
    sampled = tree.path_sampled(solution.leaf)
    appended = len(solution.token_ids) - len(sampled)
    return LikelihoodRow(
        tree.problem_id,
        tree.prompt_ids,
        solution.token_ids,
        np.concatenate([sampled, np.zeros(appended, bool)]),
    )


def distinct_ancestors(tree: SearchTree) -> int:
    """Different first steps among the final particles."""
    return len({next(tree.path(leaf), 0) for leaf in tree.leaves.tolist()})


def _stored(tree: SearchTree) -> StoredTree:
    return StoredTree(tree, stage="", shard="", row=0)

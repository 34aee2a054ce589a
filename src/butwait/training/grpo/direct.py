"""One generation of ``grpo_direct``: groups, searches, and what is learned from both."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from butwait.engines.engine import Engine
from butwait.records import Key, Problem
from butwait.training.grpo.completions import Completion, completion_of, particles_as_group
from butwait.training.grpo.generation import Generation, GroupSampler, Tally
from butwait.training.grpo.guide import Guide
from butwait.training.grpo.likelihood import LikelihoodRow, mu_at, row_weights
from butwait.training.grpo.searches import Found, LoopSearch
from butwait.training.grpo.settings import GrpoDirectSettings
from butwait.training.grpo.solved import is_solved

Groups = list[list[Completion]]


class DirectSampler(GroupSampler):
    """Draws the groups of the ``grpo_direct`` stage and searches beside them.

    Args:
        settings: of the stage.
        search: searches questions.
        guide: gives the reward model of a step.
        policy: gives the fingerprint of the weights as they are.
        others: what a ``GroupSampler`` takes.
    """

    settings: GrpoDirectSettings

    def __init__(
        self,
        settings: GrpoDirectSettings,
        search: LoopSearch,
        guide: Guide,
        policy: Callable[[], str],
        **others: Any,
    ) -> None:
        super().__init__(settings, **others)
        self._search = search
        self._guide = guide
        self._policy = policy

    async def draw(self, problems: Sequence[Problem], step: int, engine: Engine) -> Generation:
        """The groups of these questions, and the solutions that searches found."""
        key = self._key.derive("direct", step)
        if not self.settings.draws_groups:
            return await self._searched_groups(problems, step, engine, key)
        groups, tally = await self.fresh(problems, step, engine)
        mu = self._mu(step)
        wanted = [p for p, g in zip(problems, groups, strict=True) if self._is_wanted(g, mu)]
        found = await self._searched(wanted, step, engine, tally)
        trained = self._rescued(groups, found, key) if self.settings.mode == "replace" else groups
        made = self.judged(trained, tally, fresh=groups)
        return self._with_solutions(made, problems, found, mu, key)

    async def _searched_groups(
        self, problems: Sequence[Problem], step: int, engine: Engine, key: Key
    ) -> Generation:
        """Groups of particles: every question is searched, and none is sampled besides."""
        tally = Tally()
        found = await self._searched(problems, step, engine, tally)
        size, eos = self.settings.group, self.prompting.eos_token_id
        groups = [
            await particles_as_group(
                found.used[p.id], p, size, self._grader, key.derive("group", p.id), eos
            )
            for p in problems
        ]
        made = self.judged(groups, tally, fresh=())
        return self._with_solutions(made, problems, found, self._mu(step), key)

    def _mu(self, step: int) -> float:
        if self.settings.mode == "expert_iteration":
            return 1.0
        return mu_at(self.progress(step), self.settings.mu, self.settings.mu_until)

    def _is_wanted(self, group: Sequence[Completion], mu: float) -> bool:
        """Whether the question of this fresh group is searched."""
        correct = sum(row.grade.correct for row in group)
        if self.settings.mode == "replace" and correct:
            return False
        if self.settings.mode == "mixed" and mu == 0:
            return False
        graded = sum(row.grade.status != "ungradable" for row in group)
        return graded > 0 and self._rates.rate_with(group[0].problem.id, correct, graded) <= (
            self.settings.search_below
        )

    async def _searched(
        self, problems: Sequence[Problem], step: int, engine: Engine, tally: Tally
    ) -> Found:
        """Searches, and adds what it took to the tally."""
        guide = self._guide.at(step)
        found = await self._search.run(problems, step, engine, guide, self._policy())
        tally.policy_tokens += found.counts.policy_tokens
        tally.search_tokens += found.counts.policy_tokens
        tally.prefilled_tokens += found.counts.prefilled_tokens
        tally.reward_tokens += found.counts.reward_tokens
        tally.searched += len(found.trees)
        tally.solved += sum(map(is_solved, found.trees.values()))
        tally.reused += len(found.again)
        tally.poor += found.poor
        tally.mixed_policies += found.mixed_policies
        return found

    def _rescued(self, groups: Groups, found: Found, key: Key) -> Groups:
        """A verified solution in the place of a random sample of each all-wrong group that has
        one."""
        rescued = []
        for group in groups:
            problem, mine = group[0].problem, list(group)
            tree = found.used.get(problem.id)
            own = key.derive("rescue", problem.id)
            solutions = [] if tree is None else self._search.solutions(tree, own)
            if tree is not None and solutions:
                solution = solutions[0]
                place = int(own.generator().integers(len(group)))
                mine[place] = completion_of(
                    tree,
                    solution.leaf,
                    solution.text,
                    problem,
                    solution.grade,
                    self.prompting.eos_token_id,
                )
            rescued.append(mine)
        return rescued

    def _with_solutions(
        self,
        made: Generation,
        problems: Sequence[Problem],
        found: Found,
        mu: float,
        key: Key,
    ) -> Generation:
        """The generation with its likelihood term. All devices must come here together."""
        rows: list[LikelihoodRow] = []
        if self.settings.learns_solutions:
            by_id = {problem.id: problem for problem in problems}
            for problem_id, tree in found.used.items():
                rows += self._search.rows(tree, by_id[problem_id], key.derive("rows", problem_id))
        used = self._devices.gathered(len(found.used))
        searched = sum(used)
        return replace(
            made,
            rows=rows,
            row_weights=row_weights(rows, searched) if rows else np.zeros(0),
            mu=mu,
            learns=self.settings.learns_solutions and mu > 0 and searched > 0,
            figures=made.figures | self._figures(found, rows, mu, len(used)),
        )

    def _figures(
        self, found: Found, rows: Sequence[LikelihoodRow], mu: float, devices: int
    ) -> dict[str, float]:
        # The log has the mean over devices: counts are made to be the sum.
        seen = {
            "search/questions": float(devices * len(found.trees)),
            "search/reused": float(devices * len(found.again)),
            "search/solutions": float(devices * len(rows)),
            "tokens/search": float(self.tally.search_tokens),
        }
        if self.settings.learns_solutions:
            seen["search/mu"] = mu
        if self._guide.auc is not None:
            seen["prm/auc"] = self._guide.auc
        if found.trees:
            solved = [is_solved(tree) for tree in found.trees.values()]
            seen |= {
                "search/solved": float(np.mean(solved)),
                "search/ess": float(np.mean(found.ess)),
                "search/ancestors": float(np.mean(found.ancestors)),
                "search/poor": found.poor / len(found.trees),
            }
        return seen

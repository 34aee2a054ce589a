"""A search over loaded models: what a stage, ``butwait.search`` and ``butwait solve`` share."""

from dataclasses import dataclass

from butwait.engines.engine import Engine
from butwait.problems.grading import Grader
from butwait.records import Key, Problem, SearchTree
from butwait.reward_models.reward_model import RewardModel
from butwait.search.run import run_sampler
from butwait.search.settings import SamplerSettings
from butwait.synthesis.solutions import grade_paths
from butwait.workers.job import Opened


async def grown(
    problem: Problem,
    engine: Engine,
    reward_model: RewardModel | None,
    sampler: SamplerSettings,
    key: Key,
    grader: Grader,
) -> SearchTree:
    """The problem's tree, its finished paths graded.

    Args:
        key: of the search: ``Key.of(seed, stage)``. The problem's id is derived from it.
        grader: judges paths after the search; the sampler sees no verdict.
    """
    tree = await run_sampler(problem, engine, reward_model, sampler, key.derive(problem.id))
    tree.grades.update(await grade_paths(tree, problem, grader))
    return tree


@dataclass(frozen=True)
class Growing:
    """The work of a search: a problem's tree, graded.

    Attributes:
        sampler: makes it.
        key: of the search.
    """

    sampler: SamplerSettings
    key: Key

    async def __call__(self, opened: Opened, problem: Problem) -> SearchTree:
        given = (opened.engine, opened.reward_model, self.sampler, self.key, opened.grader)
        return await grown(problem, *given)

"""Makes the attempts of one method on one problem set and grades them, resumably.

Every problem is a coroutine of its own and the engine batches whatever waits, across problems and
shards. A finished problem is on disk at once; a stopped evaluation goes on where it was, and its
files are the same bytes as those of an uninterrupted one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from butwait.engines.engine import Engine
from butwait.engines.scheduling.rows import Concurrency, places
from butwait.evaluation.classes import with_classes
from butwait.evaluation.settings import MethodSettings
from butwait.evaluation.tokens import tokens_of
from butwait.problems.answers import read_answer
from butwait.problems.grading import Grader
from butwait.records import Attempt, Key, Problem, SearchTree, UserError
from butwait.reward_models.reward_model import RewardModel
from butwait.running.shards import ShardFormat, map_shards
from butwait.search.run import run_sampler
from butwait.search.selection import select
from butwait.search.settings import SAMPLERS, SamplerSettings
from butwait.synthesis.solutions import grade_path
from butwait.workers.job import Opened

T = TypeVar("T")


async def run_attempts(
    problems: Sequence[Problem],
    engine: Engine,
    reward_model: RewardModel | None,
    grader: Grader,
    method: MethodSettings,
    key: Key,
    folder: Path,
    *,
    token_logprobs: bool = False,
    shard_size: int = 64,
    concurrency: Concurrency = 64,
    on_problem: Callable[[list[Attempt]], None] = lambda attempts: None,
) -> list[Attempt]:
    """Makes what is not on disk yet and returns all attempts: problems in order, then samples.

    Args:
        problems: in a fixed order.
        engine: the policy.
        reward_model: for the methods that need one.
        grader: judges every attempt.
        method: how a problem is attempted.
        key: of the stage, set and method; every problem derives its own from it.
        folder: where ``shard-00000.parquet`` and so on go.
        token_logprobs: whether the files hold each attempt's ``by_token``; what is returned does
            not.
        shard_size: problems in one file, where the folder has none yet.
        concurrency: problems in flight at a time; ``auto``: as many as keep the rows full.
        on_problem: called with the attempts at every problem, stored ones first.

    Raises:
        UserError: a stored shard is unreadable or belongs to another evaluation; the method needs
            a reward model and there is none; the disk is full.
    """
    attempter = _Attempter(engine, reward_model, grader, method, key, token_logprobs)
    gate = places(concurrency, engine)

    async def one(problem: Problem) -> list[Attempt]:
        async with gate:
            return await attempter.attempts(problem)

    return await stored_attempts(
        problems,
        one,
        method.k,
        folder,
        shard_size=shard_size,
        concurrency=len(problems),
        on_problem=on_problem,
    )


async def stored_attempts(
    problems: Sequence[Problem],
    attempt: Callable[[Problem], Awaitable[list[Attempt]]],
    k: int,
    folder: Path,
    *,
    shard_size: int,
    concurrency: int,
    on_problem: Callable[[list[Attempt]], None] = lambda attempts: None,
    instead: Callable[[Problem], list[Attempt]] | None = None,
) -> list[Attempt]:
    """``run_attempts``, of which ``attempt`` makes the k attempts at a problem. ``instead``: as of
    ``map_shards``."""
    from butwait.evaluation.storage import read_shard, write_shard

    paths = await map_shards(
        problems,
        attempt,
        ShardFormat(write_shard, partial(read_shard, tokens=True), brief=read_shard),
        folder,
        shard_size=shard_size,
        concurrency=concurrency,
        on_result=on_problem,
        instead=instead,
    )
    made: list[Attempt] = []
    expected = iter([[problem.id] * k for problem in problems])
    for path in paths:
        stored = read_shard(path)
        ids = [[row.problem_id for row in rows] for rows in stored]
        wanted = list(islice(expected, len(ids) if path != paths[-1] else None))
        if ids != wanted:
            raise UserError(
                f"{path} holds attempts at other problems, or another number of them, than this "
                "evaluation asks for; delete it and run the same command again"
            )
        made += [row for rows in stored for row in rows]
    return made


def never_made(problem: Problem, k: int) -> list[Attempt]:
    """For a problem that could not be attempted: no verdict k times, so that it is left out of
    every rate and named, and never counts as wrong."""
    return [
        Attempt(problem.id, sample, "", "length", None, "ungradable", 0, 0, 0)
        for sample in range(k)
    ]


class Asked(NamedTuple):
    """A problem of a set, and the method that it is attempted by."""

    problem: Problem
    problem_set: str
    method: str

    def __str__(self) -> str:
        return f"{self.problem.id} ({self.problem_set}, {self.method})"


@dataclass(frozen=True)
class Attempting:
    """The work of an evaluation: the attempts at a problem by one of its methods.

    Attributes:
        methods: by name.
        key: of the stage.
        token_logprobs: whether attempts have ``by_token``.
    """

    methods: Mapping[str, MethodSettings]
    key: Key
    token_logprobs: bool

    async def __call__(self, opened: Opened, asked: Asked) -> list[Attempt]:
        method, key = self.methods[asked.method], self.key.derive(asked.problem_set, asked.method)
        attempter = _Attempter(
            opened.engine, opened.reward_model, opened.grader, method, key, self.token_logprobs
        )
        return await attempter.attempts(asked.problem)


@dataclass(frozen=True, slots=True)
class _Attempter:
    """Attempts problems by one method."""

    engine: Engine
    reward_model: RewardModel | None
    grader: Grader
    method: MethodSettings
    key: Key
    token_logprobs: bool

    async def attempts(self, problem: Problem) -> list[Attempt]:
        """The k graded attempts at one problem."""
        key = self.key.derive(problem.id)
        if as_attempts := SAMPLERS.of(self.method.sampler).as_attempts:
            sampler = as_attempts(self.method.sampler, self.method.k)
            made = await self._samples(problem, sampler, key)
        else:
            made = await _together(
                self._search(problem, sample, key.derive(sample)) for sample in range(self.method.k)
            )
        return await with_classes(made, problem, self.grader)

    async def _samples(self, problem: Problem, sampler: SamplerSettings, key: Key) -> list[Attempt]:
        """Plain samples: the leaves of one tree."""
        tree = await run_sampler(problem, self.engine, None, sampler, key)
        return await _together(
            self._graded(problem, tree, leaf, sample, tokens=len(tree.path_tokens(leaf)))
            for sample, leaf in enumerate(tree.leaves.tolist())
        )

    async def _search(self, problem: Problem, sample: int, key: Key) -> Attempt:
        """A whole search, selected down to one answer."""
        sampler = self.method.sampler
        tree = await run_sampler(problem, self.engine, self.reward_model, sampler, key)
        selection = await select(
            tree,
            sampler.selection,
            lambda text: read_answer(text, problem),
            lambda a, b: self.grader.aequal(a, b, problem.answer_kind),
            key,
        )
        tokens = tree.counts.policy_tokens
        return await self._graded(problem, tree, selection.node, sample, tokens=tokens)

    async def _graded(
        self, problem: Problem, tree: SearchTree, node: int, sample: int, *, tokens: int
    ) -> Attempt:
        grade = await grade_path(tree, node, problem, self.grader)
        return Attempt(
            problem_id=problem.id,
            sample=sample,
            text=tree.path_text(node),
            finish=tree.nodes[node].finish,
            answer=grade.answer,
            status=grade.status,
            tokens=tokens,
            reward_tokens=tree.counts.reward_tokens,
            length=len(tree.path_tokens(node)),
            score=grade.score,
            by_token=tokens_of(tree, node, self.engine) if self.token_logprobs else None,
        )


async def _together(jobs: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of concurrent jobs, in order; the first failure cancels the others."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(job) for job in jobs]
    return [task.result() for task in tasks]

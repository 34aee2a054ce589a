"""Searching questions: ``solve`` for one, ``search`` for many; each also as a coroutine."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack, overload

import yaml

from butwait.api.answers import Solved, solved_of
from butwait.api.evaluating import stored_search
from butwait.api.finished import Finished, Searched
from butwait.api.grown import Grown
from butwait.api.loops import first_alone, run_now
from butwait.api.objects import is_held
from butwait.api.problems import Problems, ProblemSets, problem_of, problems_of
from butwait.api.question import (
    QUESTIONS,
    STAGE,
    Given,
    SearchOptions,
    check_words,
    search_recipe,
    search_words,
    told_by,
    written,
)
from butwait.engines.engine import Engine
from butwait.engines.scheduling.rows import FIXED, Concurrency
from butwait.problems.grading import Grader
from butwait.problems.sources import load_problems
from butwait.problems.verifying import Verify
from butwait.recipe.load import checked_recipe
from butwait.recipe.recipe import Recipe
from butwait.records import Key, Problem, SearchTree, UserError
from butwait.records.settings import Settings
from butwait.reward_models.reward_model import RewardModel
from butwait.search.settings import in_flight
from butwait.stages.kinds import STAGES
from butwait.stages.kinds.search import SearchStage
from butwait.stages.searching import Growing, grown
from butwait.workers.crew import Crew, at_work
from butwait.workers.job import Job
from butwait.workers.loading import loaded, watched

Watch = Callable[[Engine, RewardModel | None], tuple[Engine, RewardModel | None]]
"""Takes what a search is about to use and gives what it uses in its place."""


_SOLVE = ("question", "gold", "watch", *SearchOptions.__annotations__)
"""The arguments of ``solve``."""
_SEARCH = (
    *("problems", "run_dir", "name", "concurrency", "workers", "on_tree"),
    *SearchOptions.__annotations__,
)
"""Those of ``search``."""
OnTree = Callable[[SearchTree], None]


def ignored(tree: SearchTree) -> None:
    """Nobody asked to be told."""


async def asolve(
    question: str | Problem,
    *,
    gold: str | float | None = None,
    watch: Watch | None = None,
    **options: Unpack[SearchOptions],
) -> Solved:
    """``solve`` as a coroutine."""
    check_words("solve", options, _SOLVE)
    asked = problem_of(question, gold, options.get("verifier") is not None)
    plan = _Plan.of("solve", {"source": "question.jsonl"}, [asked], options)
    (problem,) = plan.problems
    with plan.grader() as grader:
        async with plan.loaded() as both:
            policy, judge = watched(*watch(*both)) if watch is not None else both
            began = time.perf_counter()
            tree = await grown(problem, policy, judge, plan.stage.sampler, plan.key, grader)
            seconds = time.perf_counter() - began
        solved = await solved_of(
            tree,
            problem,
            plan.stage.sampler.selection,
            plan.key.derive(problem.id),
            grader,
            seconds,
            plan.written,
        )
    return solved


def solve(
    question: str | Problem,
    *,
    gold: str | float | None = None,
    watch: Watch | None = None,
    **options: Unpack[SearchOptions],
) -> Solved:
    """Searches one question and says what the search says.

    ::

        found = butwait.solve("Calculate 7 + 8 - 6.", model="tiny", particles=8, seed=0)
        print(found.answer, found.weight, found.usage.policy_tokens)

    Args:
        question: its text, or a ``Problem``.
        model: ``tiny``, ``smollm2``, a hub id, a folder, a recipe's ``model``, or what a training
            gave.
        method: a sampler's name (docs/samplers.md), a recipe's ``sampler``, or the record of one's
            own. None: the particle filter.
        particles: paths at a time: a filter's particles, a beam's width, or how many samples;
            None: the sampler's default.
        seed: of every draw. The same seed and the same shapes give the same tree.
        reward_model: a recipe's ``reward_model``, the name of one that needs no more, what
            ``train_prm`` gave, or a ``RewardModel`` of your own. None: the policy's own
            confidence, where the method needs a judge.
        engine: a recipe's ``engine``; the address of a server that speaks OpenAI's protocol; or an
            ``Engine`` that runs and stays open. None: the model is run in this process.
        prompt: a recipe's ``prompt``.
        step: where a step of reasoning ends, and where a path must.
        sampling: temperature, top_p, top_k. This, ``step`` and ``particles`` win over what stands
            in ``method``.
        verifier: judges answers in place of the rules of equality (docs/how_to/verifier.md):
            ``module:function``, or a function, of a notebook too. It is asked in processes that
            are forked from this one before models are loaded, each answer for 20 s at most; what
            fails there is ``ungradable``.
        gold: the right answer, if the paths shall be graded; the search does not see it.
        watch: given the engine and the reward model, returns those that are used: to look on.

    Raises:
        UserError: a mistake in what was given, in one sentence.
    """
    return run_now(asolve(question, gold=gold, watch=watch, **options))


@overload
async def asearch(
    problems: Problems,
    *,
    run_dir: None = None,
    name: None = None,
    concurrency: Concurrency = 64,
    workers: Given | None = None,
    on_tree: OnTree = ignored,
    **options: Unpack[SearchOptions],
) -> list[SearchTree]: ...


@overload
async def asearch(
    problems: ProblemSets,
    *,
    run_dir: str | Path | Finished,
    name: str | None = None,
    concurrency: Concurrency = 64,
    workers: Given | None = None,
    on_tree: OnTree = ignored,
    **options: Unpack[SearchOptions],
) -> Searched: ...


async def asearch(
    problems: Any,
    *,
    run_dir: str | Path | Finished | None = None,
    name: str | None = None,
    concurrency: Concurrency = 64,
    workers: Given | None = None,
    on_tree: OnTree = ignored,
    **options: Unpack[SearchOptions],
) -> list[SearchTree] | Searched:
    """``search`` as a coroutine. On disk it runs in a thread, which goes on where the coroutine is
    cancelled."""
    check_words("search", options, _SEARCH)
    if run_dir is not None:
        return await asyncio.to_thread(
            lambda: stored_search(problems, run_dir, name, concurrency, workers, on_tree, options)
        )
    if name is not None:
        raise UserError("search: name is the name of a stage on disk; give run_dir too")
    given, asked = _problem_set(problems)
    asked_for = None if concurrency == FIXED else concurrency
    plan = _Plan.of("search", given, asked, options, workers, asked_for)
    with first_alone(), plan.grader() as grader:
        async with plan.crew(grader) as crew:

            async def one(problem: Problem) -> SearchTree:
                tree: SearchTree = await crew.do(problem)
                on_tree(tree)
                return tree

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(problem)) for problem in plan.problems]
    trees = (task.result() for task in tasks)
    return Grown(trees, plan.content, None if asked is None else plan.problems, plan.objects)


@overload
def search(
    problems: Problems,
    *,
    run_dir: None = None,
    name: None = None,
    concurrency: Concurrency = 64,
    workers: Given | None = None,
    on_tree: OnTree = ignored,
    **options: Unpack[SearchOptions],
) -> list[SearchTree]: ...


@overload
def search(
    problems: ProblemSets,
    *,
    run_dir: str | Path | Finished,
    name: str | None = None,
    concurrency: Concurrency = 64,
    workers: Given | None = None,
    on_tree: OnTree = ignored,
    **options: Unpack[SearchOptions],
) -> Searched: ...


def search(
    problems: Any,
    *,
    run_dir: str | Path | Finished | None = None,
    name: str | None = None,
    concurrency: Concurrency = 64,
    workers: Given | None = None,
    on_tree: OnTree = ignored,
    **options: Unpack[SearchOptions],
) -> list[SearchTree] | Searched:
    """Searches many questions side by side; their trees, graded, in the order of the questions.

    Args:
        problems: a recipe's ``source`` (``gsm8k``, ``mine.csv``), a whole problem set of a recipe,
            or questions: texts or ``Problem``s.
        run_dir: a run's folder: the search is a stage there, whose trees survive a kill, and the
            same call finds them. A handle of that run goes on with its recipe. None: the trees are
            in memory.
        name: of the stage; ``search``, or that with a number.
        concurrency: questions in flight at a time, of each worker; ``auto``: as many as keep its
            engine's rows full.
        workers: a recipe's ``workers`` (``{"kind": "processes", "count": 2}``): who searches, where
            models are named and not handed in. None: this process.
        on_tree: called with each tree when it is grown, or, of a stage, when all are.
        **options: as of ``solve``: model, method, particles, seed, reward_model, engine, prompt,
            step, sampling, verifier.

    Raises:
        UserError: a mistake in what was given, in one sentence.
    """
    check_words("search", options, _SEARCH)
    if run_dir is not None:
        return stored_search(problems, run_dir, name, concurrency, workers, on_tree, options)
    if name is not None:
        raise UserError("search: name is the name of a stage on disk; give run_dir too")
    return run_now(
        asearch(problems, concurrency=concurrency, workers=workers, on_tree=on_tree, **options)
    )


@dataclass(frozen=True)
class _Plan:
    """A search that was checked: its recipe, and what is handed in beside it."""

    content: dict[str, Any]
    recipe: Recipe
    problems: Sequence[Problem]
    engine: Engine | None
    reward_model: RewardModel | None
    verifiers: Mapping[str, Verify]

    @classmethod
    def of(
        cls,
        function: str,
        given: Given,
        problems: Sequence[Problem] | None,
        options: SearchOptions,
        workers: Given | None = None,
        concurrency: Concurrency | None = None,
    ) -> "_Plan":
        """``function`` is the one that was called, for sentences."""
        content = search_recipe(given, **options)
        if concurrency is not None:
            content["stages"][STAGE]["concurrency"] = concurrency
        if workers is not None:
            content["workers"] = written(workers, "workers")
        words = search_words(content["stages"][STAGE]["sampler"])
        with told_by(function, STAGE, words):
            recipe = checked_recipe(content, STAGES, function)
        asked = recipe.problems[QUESTIONS]
        if problems is None:
            problems = load_problems(asked)
        elif asked.verifier is not None:
            problems = [replace(problem, verifier=asked.verifier) for problem in problems]
        engine, judge, verify = map(options.get, ("engine", "reward_model", "verifier"))
        return cls(
            content,
            recipe,
            problems,
            engine if isinstance(engine, Engine) else None,
            judge if isinstance(judge, RewardModel) else None,
            {str(asked.verifier): verify} if callable(verify) else {},
        )

    def grader(self) -> Grader:
        return Grader(verifiers=self.verifiers)

    @property
    def objects(self) -> list[str]:
        """The arguments that no recipe can say."""
        kept = {"engine": self.engine, "reward_model": self.reward_model}
        held = {
            "verifier": str(self.recipe.problems[QUESTIONS].verifier),
            "method": self.stage.sampler.kind,
        }
        given = [name for name, thing in kept.items() if thing is not None]
        return given + [name for name, place in held.items() if is_held(place)]

    @property
    def written(self) -> str:
        """The recipe as YAML, without a verifier that only this process holds."""
        asked = dict(self.content["problems"][QUESTIONS])
        if is_held(str(asked.get("verifier"))):
            del asked["verifier"]
        content = self.content | {"problems": {QUESTIONS: asked}}
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)

    @property
    def stage(self) -> SearchStage:
        stage = self.recipe.stages[STAGE]
        assert isinstance(stage, SearchStage)
        return stage

    @property
    def key(self) -> Key:
        return Key.of(self.recipe.seed, STAGE)

    def loaded(self) -> Any:
        return loaded(*self._given())

    def crew(self, grader: Grader) -> AbstractAsyncContextManager[Crew]:
        """UserError for objects that workers elsewhere cannot be handed, and for ``skip_failed``,
        which only a stage on disk can keep."""
        workers, concurrency = self.recipe.workers, self.stage.concurrency
        if workers.skip_failed:
            raise UserError(
                "search: workers.skip_failed is for a search on disk; give run_dir too, or leave "
                "it out"
            )
        if workers.kind != "local" and self.objects:
            raise UserError(
                f"search: {', '.join(self.objects)}: an object of this process, which no worker "
                f"elsewhere can be handed; name it (module:NAME), or leave workers out"
            )
        work = Growing(self.stage.sampler, self.key)
        job = replace(Job(work, *self._given()), grader=grader, concurrency=concurrency)
        return at_work(job, workers)

    def _given(self) -> tuple[Any, ...]:
        """The arguments of ``loaded``."""
        return (
            self.recipe.engine if self.engine is None else self.engine,
            self.recipe.model,
            self.recipe.prompt,
            self.stage.reward_model if self.reward_model is None else self.reward_model,
            self.problems,
            [self.stage.sampler.step],
            in_flight(self.stage.sampler, self.problems, self.stage, self.recipe.engine),
        )


def _problem_set(problems: Problems) -> tuple[Given, list[Problem] | None]:
    """What a recipe says of them; and the problems, where no source has to be read for them."""
    if isinstance(problems, str | Path):
        return {"source": str(problems)}, None
    if isinstance(problems, Mapping | Settings):
        return problems, None
    return {"source": "questions.jsonl"}, problems_of(problems)

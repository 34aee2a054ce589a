"""Searching questions: ``solve`` for one, ``search`` for many; each also as a coroutine."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, Unpack

import numpy as np
import yaml

from butwait.api.question import QUESTIONS, STAGE, Given, SearchOptions, search_recipe
from butwait.engines.engine import Engine
from butwait.problems.answers import answer_kind, extract_answer
from butwait.problems.grading import Grader
from butwait.problems.overlap import text_id
from butwait.problems.sources import load_problems
from butwait.recipe.load import checked_recipe
from butwait.recipe.recipe import Recipe
from butwait.records import Key, Problem, SearchTree, UserError
from butwait.records.settings import Settings
from butwait.reward_models.reward_model import RewardModel
from butwait.search.selection import answer_classes, leaf_answers, select
from butwait.search.settings import in_flight
from butwait.stages.kinds import STAGES
from butwait.stages.kinds.search import SearchStage
from butwait.stages.searching import grown, loaded

T = TypeVar("T")

Watch = Callable[[Engine, RewardModel | None], tuple[Engine, RewardModel | None]]
"""Takes what a search is about to use and gives what it uses in its place."""


OnTree = Callable[[SearchTree], None]


def ignored(tree: SearchTree) -> None:
    """Nobody asked to be told."""


@dataclass(frozen=True)
class Usage:
    """What a search cost, all of its particles together, the dead ones too.

    Attributes:
        policy_tokens: tokens that the policy sampled.
        prefilled_tokens: tokens that it ran without sampling them (the prompt).
        reward_tokens: tokens that the reward model ran.
        seconds: of wall time, without loading the models.
    """

    policy_tokens: int
    prefilled_tokens: int
    reward_tokens: int
    seconds: float


@dataclass(frozen=True)
class Solved:
    """What a search says to a question.

    Attributes:
        answer: the one that the search's final weights chose (``selection``); None where no path
            ended with an answer.
        weight: the share in [0, 1] of the final weights that stands behind it.
        text: the solution that speaks for it: the heaviest path with this answer.
        answers: every answer with its share, the heaviest first. Paths without an answer have the
            rest.
        correct: whether the answer is right, where a gold answer was given.
        tree: the whole search.
        usage: what it cost.
        recipe: the recipe whose stage ``search`` grows the same tree, as YAML: with ``question``
            in a file ``question.jsonl``. An engine or a reward model that was given as an object
            is not in it.
    """

    answer: str | None
    weight: float
    text: str
    answers: tuple[tuple[str, float], ...]
    correct: bool | None
    tree: SearchTree
    usage: Usage
    recipe: str

    def row(self) -> dict[str, Any]:
        """What ``butwait solve --json`` prints."""
        return {
            "answer": self.answer,
            "weight": self.weight,
            "usage": asdict(self.usage),
            "answers": [list(pair) for pair in self.answers],
            "correct": self.correct,
            "text": self.text,
        }


async def asolve(
    question: str | Problem,
    *,
    gold: str | None = None,
    watch: Watch | None = None,
    **options: Unpack[SearchOptions],
) -> Solved:
    """``solve`` as a coroutine."""
    problem = _problem(question, gold)
    plan = _Plan.of({"source": "question.jsonl"}, [problem], options)
    with Grader() as grader:
        async with plan.loaded() as both:
            policy, judge = watch(*both) if watch is not None else both
            began = time.perf_counter()
            tree = await grown(problem, policy, judge, plan.stage.sampler, plan.key, grader)
            seconds = time.perf_counter() - began
        return await _solved(plan, problem, tree, seconds, grader)


def solve(
    question: str | Problem,
    *,
    gold: str | None = None,
    watch: Watch | None = None,
    **options: Unpack[SearchOptions],
) -> Solved:
    """Searches one question and says what the search says.

    ::

        found = butwait.solve("Calculate 7 + 8 - 6.", model="tiny", particles=8, seed=0)
        print(found.answer, found.weight, found.usage.policy_tokens)

    Args:
        question: its text, or a ``Problem``.
        model: ``tiny``, ``smollm2``, a hub id, a folder, or a recipe's ``model``.
        method: a sampler's name (docs/samplers.md), or a recipe's ``sampler``. None: the particle
            filter.
        particles: paths at a time: a filter's particles, a beam's width, or how many samples;
            None: the sampler's default.
        seed: of every draw. The same seed and the same shapes give the same tree.
        reward_model: a recipe's ``reward_model``, the name of one that needs no more, or a
            ``RewardModel`` of your own. None: the policy's own confidence, where the method needs
            a judge.
        engine: a recipe's ``engine``; the address of a server that speaks OpenAI's protocol; or an
            ``Engine`` that runs and stays open. None: the model is run in this process.
        prompt: a recipe's ``prompt``.
        step: where a step of reasoning ends, and where a path must.
        sampling: temperature, top_p, top_k. This, ``step`` and ``particles`` win over what stands
            in ``method``.
        gold: the right answer, if the paths shall be graded; the search does not see it.
        watch: given the engine and the reward model, returns those that are used: to look on.

    Raises:
        UserError: a mistake in what was given, in one sentence.
    """
    return run_now(asolve(question, gold=gold, watch=watch, **options))


async def asearch(
    problems: str | Path | Given | Sequence[str | Problem],
    *,
    concurrency: int = 64,
    on_tree: OnTree = ignored,
    **options: Unpack[SearchOptions],
) -> list[SearchTree]:
    """``search`` as a coroutine."""
    given, asked = _problem_set(problems)
    plan = _Plan.of(given, asked, options)
    places = asyncio.Semaphore(concurrency)
    with Grader() as grader:
        async with plan.loaded() as (policy, judge):

            async def one(problem: Problem) -> SearchTree:
                async with places:
                    sampler = plan.stage.sampler
                    tree = await grown(problem, policy, judge, sampler, plan.key, grader)
                on_tree(tree)
                return tree

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(problem)) for problem in plan.problems]
    return [task.result() for task in tasks]


def search(
    problems: str | Path | Given | Sequence[str | Problem],
    *,
    concurrency: int = 64,
    on_tree: OnTree = ignored,
    **options: Unpack[SearchOptions],
) -> list[SearchTree]:
    """Searches many questions side by side; their trees, graded, in the order of the questions.

    Args:
        problems: a recipe's ``source`` (``gsm8k``, ``mine.csv``), a whole problem set of a recipe,
            or questions: texts or ``Problem``s.
        concurrency: questions in flight at a time.
        on_tree: called with each tree when it is grown.
        **options: as of ``solve``: model, method, particles, seed, reward_model, engine, prompt,
            step, sampling.

    For trees on disk, that survive a kill, run a recipe (``butwait.run``).

    Raises:
        UserError: a mistake in what was given, in one sentence.
    """
    return run_now(asearch(problems, concurrency=concurrency, on_tree=on_tree, **options))


@dataclass(frozen=True)
class _Plan:
    """A search that was checked: its recipe, and what is handed in beside it."""

    content: dict[str, Any]
    recipe: Recipe
    problems: Sequence[Problem]
    engine: Engine | None
    reward_model: RewardModel | None

    @classmethod
    def of(
        cls, given: Given, problems: Sequence[Problem] | None, options: SearchOptions
    ) -> "_Plan":
        content = search_recipe(given, **options)
        recipe = checked_recipe(content, STAGES, "the search")
        if problems is None:
            problems = load_problems(recipe.problems[QUESTIONS])
        engine, judge = options.get("engine"), options.get("reward_model")
        return cls(
            content,
            recipe,
            problems,
            engine if isinstance(engine, Engine) else None,
            judge if isinstance(judge, RewardModel) else None,
        )

    @property
    def stage(self) -> SearchStage:
        stage = self.recipe.stages[STAGE]
        assert isinstance(stage, SearchStage)
        return stage

    @property
    def key(self) -> Key:
        return Key.of(self.recipe.seed, STAGE)

    def loaded(self) -> Any:
        return loaded(
            self.recipe.engine if self.engine is None else self.engine,
            self.recipe.model,
            self.recipe.prompt,
            self.stage.reward_model if self.reward_model is None else self.reward_model,
            self.problems,
            [self.stage.sampler.step],
            in_flight(self.stage.sampler, self.problems, self.stage),
        )


async def _solved(
    plan: _Plan, problem: Problem, tree: SearchTree, seconds: float, grader: Grader
) -> Solved:
    kind = problem.answer_kind

    def extract(text: str) -> str | None:
        return extract_answer(text, kind)

    async def equal(a: str, b: str) -> bool:
        return await grader.aequal(a, b, kind)

    key = plan.key.derive(problem.id)
    chosen = await select(tree, plan.stage.sampler.selection, extract, equal, key)
    weights = np.exp(tree.log_weights)
    shares = {
        group.answer: (float(weights[group.leaves].sum()), group.leaves)
        for group in await answer_classes(leaf_answers(tree, extract), equal)
    }
    behind = [share for share, leaves in shares.values() if chosen.leaf in leaves]
    answers = sorted(((a, share) for a, (share, _) in shares.items()), key=lambda pair: -pair[1])
    grade = tree.grades.get(chosen.node)
    return Solved(
        answer=chosen.answer,
        weight=behind[0] if behind and chosen.answer is not None else 0.0,
        text=tree.path_text(chosen.node),
        answers=tuple(answers),
        correct=None if problem.answer is None or grade is None else grade.correct,
        tree=tree,
        usage=Usage(
            tree.counts.policy_tokens,
            tree.counts.prefilled_tokens,
            tree.counts.reward_tokens,
            seconds,
        ),
        recipe=yaml.safe_dump(plan.content, sort_keys=False, allow_unicode=True),
    )


def _problem(question: str | Problem, gold: str | None) -> Problem:
    if isinstance(question, Problem):
        if gold is None:
            return question
        return replace(question, answer=gold, also=(), answer_kind=answer_kind(gold))
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"a question is a text, and this is {question!r}")
    kind = "math" if gold is None else answer_kind(gold)
    return Problem(text_id(question), question, gold, kind)


def _problem_set(
    problems: str | Path | Given | Sequence[str | Problem],
) -> tuple[Given, list[Problem] | None]:
    """What a recipe says of them; and the problems, where no source has to be read for them."""
    if isinstance(problems, str | Path):
        return {"source": str(problems)}, None
    if isinstance(problems, Mapping | Settings):
        return problems, None
    asked = [_problem(question, None) for question in problems]
    twice = [name for name, times in Counter(p.id for p in asked).items() if times > 1]
    if twice:
        told = next(p.question for p in asked if p.id == twice[0])
        raise UserError(f"a question stands there twice: {told[:80]!r}")
    return {"source": "questions.jsonl"}, asked


def run_now(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine; in a notebook, whose loop is running, by a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    results: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            results.append(asyncio.run(work))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="butwait")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return results[0]
